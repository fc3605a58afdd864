"""Entries that a stream still has and its database lost, in a restore or a failover to a standby that was behind.

Both are chains, and so the same up to some position. The stream's entries after it can be recorded again, as new ones.
They prove nothing: anybody who may write to Redis could have made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ledger.effects import Command, Plan, Query
from ledger.events import Entry
from ledger.store.ledgers import SQL, LedgerRef
from ledger.stream import wire
from ledger.stream.wire import StreamId

PAGE = 100


class Lost(NamedTuple):
    """The stream's entries after the id `after`, up to the id `last`: the ledger does not have them."""

    after: StreamId
    last: StreamId


def lost(ledger: LedgerRef) -> Plan[Lost | None]:
    """The stream's entries that the ledger lost; None if there are none. Searches from the newest one back.

    If the ledger has none of the stream's entries, `after` is the id before the stream's first.
    """
    last = before = None
    end = "+"
    while rows := (yield Command(("XREVRANGE", wire.key(ledger.name), end, "-", "COUNT", PAGE))):
        ids = [StreamId.parse(id_) for id_, _ in rows]
        known = dict((yield Query(SQL["hashes"], (ledger.ledger_id, [each.position for each in ids]))))
        last = last or ids[0]
        for id_, (_, fields) in zip(ids, rows, strict=True):
            if _hash(fields) == known.get(id_.position, b"").hex().encode():
                return Lost(id_, last) if id_ != last else None
        before = ids[-1]._replace(position=ids[-1].position - 1)
        end = f"({ids[-1]}"
    return Lost(before, last) if last is not None and before is not None else None


def entries_of(ledger: LedgerRef, after: StreamId) -> Plan[tuple[StreamId, list[Entry | None]]]:
    """The stream's next entries after an id, and the last one's id; None for an entry that is malformed or forged."""
    rows = yield Command(("XRANGE", wire.key(ledger.name), f"({after}", "+", "COUNT", PAGE))
    entries = [wire.parse(fields) for _, fields in rows]
    return (
        StreamId.parse(rows[-1][0]) if rows else after,
        [None if entry is None or entry.ledger != ledger.name else entry for entry in entries],
    )


def _hash(fields: Sequence[Any]) -> bytes | None:
    return next((value for name, value in zip(fields[::2], fields[1::2], strict=False) if name == b"hash"), None)
