"""Plans on the stream, with its Redis commands. The stream is a copy; Postgres is the truth.

Only `publish` writes entries, through one script that compares the stream's last id first: there are no duplicates and
no gaps, however many relays run it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ledger.effects import Command, LuaScript, Plan, Query, foreseen
from ledger.events import Entry
from ledger.settings import LONGEST_BLOCK
from ledger.statements import lua
from ledger.store.ledgers import SQL, LedgerRef, only
from ledger.stream.wire import StreamId, Wire, checkpoints_key, key, parse

CHECKPOINTS = 10_000
"""About how many of the newest checkpoints stay in their stream; the database keeps all."""
READ_STEP, READ_BYTES = 100, 8 * 1024 * 1024
"""Entries that Redis is asked for at a time, 25 MB where each body is as large as it may be; bytes of one read."""

_PUBLISH = lua(__file__, "publish")
_STATE = lua(__file__, "state")


class StreamState(NamedTuple):
    """last: the last id ever added; first, newest: those of the entries still there; newest_hash: in hex."""

    last: StreamId
    first: StreamId | None
    newest: StreamId | None
    newest_hash: bytes


def publish(ledger: str, after: StreamId, epoch: int, entries: Sequence[Wire]) -> Plan[StreamId]:
    """Adds the entries if `after` is the stream's last id, and deletes the copies of those that they erase.

    Returns the stream's last id now: that of the last of `entries` if they were added. A deleted entry leaves a gap,
    which readers fill from Postgres.
    """
    args: list[Any] = [str(after), epoch]
    for entry in entries:
        args += entry
    reply = yield LuaScript(_PUBLISH, (key(ledger),), args)
    with foreseen("publishing"):
        return StreamId.parse(reply)


def publish_checkpoint(ledger: str, size: int, note: bytes) -> Plan[None]:
    """Adds a signed checkpoint to their stream, with the fields `size` and `note`; the id is Redis' own.

    The same one may come more than once: with more signatures, or published again after a failure elsewhere.
    """
    yield Command(("XADD", checkpoints_key(ledger), "MAXLEN", "~", CHECKPOINTS, "*", "size", size, "note", note))


def end_of(ledger: LedgerRef) -> Plan[StreamId]:
    """The id in the stream of the ledger's newest entry, from Postgres. Raises UnknownLedger."""
    [_, epoch, position] = only((yield Query(SQL["tails"], ([ledger.ledger_id],))), ledger)
    return StreamId(epoch, position)


def state(ledger: str) -> Plan[StreamState]:
    """The stream's ids, and the hash of its newest entry."""
    reply = yield LuaScript(_STATE, (key(ledger),), ())
    with foreseen("XINFO STREAM"):
        last, first, newest, newest_hash = reply
        return StreamState(
            StreamId.parse(last),
            StreamId.parse(first) if first else None,
            StreamId.parse(newest) if newest else None,
            bytes(newest_hash),
        )


def trim(ledger: str, below: StreamId, *, exactly: bool) -> Plan[None]:
    """Drops the entries below an id. exactly: all of them; else by whole nodes of the stream, and a few may stay."""
    yield Command(("XTRIM", key(ledger), "MINID", "=" if exactly else "~", str(below)))


def read(after: Sequence[tuple[str, StreamId]], count: int, wait: float | None) -> Plan[dict[str, list[Entry | None]]]:
    """The next entries of several ledgers, as (name, last seen id); about `count` of each, or READ_BYTES of all.

    wait: seconds to wait for the first, at most LONGEST_BLOCK; None does not wait. An entry that `parse` refuses stands
    as None: it was not written by `publish`, or was changed since.
    """
    entries: dict[str, list[Entry | None]] = {}
    size, after_ids, block_for = 0, dict(after), wait
    names = {key(name).encode(): name for name in after_ids}
    while after_ids and size < READ_BYTES:
        block = () if block_for is None else ("BLOCK", milliseconds(block_for))
        step = max(1, READ_STEP // len(after_ids))
        streams = (*map(key, after_ids), *map(str, after_ids.values()))
        reply = yield Command(("XREAD", "COUNT", step, *block, "STREAMS", *streams))
        after_ids, block_for = {}, None
        with foreseen("XREAD"):
            for stream_key, rows in reply or ():
                name = names[stream_key]
                entries.setdefault(name, []).extend(parse(fields) for _, fields in rows)
                size += sum(len(field) for _, fields in rows for field in fields or ())
                if len(rows) == step and len(entries[name]) < count:
                    after_ids[name] = StreamId.parse(rows[-1][0])
    return entries


def move_group(ledger: str, group: str, after: StreamId) -> Plan[None]:
    """Lets a consumer group go on after an id."""
    yield Command(("XGROUP", "SETID", key(ledger), group, str(after)))


def milliseconds(wait: float) -> int:
    """Seconds as BLOCK takes them: at least 1 ms, because 0 means for ever; at most LONGEST_BLOCK."""
    return max(1, round(min(wait, LONGEST_BLOCK) * 1000))
