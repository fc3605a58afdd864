"""The stream's wire form (format.md, "Stream entry"): keys, ids, and an entry's fields. Pure.

Entry ids are `<epoch>-<position>`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger.events import Entry
from ledger.format import native
from ledger.format.decode import read_entry


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


def key(ledger: str) -> str:
    """The stream's key; the braces are a Redis Cluster hash tag."""
    return f"ledger:{{{ledger}}}:entries"


def checkpoints_key(ledger: str) -> str:
    """The key of the stream of signed checkpoints, beside that of the entries."""
    return f"ledger:{{{ledger}}}:checkpoints"


class GroupKeys(NamedTuple):
    """The Redis keys of a consumer group, besides the stream. Each holds the field's name.

    parked: hash of dead letters, position → delivery attempts. reasons: hash, position → why it was refused last.
    tries: hash of delivery attempts of entries that were deleted from the stream. due: sorted set of ids by the time,
    in milliseconds, at which they are delivered again. lease, given: see next.lua. passed: see pass.lua.
    """

    parked: str
    reasons: str
    tries: str
    due: str
    lease: str
    given: str
    passed: str


def group_keys(ledger: str, group: str) -> GroupKeys:
    return GroupKeys(*(f"ledger:{{{ledger}}}:{each}:{group}" for each in GroupKeys._fields))


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
    """The stream's entry for one that is quarantined, by the entry at position `by`.

    `parse` refuses it, so that each reader asks Postgres for that position. hash_: the one that the next entry names.
    """
    return Wire(position, b'{"position":%d,"quarantined":%d}' % (position, by), b"", hash_.hex())


def raw_hash(text: bytes) -> bytes:
    """A hash from the stream's hex; empty where that is no hex."""
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        return b""


_FIELDS = [b"envelope", b"body", b"hash"]


def parse(fields: Any) -> Entry | None:
    """An Entry from a stream entry's fields; None where they are not the wire form, or not what their hashes say."""
    try:
        if native.entries is not None and fields[::2] == _FIELDS:
            entry: Entry | None = native.entries.parse(*fields[1::2])
            if entry is not None:
                return entry
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        return read_entry(named[b"envelope"], named[b"body"], bytes.fromhex(named[b"hash"].decode()))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
