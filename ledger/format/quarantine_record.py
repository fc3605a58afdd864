"""The records by which work goes on past entries that do not hold: format.md, "Quarantine".

Pure: what such a record says, what it is compared with, and whether that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ledger.format.actions import ERASED_TYPE, QUARANTINED
from ledger.format.canonical import body_bytes, digest
from ledger.format.decode import Hash
from ledger.format.findings import NO_ENTRY, Finding, Findings, Link, Record, Walk, check_body, check_rules
from ledger.format.times import timestamp_from


class _Metadata(msgspec.Struct, frozen=True):
    """metadata of an entry `ledger.entry_quarantined`. Digests in hex; None if nothing stands there."""

    reason: str
    found: list[str]
    hash: Hash
    row: Hash | None = None
    body: Hash | None = None


class Digests(NamedTuple):
    """What stands at a position, in hex: its columns, and its body; None if there is none."""

    row: str | None
    body: str | None


NOTHING_STANDS = Digests(None, None)


class Mark(NamedTuple):
    """The record that work goes on past an entry.

    by: its own position. recorded: microseconds since 2000-01-01 UTC. found: kinds of findings. hash: by which the
    chain goes on. row, body: digests of what stood there, in hex.
    """

    position: int
    by: int
    actor: str
    recorded: int
    reason: str
    found: tuple[str, ...]
    hash: bytes
    row: str | None
    body: str | None

    def names(self, present: Digests) -> bool:
        """Returns whether this record is about what is present. A body may be gone: `verify` checks its erasure."""
        return present.row == self.row and present.body in (self.body, None)

    def finding(self) -> tuple[int, str, str]:
        """Position, kind and detail of what a verification says of it."""
        problems = ", ".join(self.found)
        detail = f"quarantined by {self.actor}, {self._when}, in entry {self.by}: {problems}; its reason: {self.reason}"
        return self.position, "quarantined", detail

    def changed(self) -> tuple[int, str, str]:
        """The same, where something else stands there now."""
        detail = f"what stands here is not what {self.actor} quarantined, {self._when}, in entry {self.by}"
        return self.position, "quarantined", detail

    @property
    def _when(self) -> str:
        return timestamp_from(self.recorded).decode()


def flaws(ledger: str, position: int, rows: Sequence[Record], before: Link) -> list[Finding]:
    """What is wrong with what stands at a position."""
    if not rows:
        return [Finding(position, "missing_entry", NO_ENTRY)]
    findings = Findings()
    for record in rows:
        findings = Findings()
        Walk(before, findings).step(record.link(record.envelope(ledger)), record.prev_hash)
        check_body(position, record.action, record.body_flaw(), findings, gone=record.salt is None)
        if not findings.kept:
            check_rules(record, findings)
        if not findings.kept:
            break
    return findings.kept


def digests(rows: Sequence[Record]) -> Digests:
    """The digests of what stands at a position."""
    return digests_of([row_json(record) for record in rows], [body_as_it_stands(record) for record in rows])


def digests_of(rows: Sequence[bytes], bodies: Sequence[bytes | None]) -> Digests:
    """The same, of rows without bodies as JSON, and of their bodies."""
    kept = [body for body in bodies if body is not None]
    if not rows:
        return NOTHING_STANDS
    return Digests(digest(b"\n".join(rows)).hex(), digest(b"\n".join(kept)).hex() if kept else None)


def body_as_it_stands(record: Record) -> bytes | None:
    """A body, or what is left of one: with an empty salt where that is gone."""
    if record[9:13] == (None, None, None, None):
        return None
    return body_bytes(record.before, record.after, record.metadata, record.salt or b"")


def row_json(record: Record) -> bytes:
    """A row without its body, as JSON: what is digested (format.md, "Quarantine"). Binary in hex, times in microseconds
    since 2000-01-01 UTC as Postgres stores them."""
    named = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in record._asdict().items()
        if name not in ("before", "after", "metadata", "salt")
    }
    return msgspec.json.encode(dict(sorted(named.items())))


def record_from(row: bytes) -> Record:
    """A row as `row_json` has it, without its body. Raises ValueError."""
    named = msgspec.json.decode(row, type=dict[str, str | int | None])
    for name in ("id", "body_hash", "prev_hash", "hash"):
        value = named.get(name)
        named[name] = bytes.fromhex(value) if isinstance(value, str) else None  # type: ignore[assignment]
    if named.keys() != {*Record._fields} - {"before", "after", "metadata", "salt"}:
        raise ValueError("it is no row of entries")
    return Record(before=None, after=None, metadata=None, salt=None, **named)  # type: ignore[arg-type]


def leaf_of(envelope: bytes | None, mark: Mark) -> bytes:
    """What the leaf of a quarantined entry is of: its envelope, if the chain goes on from that; else the hash by which
    the chain goes on."""
    return envelope if envelope is not None and digest(envelope) == mark.hash else mark.hash


def mark_of(record: Record, ledger: str) -> Mark | None:
    """The record that an entry makes; None if it makes none, or does not hold itself."""
    envelope, body = record.envelope(ledger), record.body()
    if record.action != QUARANTINED or record.resource_type != ERASED_TYPE or envelope is None or body is None:
        return None
    if digest(envelope) != record.hash or digest(body) != record.body_hash:
        return None
    return mark_from(record.position, record.actor, record.recorded, record.resource_id, record.metadata or b"")


def mark_from(by: int, actor: str, recorded: int, about: str | None, metadata: bytes) -> Mark | None:
    """The record that the entry at `by` makes of the position `about`; None if it makes none."""
    try:
        position = int(about or "")
        record = msgspec.json.decode(metadata, type=_Metadata)
    except ValueError:
        return None
    if str(position) != about or not 0 < position < by:
        return None
    return Mark(
        position,
        by,
        actor,
        recorded,
        record.reason,
        tuple(record.found),
        bytes.fromhex(record.hash),
        record.row,
        record.body,
    )
