"""Takes events for append_many, batch by batch, and counts what came of them. Shared by both colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ledger.canonical import Draft
from ledger.chain import Link
from ledger.errors import InvalidEvent, LedgerError
from ledger.events import Appended, Event, Receipt
from ledger.repeats import Outcome, Repeat
from ledger.writer import prepare

BATCH = 10_000
BATCH_BYTES = 8 * 1024 * 1024
"""append_many commits after so many entries, or about so many bytes, whichever comes first."""
FIRST_BATCH = 1000
"""Events of the first batch, when it is not known yet how large they are."""


class Gathering:
    """The events of one append_many.

    Whatever ends the events early (a bad one, the caller's own exception) is kept until all before it are recorded.
    """

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self.size = FIRST_BATCH
        self._taken = 0
        self._failure: Exception | None = None
        self._source_failure: Exception | None = None
        self._count = 0
        self._last: Receipt | None = None

    @property
    def failed(self) -> bool:
        """Nothing more may be recorded: it would stand behind what failed."""
        return self._failure is not None

    def pull(self, events: Iterator[Event]) -> list[Event]:
        """The next batch; empty at the end. The caller's own code runs here, and nowhere else."""
        pulled: list[Event] = []
        try:
            if self._source_failure is None:
                pulled.extend(islice(events, self.size))
        except Exception as error:
            self.source_failed(error)
        return pulled

    def source_failed(self, error: Exception) -> None:
        """The caller's iterable raised; what it gave before is still to be recorded."""
        self._source_failure = error

    def drafts(self, events: Sequence[Event]) -> Drafts:
        return Drafts(self._made(events))

    def add(self, outcomes: list[Outcome]) -> None:
        last: Link | Repeat | None = None
        for outcome in outcomes:
            if isinstance(outcome, LedgerError):
                self.fail(outcome)
                break
            self._count += isinstance(outcome, Link)
            last = outcome
        if last is not None:
            self._last = last.receipt

    def fail(self, error: Exception) -> None:
        self._failure = error

    def result(self) -> Appended:
        """What was recorded. Raises what ended it early, with a note of what was recorded before."""
        failure = self._failure or self._source_failure
        if failure is not None:
            where = f"up to position {self._last.position}" if self._last else "nothing"
            failure.add_note(f"Recorded before it: {self._count} entries, {where}.")
            raise failure
        return Appended(self._count, self._last)

    def _made(self, events: Sequence[Event]) -> Iterator[Draft]:
        """Drafts of the events, up to the first bad one."""
        size = 0
        for event in events:
            try:
                draft = prepare(event, self.ledger)
            except InvalidEvent as error:
                self.fail(InvalidEvent(f"event {self._taken + 1}: {error.path}", error.problem))
                return
            self._taken += 1
            size += draft.size
            yield draft
        self.size = max(1, min(BATCH, BATCH_BYTES * len(events) // max(1, size)))


class Drafts:
    """Drafts that are made while they are sent. Remembers them, for when they have to be sent again."""

    def __init__(self, source: Iterator[Draft]) -> None:
        self.made: list[Draft] = []
        self._source = source

    def __iter__(self) -> Iterator[Draft]:
        yield from self.made
        for draft in self._source:
            self.made.append(draft)
            yield draft


def receipt_of(outcome: Outcome) -> Receipt:
    """The receipt; raises the conflict where there is one instead."""
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome.receipt
