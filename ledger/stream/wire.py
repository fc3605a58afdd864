"""Plans on the stream and its wire form (format.md, "Stream entry"). The stream is a copy; Postgres is the truth.

Entry ids are `<epoch>-<position>`. Only `publish` writes entries, through one script that compares the stream's last id
first: duplicates and holes are impossible, whoever runs it and however often.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from ledger.effects import Command, LuaScript, Plan, Query, foreseen
from ledger.events import Entry
from ledger.format.canonical import digest
from ledger.format.decode import Position, parse_body
from ledger.settings import LONGEST_BLOCK
from ledger.statements import lua
from ledger.store.ledgers import SQL, LedgerRef, only


class StreamId(NamedTuple):
    """`<epoch>-<position>`."""

    epoch: int
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"

    @classmethod
    def parse(cls, text: bytes) -> StreamId:
        epoch, _, position = text.partition(b"-")
        return cls(int(epoch), int(position))


NO_ID = StreamId(0, 0)
"""The last id of a stream that is empty or lost."""


class StreamState(NamedTuple):
    """last: the last id ever added; first, newest: those of the entries still there; newest_hash: in hex."""

    last: StreamId
    first: StreamId | None
    newest: StreamId | None
    newest_hash: bytes


def key(ledger: str) -> str:
    """The stream's key; the braces are a Redis Cluster hash tag."""
    return f"ledger:{{{ledger}}}:entries"


class GroupKeys(NamedTuple):
    """The keys in which Redis keeps what it knows of a consumer group, besides the stream.

    parked: the hash of dead letters: position → delivery attempts; reasons: why, by position. tries: attempts of
    entries that were deleted from the stream. due: when an entry is delivered again. lease, given: see lua/next.lua.
    """

    parked: str
    reasons: str
    tries: str
    due: str
    lease: str
    given: str


def group_keys(ledger: str, group: str) -> GroupKeys:
    return GroupKeys(*(f"ledger:{{{ledger}}}:{each}:{group}" for each in GroupKeys._fields))


CHECKPOINTS = 10_000
"""About how many of the newest checkpoints stay in their stream; the database keeps all."""

READ_STEP, READ_BYTES = 100, 8 * 1024 * 1024
"""Entries that Redis is asked for at a time, 25 MB where each body is as large as it may be; bytes of one read."""

_PUBLISH = lua(__file__, "publish")
_STATE = lua(__file__, "state")


class Wire(NamedTuple):
    """An entry as the stream holds it. body: empty where erased. hash: in hex.

    erases: the position, in decimal, of the entry whose erasure this one is; empty for any other.
    """

    position: int
    envelope: bytes
    body: bytes
    hash: str
    erases: str = ""


def marker(position: int, hash_: bytes, by: int) -> Wire:
    """What stands in the stream for an entry that is quarantined, by the entry at `by`: no entry to any reader, so that
    each asks Postgres what stands there. hash_: by which the chain goes on."""
    return Wire(position, b'{"position":%d,"quarantined":%d}' % (position, by), b"", hash_.hex())


def raw_hash(text: bytes) -> bytes:
    """A hash as the stream has it; anything else is the hash of nothing."""
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        return b""


def publish(ledger: str, after: StreamId, epoch: int, entries: Sequence[Wire]) -> Plan[StreamId]:
    """Adds the entries if `after` is the stream's last id, and deletes the copies of those that they erase.

    Returns the stream's last id now, which tells whether it was. A deleted entry leaves a hole, which readers fill from
    Postgres.
    """
    args: list[Any] = [str(after), epoch]
    for entry in entries:
        args += entry
    reply = yield LuaScript(_PUBLISH, (key(ledger),), args)
    with foreseen("publishing"):
        return StreamId.parse(reply)


def checkpoints_key(ledger: str) -> str:
    """The key of the stream of signed checkpoints, beside that of the entries."""
    return f"ledger:{{{ledger}}}:checkpoints"


def publish_checkpoint(ledger: str, size: int, note: bytes) -> Plan[None]:
    """Adds a signed checkpoint to their stream, with the fields `size` and `note`; the id is Redis' own.

    The same one may come more than once: with more signatures, or published again after a failure elsewhere.
    """
    yield Command(("XADD", checkpoints_key(ledger), "MAXLEN", "~", CHECKPOINTS, "*", "size", size, "note", note))


def end_of(ledger: LedgerRef) -> Plan[StreamId]:
    """What the ledger's newest entry is called in the stream, as Postgres has it. Raises UnknownLedger."""
    [_, epoch, position] = only((yield Query(SQL["tails"], ([ledger.ledger_id],))), ledger)
    return StreamId(epoch, position)


def state(ledger: str) -> Plan[StreamState]:
    """Where the stream stands."""
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
    """Drops entries below an id; unless exactly, by whole nodes of the stream, so that a few may stay."""
    yield Command(("XTRIM", key(ledger), "MINID", "=" if exactly else "~", str(below)))


def read(after: Sequence[tuple[str, StreamId]], count: int, wait: float | None) -> Plan[dict[str, list[Entry | None]]]:
    """The next entries of several ledgers, as (name, last seen id); about `count` of each, or READ_BYTES of all.

    wait: seconds to wait for the first, at most LONGEST_BLOCK; None does not wait. An entry that `parse` refuses stands
    as None: it was not written by `publish`, or was changed since.
    """
    found: dict[str, list[Entry | None]] = {}
    size, at, wait_for = 0, dict(after), wait
    names = {key(name).encode(): name for name in at}
    while at and size < READ_BYTES:
        block = () if wait_for is None else ("BLOCK", milliseconds(wait_for))
        step = max(1, READ_STEP // len(at))
        streams = (*map(key, at), *map(str, at.values()))
        reply = yield Command(("XREAD", "COUNT", step, *block, "STREAMS", *streams))
        at, wait_for = {}, None
        with foreseen("XREAD"):
            for stream_key, rows in reply or ():
                entries = found.setdefault(names[stream_key], [])
                entries += [parse(fields) for _, fields in rows]
                size += sum(len(field) for _, fields in rows for field in fields or ())
                if len(rows) == step and len(entries) < count:
                    at[names[stream_key]] = StreamId.parse(rows[-1][0])
    return found


def milliseconds(wait: float) -> int:
    """For BLOCK: 0 would mean for ever."""
    return max(1, round(min(wait, LONGEST_BLOCK) * 1000))


# ------------------------------------------------------------------------------------------------------- wire form


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: str
    actor: str
    actor_type: str
    body: str
    id: UUID
    ledger: str
    occurred_at: datetime
    position: Position
    prev: str
    recorded_at: datetime
    resource_id: str | None
    resource_type: str | None
    v: int


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_ERASED = (None, None, None, None)


def parse(fields: Any) -> Entry | None:
    """An Entry from a stream entry's fields; None where they are not the wire form, or not what their hashes say.

    The bytes are hashed as they came, which is quicker than making them again from the entry.
    """
    try:
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        envelope, body = named[b"envelope"], named[b"body"]
        entry = parse_parts(envelope, body, named[b"hash"])
    except (KeyError, TypeError, ValueError):
        return None
    true = digest(envelope) == entry.hash and (not body or digest(body) == entry.body_hash)
    return entry if true else None


def parse_parts(envelope_bytes: bytes, body_bytes: bytes, hash_hex: bytes) -> Entry:
    """An Entry from its published parts; body empty where erased. Raises ValueError."""
    said = _decode_envelope(envelope_bytes)
    if said.recorded_at.tzinfo is not UTC or said.occurred_at.tzinfo is not UTC:
        raise ValueError("a time is not in UTC")
    before, after, metadata, salt = parse_body(body_bytes) if body_bytes else _ERASED
    return Entry(
        said.ledger,
        said.position,
        said.id,
        said.recorded_at,
        said.occurred_at,
        said.actor,
        said.actor_type,
        said.action,
        said.resource_type,
        said.resource_id,
        before,
        after,
        metadata,
        salt,
        bytes.fromhex(said.body),
        bytes.fromhex(said.prev),
        bytes.fromhex(hash_hex.decode()),
    )
