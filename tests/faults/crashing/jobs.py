"""What a job is: something that writes, brought to grief, run again, and looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid5

import psycopg

from ledger import Entry, Event, Ledger, Receipt, Unavailable
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.support.api import AsyncApi, SyncApi
from tests.support.helpers import checked, receipt_of

T = TypeVar("T")

NAMESPACE = UUID("5b0f6a58-7d5f-4d7c-9a70-2f3f5d1f5a11")
BATCH = 4
"""Entries in one batch of whatever works in batches, so that a few make several."""

Tell = Callable[..., None]
"""Tells the process that watches what was handed out: (what, receipt …). It knows of it whatever comes then."""


@dataclass
class World:
    """What a test holds all along, in its own process."""

    ledger: Ledger
    admin: psycopg.Connection
    relay: Relay


@dataclass
class Job:
    """One run of a job on the ledger `main`. It behaves as an application is told to: what is safe it tries again.

    name: no other run's; it is the resource of its entries. folder: the test's own. kind: whose appends, Ledger's or
    AsyncLedger's. named: its events have ids of their own, so that another process can say them again.
    """

    name: str
    settings: Settings
    folder: Path
    kind: type[SyncApi] | type[AsyncApi] = SyncApi
    named: bool = True

    count = 0
    """How many events it says."""

    def prepare(self, world: World) -> None:
        """What must be there before, undisturbed."""

    def run(self, tell: Tell) -> None:
        """The job itself, in a process of its own. It is run again, from the beginning, where that was killed."""
        raise NotImplementedError

    def look(self, world: World) -> None:
        """Is nothing half done, before anything starts again? May bring the others to do their work meanwhile."""

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        """Was everything done, once, when it had run again? told: by all runs."""
        entries = checked(world.ledger)
        check_receipts(entries, told)
        assert sorted(entry.after["number"] for entry in self.entries(entries)) == list(range(self.count))

    def opened(self) -> closing[SyncApi | AsyncApi]:
        return closing(self.kind(self.settings))

    def event(self, number: int, **fields: Any) -> Event:
        given: dict[str, Any] = {"id": uuid5(NAMESPACE, f"{self.name} {number}") if self.named else None} | fields
        return Event(
            actor="user:42",
            action="case.went_on",
            resource_type="case",
            resource_id=self.name,
            after={"number": number},
            **given,
        )

    def events(self, count: int, first: int = 0) -> Iterator[Event]:
        return map(self.event, range(first, first + count))

    def entries(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of its own events."""
        return [entry for entry in entries if (entry.resource_type, entry.resource_id) == ("case", self.name)]


def again(act: Callable[[], T]) -> T:
    """A second try, where the first says that one is safe."""
    try:
        return act()
    except Unavailable:
        return act()


def check_receipts(entries: Sequence[Entry], told: Sequence[tuple[Any, ...]]) -> None:
    """Every receipt that was handed out is true, and what was said again got the same."""
    recorded = {entry.position: receipt_of(entry) for entry in entries}
    first: dict[Any, Receipt] = {}
    for what, receipt in told:
        assert recorded.get(receipt.position) == receipt, f"a false receipt of {what}"
        assert first.setdefault(what, receipt) == receipt, f"two receipts of {what}"
