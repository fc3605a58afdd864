"""Where one worker has stopped: before an entry that does not hold, or at a stream that cannot be used.

It looks again after growing pauses: the entry may have been quarantined or restored meanwhile. Other ledgers go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import NamedTuple

from ledger.drivers.pools import Connector
from ledger.effects import Plan, Query
from ledger.errors import LedgerError
from ledger.store.ledgers import LedgerRef
from ledger.store.quarantine import SQL
from ledger.telemetry import COUNTERS, FAILURES

log = logging.getLogger("ledger.stops")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before it looks again: after the first time, and at most."""


class _Stop(NamedTuple):
    """error: why. attempts: in vain. due: when it looks again, on the monotonic clock."""

    error: LedgerError
    attempts: int
    due: float


class Stops:
    """Of one worker. job: its name in the metrics. What is stopped goes by any key that the worker chooses."""

    def __init__(self, connector: Connector, job: str) -> None:
        self._connector = connector
        self._job = job
        self._stops: dict[Hashable, _Stop] = {}

    @property
    def errors(self) -> list[LedgerError]:
        return [stop.error for stop in self._stops.values()]

    def waits(self, key: Hashable) -> bool:
        stop = self._stops.get(key)
        return stop is not None and stop.due > time.monotonic()

    def look_again(self) -> None:
        """Lets all be tried at once."""
        self._stops = {key: stop._replace(due=0.0) for key, stop in self._stops.items()}

    def stopped(
        self,
        key: Hashable,
        ledger: LedgerRef,
        error: LedgerError,
        *,
        position: int | None = None,
        pause: float | None = None,
        quiet: bool = False,
    ) -> None:
        """It stopped. Logged once a change, unless quiet.

        position: of an entry that does not hold, which is noted in the database, where `status` finds it. pause:
        seconds until it looks again; None: longer each time.
        """
        before = self._stops.get(key)
        attempts = 1 if before is None else before.attempts + 1
        if pause is None:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts - 1, 10))
        self._stops[key] = _Stop(error, attempts, time.monotonic() + pause)
        COUNTERS.add(FAILURES, self._job, type(error).__name__, "")
        if not quiet and (before is None or str(before.error) != str(error)):
            log.error("ledger %r: %s", ledger.name, error, extra={"position": position})
        if position is not None:  # each time: others may have noted so many that this one is gone
            with suppress(LedgerError):  # a role that may not, or a database that is away: the log has it
                self._connector.run(_suspect(ledger, position))

    def passed(self, key: Hashable, ledger: LedgerRef) -> None:
        """It has come past that, if it had stopped."""
        if self._stops.pop(key, None) is not None:
            log.info("%s goes on in ledger %r", self._job, ledger.name)


def _suspect(ledger: LedgerRef, position: int) -> Plan[None]:
    yield Query(SQL["suspect"], (ledger.ledger_id, position))
