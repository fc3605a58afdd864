"""How long a reader waits. Shared by both colours; does no waiting itself."""

from __future__ import annotations

import time

from ledger.errors import WaitTimeout
from ledger.events import Receipt
from ledger.stream import LONGEST_BLOCK


class Quiet:
    """Has it been quiet for too long? idle: seconds, None for never. They are counted from the first read on."""

    def __init__(self, idle: float | None) -> None:
        self._idle = idle
        self._since: float | None = None

    def broken(self) -> None:
        self._since = time.monotonic()

    @property
    def over(self) -> bool:
        if self._idle is None or self._since is None:
            return False
        return time.monotonic() - self._since >= self._idle

    @property
    def wait(self) -> float:
        """How long the read that comes now may block, in seconds."""
        if self._since is None:
            self._since = time.monotonic()
        if self._idle is None:
            return LONGEST_BLOCK
        return min(LONGEST_BLOCK, max(0.001, self._idle - (time.monotonic() - self._since)))


class Patience:
    """Until when to wait for a projection."""

    def __init__(self, receipt: Receipt | int, projection: str, timeout: float) -> None:
        self._position = receipt if isinstance(receipt, int) else receipt.position
        self._projection = projection
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def short_of(self, reached: int) -> bool:
        """Is there still to wait? Raises WaitTimeout when the time is over."""
        if reached >= self._position:
            return False
        if time.monotonic() >= self._end:
            raise WaitTimeout(
                f"projection {self._projection!r} stands at {reached}, not yet at {self._position}, "
                f"after {self._timeout:g} s: is 'auditledger project' running?"
            )
        return True
