"""Reads the next entries of a worker's lanes in a thread, while those before them are applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

from ledger.events import Entry, Seen
from ledger.projection.lanes import MANY, Lane
from ledger.store.ledgers import PAGE_BYTES, size_of
from ledger.stream.reader import Reader

Batches: TypeAlias = dict[int, list[Seen]]
"""Entries to apply, by ledger_id."""
LARGE = PAGE_BYTES + PAGE_BYTES // 2
"""Bytes of bodies after which nothing is read ahead. A read ends soon after PAGE_BYTES, but for the largest bodies."""


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
