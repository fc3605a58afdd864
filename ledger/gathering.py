"""Takes events for append_many, batch by batch, and counts what came of them. Shared by both colours."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.canonical import Draft
from ledger.errors import InvalidEvent, LedgerError
from ledger.events import Appended, Event, Receipt
from ledger.store import Outcome
from ledger.writer import prepare

BATCH = 10_000
BATCH_BYTES = 8 * 1024 * 1024
"""append_many commits after so many entries, or about so many bytes, whichever comes first."""


class Gathering:
    """The events of one append_many.

    Whatever ends the events early (a bad one, the caller's own exception) is kept until all before it are recorded.
    """

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self.taken = 0
        self.failure: Exception | None = None
        self.stopped = False
        self.count = 0
        self.last: Receipt | None = None

    def batch(self, events: Iterator[Event]) -> list[Draft]:
        """The next batch; empty at the end."""
        drafts: list[Draft] = []
        size = 0
        while self.failure is None and len(drafts) < BATCH and size < BATCH_BYTES:
            try:
                event = next(events)
            except StopIteration:
                break
            except Exception as error:
                self.failure = error
                break
            try:
                drafts.append(prepare(event, self.ledger))
            except InvalidEvent as error:
                self.failure = InvalidEvent(f"event {self.taken + 1}: {error.path}", error.problem)
                break
            self.taken += 1
            size += drafts[-1].size
        return drafts

    def add(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, LedgerError):
                self.stop(outcome)
                break
            self.count += isinstance(outcome, Receipt)
            self.last = receipt_of(outcome)

    def stop(self, error: Exception) -> None:
        """Nothing more may be recorded: it would stand behind what failed."""
        self.failure, self.stopped = error, True

    def result(self) -> Appended:
        if self.failure is not None:
            where = f"up to position {self.last.position}" if self.last else "nothing"
            self.failure.add_note(f"Recorded before it: {self.count} entries, {where}.")
            raise self.failure
        return Appended(self.count, self.last)


def receipt_of(outcome: Outcome) -> Receipt:
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome if isinstance(outcome, Receipt) else outcome.receipt
