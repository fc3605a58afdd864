"""The ledger's entries for what Redis delivers to a consumer group: Postgres decides what they are, and which exist.

An erased entry is deleted from the stream, so that Redis does not deliver it: there is a gap. The consumer that gets
the entry after a gap gets those of the gap first, without their bodies, from Postgres; and again if that entry is
redelivered. An entry that is erased after it was delivered stays pending, as any other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from operator import itemgetter
from typing import Any, TypeAlias

from ledger.effects import Command, Plan, Query, foreseen
from ledger.errors import ChainBroken
from ledger.events import Entry
from ledger.store import quarantine
from ledger.store.durability import Durable
from ledger.store.ledgers import SQL, LedgerRef, read
from ledger.stream import commands, wire
from ledger.stream.delivery import PendingEntry
from ledger.stream.group_offset import GroupOffset
from ledger.stream.wire import StreamId

log = logging.getLogger("ledger.subscription")

Row: TypeAlias = tuple[StreamId, Any, int]
"""An entry's id, its fields (None if it was deleted from the stream), and its delivery attempts."""


class GroupEntries:
    """The entries of one ledger for one consumer of a group. Its methods are plans."""

    def __init__(self, ledger: LedgerRef, durable: Durable, group: str, offset: GroupOffset) -> None:
        self._ledger = ledger
        self._durable = durable
        self._key = wire.key(ledger.name)
        self._group = group
        self._offset = offset
        self._newest: StreamId | None = None

    def known(self, rows: Sequence[Row]) -> Plan[list[Row]]:
        """The new rows up to the first that the ledger does not have, before which the group waits.

        The ledger may get that entry one day; or the stream is that of a database that was restored.
        """
        epoch, end = yield from commands.end_of(self._ledger)
        known = list(takewhile(lambda row: 1 <= row[0].position <= end, rows))
        unknown = [str(id_) for id_, _, _ in rows[len(known) :]]
        if not unknown:
            return known
        log.warning("entry %s of the stream is not the ledger's: group %r waits before it", unknown[0], self._group)
        yield Command(("XACK", self._key, self._group, *unknown))
        before = known[-1][0] if known else (yield from self._id_before(unknown[0]))
        if before is None or before.epoch != epoch or not 1 <= before.position <= end:
            before = StreamId(epoch, (yield from self._offset.committed()))
        yield from commands.move_group(self._ledger.name, self._group, before)
        return known

    def new(self, rows: Sequence[Row]) -> Plan[list[PendingEntry]]:
        """The entries of new rows, which the ledger has, with those of the gaps before and between them."""
        gaps = yield from self._new_gaps([id_ for id_, _, _ in rows])
        return (yield from self.pending([*rows, *gaps]))

    def pending(self, rows: Sequence[Row]) -> Plan[list[PendingEntry]]:
        """The entries of rows, in order, as the ledger has them whatever Redis says.

        Quarantined ones are acknowledged, and delivered to nobody. The list ends before an entry that does not hold;
        raises ChainBroken if that is the first.
        """
        if not rows:
            return []
        pendings: list[PendingEntry] = []
        positions = [stream_id.position for stream_id, _, _ in rows]
        hashes = dict((yield Query(SQL["hashes"], (self._ledger.ledger_id, positions))))
        for stream_id, fields, tries in sorted(rows, key=itemgetter(0)):
            entry = wire.parse(fields)
            if entry is None or entry.hash != hashes.get(stream_id.position):
                try:
                    entry = yield from self.stored(stream_id.position)
                except ChainBroken:
                    if pendings:  # first what is before it
                        return pendings
                    raise
            if entry is None:
                yield Command(("XACK", self._key, self._group, str(stream_id)))
                continue
            pendings.append(PendingEntry(stream_id, entry, tries))
        return pendings

    def stored(self, position: int) -> Plan[Entry | None]:
        """An entry from Postgres, durable; None if it is quarantined. Raises ChainBroken if it does not hold."""
        entries = yield from read(self._ledger, position - 1, 1, position)
        for entry in filter(quarantine.holds, entries):
            yield from self._durable.up_to(self._ledger, entry.position, entry.hash)
            return entry
        if (yield from quarantine.passed(self._ledger, position, datetime.now(UTC))) is None:
            problem = "its hash or its body is not true" if entries else "it is not in the database"
            raise ChainBroken(position, problem, self._ledger.name)
        return None

    def gaps(self, pairs: Iterable[tuple[StreamId, StreamId, int]]) -> Plan[list[Row]]:
        """The entries that were deleted from the stream between two that followed one another in it.

        pairs: of two such ids, with the delivery attempts of the second, which are those of the entries between them.
        """
        wide = [pair for pair in pairs if pair[0].epoch == pair[1].epoch and pair[0].position + 1 < pair[1].position]
        if not wide:
            return []
        # An entry that was dealt with before it was deleted, by erasure or by trimming, is not delivered again.
        done = yield from self._offset.committed()
        return [
            (StreamId(last.epoch, position), None, tries)
            for first, last, tries in wide
            for position in range(max(first.position, done) + 1, last.position)
        ]

    def _new_gaps(self, ids: Sequence[StreamId]) -> Plan[list[Row]]:
        """The gaps before and between ids that were delivered together.

        An entry in a gap belongs to the next entry that is still in the stream, so that one consumer only finds it.
        """
        before, self._newest = self._newest, ids[-1]
        if before is None or before.position + 1 != ids[0].position:
            before = (yield from self._id_before(ids[0])) or StreamId(ids[0].epoch, 0)
        return (yield from self.gaps((*pair, 1) for pair in pairwise((before, *ids))))

    def _id_before(self, id_: StreamId | str) -> Plan[StreamId | None]:
        rows = yield Command(("XREVRANGE", self._key, f"({id_}", "-", "COUNT", 1))
        with foreseen("XREVRANGE"):
            return StreamId.parse(rows[0][0]) if rows else None
