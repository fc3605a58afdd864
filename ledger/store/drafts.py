"""Drafts of events, one by one and in the batches of append_many. Shared by both clients.

What format/canonical.py leaves to others because it is pure is added here: the clock, an id, a salt.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ledger.drivers import forks
from ledger.errors import IdempotencyConflict, InvalidEvent, LedgerError
from ledger.events import Appended, Event, Receipt
from ledger.format import native
from ledger.format.canonical import Draft, draft
from ledger.format.chain import LINKS
from ledger.store.idempotency import Outcome


def prepare(event: Event, ledger: str, *, own: bool = False, now: int | None = None) -> Draft:
    """A draft with the time, a UUIDv7 and a salt. Raises InvalidEvent.

    own: allow the ledger's own actions. now: nanoseconds since 1970; None for the clock's.
    """
    if not isinstance(event, Event):
        raise InvalidEvent("event", f"must be an Event, not {type(event).__name__}")
    randomness = os.urandom(26)
    if now is None:
        now = time.time_ns()
    if native.encoder is not None:
        made: Draft | None = native.encoder.prepare(event, ledger, now, randomness, own)
        if made is not None:
            return made
    microseconds = now // 1000 - _FROM_1970_TO_2000
    return draft(event, ledger, now=microseconds, entry_id=uuid7(now, randomness), salt=randomness[10:], own=own)


def prepare_next(
    events: Iterator[Event], ledger: str, drafts: list[Draft], most: int, size: int, most_bytes: int
) -> tuple[tuple[Event] | None, int]:
    """Appends drafts of the next events to `drafts`, by the native core, until there are `most` or take `most_bytes`.

    size: the bytes that `drafts` takes. Returns an event that is left to `prepare`, before which it stopped, in a tuple
    (what comes may be None, which is no event), or None; and the bytes that `drafts` takes now.
    """
    left: tuple[Event] | None
    left, size = native.encoder.take(events, ledger, drafts, most, size, most_bytes, time.time_ns, os.urandom)
    return left, size


_FROM_1970_TO_2000 = 946_684_800_000_000
"""Microseconds."""


def uuid7(now: int, randomness: bytes) -> bytes:
    """RFC 9562, section 5.7, with the sub-millisecond fraction of section 6.2, method 3.

    now: nanoseconds since 1970. randomness: 10 bytes or more.
    """
    milliseconds, nanoseconds = divmod(now, 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    rest = int.from_bytes(randomness[:8], "big") & (1 << 62) - 1
    return _UUID.pack((milliseconds & (1 << 48) - 1) << 16 | 7 << 12 | fraction, 2 << 62 | rest)


_UUID = struct.Struct(">QQ")


# ---------------------------------------------------------------------------------------------------------- append_many

BATCH = 10_000
BATCH_BYTES = 8 * 1024 * 1024
"""append_many commits after so many entries, or about so many bytes, whichever comes first."""
FIRST_BATCH = 1000
"""Entries of the first batch, so that Postgres begins soon."""


class Gathering:
    """The events of one append_many.

    Whatever ends the events early (a bad one, the caller's own exception) is kept until all before it are recorded.
    """

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self._batch: list[Draft] = []
        self._most, self._bytes = FIRST_BATCH, 0
        self._taken = 0
        self._failure: Exception | None = None
        self._source_failure: Exception | None = None
        self._count = 0
        self._last: Receipt | None = None

    @property
    def ended(self) -> bool:
        """Whether the iterable, or one of its events, failed: no more may be pulled."""
        return self._source_failure is not None

    @property
    def failed(self) -> bool:
        """Whether a batch failed: nothing after it may be recorded."""
        return self._failure is not None

    def pull(self, events: Iterator[Event]) -> list[Draft]:
        """The next batch; empty at the end. The caller's own code runs here, and nowhere else."""
        if not self.ended:
            with self.pulling():
                if native.encoder is None:
                    for event in events:
                        if not self.take(event):
                            break
                else:
                    self._take_natively(events)
        return self.batch()

    def _take_natively(self, events: Iterator[Event]) -> None:
        """Takes events until the batch is full; Python takes those that the native core leaves to it."""
        while True:
            before = len(self._batch)
            left, self._bytes = prepare_next(events, self.ledger, self._batch, self._most, self._bytes, BATCH_BYTES)
            self._taken += len(self._batch) - before
            if left is None or not self.take(*left):
                return

    def take(self, event: Event) -> bool:
        """Encodes an event as it is now: its iterable may use it again for the next. False: the batch is full.

        Raises InvalidEvent.
        """
        try:
            draft = prepare(event, self.ledger)
        except InvalidEvent as error:
            raise InvalidEvent(f"event {self._taken + 1}: {error.path}", error.problem) from None
        self._taken += 1
        self._batch.append(draft)
        self._bytes += draft.size
        return len(self._batch) < self._most and self._bytes < BATCH_BYTES

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Around what pulls a batch: what the iterable raises is kept, as is an event's own fault.

        All before it is still to be recorded.
        """
        try:
            yield
        except Exception as error:
            self._source_failure = error

    def batch(self) -> list[Draft]:
        """What was taken since the last batch."""
        taken, self._batch, self._bytes = self._batch, [], 0
        self._most = min(BATCH, 4 * self._most)
        return taken

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Counts what came of a batch, of which at most the last outcome is a conflict."""
        self._count += count_new(outcomes)
        try:
            self._last = outcomes[-1].receipt()
        except IdempotencyConflict as conflict:
            self.fail(conflict)
            if len(outcomes) > 1:
                self._last = outcomes[-2].receipt()

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


def count_new(outcomes: Sequence[Outcome]) -> int:
    """How many of these this append recorded."""
    if isinstance(outcomes, LINKS):
        return len(outcomes)
    return sum([outcome.is_new for outcome in outcomes])


_PAUSE = 100
"""Events that are encoded without letting other tasks run."""


async def pull(source: Iterator[Event] | AsyncIterator[Event], gathering: Gathering) -> list[Draft]:
    """`Gathering.pull`, awaited."""
    if not gathering.ended:
        with gathering.pulling():
            async for event in source if isinstance(source, AsyncIterator) else _paused(source):
                if not gathering.take(event):
                    break
    return gathering.batch()


async def _paused(source: Iterator[Event]) -> AsyncIterator[Event]:
    for number, event in enumerate(source, start=1):
        yield event
        if number % _PAUSE == 0:
            await asyncio.sleep(0)


def gather(
    gathering: Gathering, events: Iterator[Event], write: Callable[[list[Draft]], Sequence[Outcome]]
) -> Appended:
    """Pulls each batch while a thread of its own writes the one before it."""
    begun = forks.Begun("append_many()")
    with ThreadPoolExecutor(1) as executor:
        under_way: Future[Sequence[Outcome]] | None = None
        while True:
            pulled = gathering.pull(events)
            begun.check()
            if under_way is not None:
                try:
                    gathering.add(under_way.result())
                except LedgerError as error:
                    gathering.fail(error)
            if not pulled or gathering.failed:
                return gathering.result()
            under_way = executor.submit(write, pulled)
