"""The projections of one ledger that read together, what is read ahead for them, and those that a worker leaves out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from ledger.errors import LedgerError
from ledger.events import Entry, Seen
from ledger.projection.base import Projection, ViewPosition
from ledger.store.ledgers import PAGE, PAGE_BYTES, LedgerEnd, size_of
from ledger.stream.reader import Reader
from ledger.telemetry import COUNTERS, FAILURES

Reached: TypeAlias = tuple[ViewPosition, Projection]
"""A projection with its position in one ledger."""
Positions: TypeAlias = dict[int, list[Reached]]
"""By ledger_id."""
Batches: TypeAlias = dict[int, list[Seen]]
"""Entries to apply, by ledger_id."""

log = logging.getLogger("ledger.projector")

BATCH = 2500
"""Entries that are read at a time, if they come to less than PAGE_BYTES: the more, the fewer rows are written by views
that have one row for many entries."""
MANY = 100
"""From so many entries on each projection applies them in a thread and a transaction of its own, and the next ones are
read meanwhile."""
LARGE = PAGE_BYTES + PAGE_BYTES // 2
"""Bytes of bodies after which nothing is read ahead. A read ends soon after PAGE_BYTES, but for the largest bodies."""


@dataclass(slots=True)
class Lane:
    """Projections of one ledger that read together: they are at the reader's tail, or not far ahead of it."""

    reader: Reader
    projections: list[Projection]

    @property
    def place(self) -> tuple[int, int]:
        """The ledger's id, and the position that is read next."""
        return self.reader.ledger.ledger_id, self.reader.tail.position + 1


def lanes_of(ledger_end: LedgerEnd, positions: Sequence[Reached]) -> list[Lane]:
    """The lanes of a ledger's projections, in order: those near each other read together, from the slowest on.

    A projection that is far behind, because it is new or was blocked, reads alone and holds up no other.
    """
    lanes: list[Lane] = []
    for view_position, projection in sorted(positions, key=lambda each: each[0].position):
        if not lanes or view_position.position - lanes[-1].reader.tail.position > PAGE:
            epoch = view_position.epoch if view_position.position else ledger_end.epoch
            lanes.append(Lane(Reader(ledger_end.ledger, view_position.tail, epoch), []))
        lanes[-1].projections.append(projection)
    return lanes


class ReadAhead:
    """One read of all lanes beyond what is being applied, kept until it is taken or the lanes turn out to be elsewhere.

    read: the read itself, which must not move the readers that it is given.
    """

    def __init__(self, read: Callable[[Sequence[Reader]], Batches]) -> None:
        self._read = read
        self._readers: list[Reader] = []
        self._batches: Batches = {}

    @contextmanager
    def beyond(self, lanes: Mapping[int, Lane], batches: Batches) -> Iterator[None]:
        """Reads what comes after these batches while the block applies them. A read that fails is none.

        Not after a few entries, because there are hardly more; nor after the largest, to hold no two such batches.
        """
        size = size_of(each for entries in batches.values() for each in entries if isinstance(each, Entry))
        if size > LARGE or not any(len(entries) >= MANY for entries in batches.values()):
            yield
            return
        readers = [
            replace(lane.reader, tail=batches[ledger_id][-1].tail) if ledger_id in batches else replace(lane.reader)
            for ledger_id, lane in lanes.items()
        ]
        with ThreadPoolExecutor(1) as executor:
            reading = executor.submit(self._read, readers)
            yield
        if reading.exception() is None:
            self._readers, self._batches = readers, reading.result()

    def take(self, lanes: Mapping[int, Lane]) -> Batches:
        """What was read ahead, if the lanes are where it begins: their readers are then the ones that read it."""
        readers, batches = self._readers, self._batches
        self._readers, self._batches = [], {}
        if [(reader.ledger, reader.tail) for reader in readers] != [
            (lane.reader.ledger, lane.reader.tail) for lane in lanes.values()
        ]:
            return {}
        for lane, reader in zip(lanes.values(), readers, strict=True):
            lane.reader = reader
        return batches


def ahead_of(ends: Sequence[LedgerEnd], positions: Positions) -> list[tuple[LedgerEnd, Reached]]:
    """The projections that have seen more than their ledger has."""
    return [
        (ledger_end, each)
        for ledger_end in ends
        for each in positions.get(ledger_end.ledger.ledger_id, ())
        if each[0].position > ledger_end.position
    ]


class LeftOut:
    """What a worker leaves out, because somebody changed tables or view positions by hand: 'replay' repairs it.

    Errors go by `<projection>`, or `<ledger> <projection>`.
    """

    def __init__(self) -> None:
        self.errors: Mapping[str, LedgerError] = {}

    def update(self, errors: Mapping[str, LedgerError]) -> None:
        """Puts these errors in place of those before. Logs and counts each that is new or another one."""
        for name, error in errors.items():
            if str(self.errors.get(name)) != str(error):
                log.error("%s: left out: %s", name, error)
                COUNTERS.add(FAILURES, "project", type(error).__name__, name.rpartition(" ")[2])
        self.errors = errors
