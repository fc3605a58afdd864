"""Deliveries: what a consumer of a group gets, an entry that it acknowledges, extends or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from ledger.effects import Plan
from ledger.events import Entry
from ledger.stream.wire import StreamId


class PendingEntry(NamedTuple):
    """An entry that a consumer holds until it is acknowledged. tries: delivery attempts, this one included.

    leased: it came from Postgres, and is held by a lease instead of the group's list of pending entries.
    """

    id: StreamId
    entry: Entry
    tries: int
    leased: bool = False


class Holder(Protocol):
    """The consumer that holds a pending entry. Its methods are plans."""

    def acknowledge(self, pending: PendingEntry) -> Plan[None]: ...
    def extend(self, pending: PendingEntry, seconds: float) -> Plan[None]: ...
    def refuse(self, pending: PendingEntry, reason: str, delay: float) -> Plan[None]: ...


class Delivery:
    """An entry to deal with, and then to `ack()`. tries: delivery attempts, this one included."""

    def __init__(self, pending: PendingEntry, holder: Holder, run: Callable[[Plan[None]], None]) -> None:
        self.entry = pending.entry
        self.tries = pending.tries
        self._pending, self._holder, self._run = pending, holder, run

    def ack(self) -> None:
        """Acknowledges the entry: it is not delivered to this group again."""
        self._run(self._holder.acknowledge(self._pending))

    def extend(self, seconds: float) -> None:
        """Extends the visibility timeout: the entry is not redelivered for so many seconds from now."""
        self._run(self._holder.extend(self._pending, seconds))

    def nack(self, reason: str, delay: float = 0.0) -> None:
        """Refuses the entry: it is redelivered after `delay` seconds, or a dead letter after `max_tries` attempts.

        reason: shown with the dead letter; no personal data.
        """
        self._run(self._holder.refuse(self._pending, reason, delay))


class AsyncDelivery:
    """`Delivery` for asyncio."""

    def __init__(self, pending: PendingEntry, holder: Holder, run: Callable[[Plan[None]], Awaitable[Any]]) -> None:
        self.entry = pending.entry
        self.tries = pending.tries
        self._pending, self._holder, self._run = pending, holder, run

    async def ack(self) -> None:
        """As Delivery.ack."""
        await self._run(self._holder.acknowledge(self._pending))

    async def extend(self, seconds: float) -> None:
        """As Delivery.extend."""
        await self._run(self._holder.extend(self._pending, seconds))

    async def nack(self, reason: str, delay: float = 0.0) -> None:
        """As Delivery.nack."""
        await self._run(self._holder.refuse(self._pending, reason, delay))
