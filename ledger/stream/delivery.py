"""What a consumer of a group is given: an entry, and what it may say about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from ledger.effects import Plan
from ledger.events import Entry
from ledger.stream.wire import StreamId


class PendingEntry(NamedTuple):
    """An entry that a consumer holds until it is acknowledged. tries: as in Delivery.

    leased: it came from Postgres, and is held by a lease instead of the group's list of pending entries.
    """

    id: StreamId
    entry: Entry
    tries: int
    leased: bool = False


class Holder(Protocol):
    """The consumer that holds a claim; plans."""

    def acknowledge(self, pending: PendingEntry) -> Plan[None]: ...
    def extend(self, pending: PendingEntry, seconds: float) -> Plan[None]: ...
    def refuse(self, pending: PendingEntry, reason: str, delay: float) -> Plan[None]: ...


class Delivery:
    """An entry to deal with: do, then `ack()`. tries: delivery attempts, this one included."""

    def __init__(self, pending: PendingEntry, holder: Holder, run: Callable[[Plan[None]], None]) -> None:
        self.entry = pending.entry
        self.tries = pending.tries
        self._claim, self._holder, self._run = pending, holder, run

    def ack(self) -> None:
        """It is dealt with, and is not delivered to this group again."""
        self._run(self._holder.acknowledge(self._claim))

    def extend(self, seconds: float) -> None:
        """It takes longer: not delivered again before so many seconds from now, whatever `claim_after` says."""
        self._run(self._holder.extend(self._claim, seconds))

    def nack(self, reason: str, delay: float = 0.0) -> None:
        """It could not be dealt with: delivered again after `delay` seconds, or, after `max_tries`, a dead letter.

        reason: shown with the dead letter; no personal data.
        """
        self._run(self._holder.refuse(self._claim, reason, delay))


class AsyncDelivery:
    """`Delivery` for asyncio."""

    def __init__(self, pending: PendingEntry, holder: Holder, run: Callable[[Plan[None]], Awaitable[Any]]) -> None:
        self.entry = pending.entry
        self.tries = pending.tries
        self._claim, self._holder, self._run = pending, holder, run

    async def ack(self) -> None:
        """As Delivery.ack."""
        await self._run(self._holder.acknowledge(self._claim))

    async def extend(self, seconds: float) -> None:
        """As Delivery.extend."""
        await self._run(self._holder.extend(self._claim, seconds))

    async def nack(self, reason: str, delay: float = 0.0) -> None:
        """As Delivery.nack."""
        await self._run(self._holder.refuse(self._claim, reason, delay))
