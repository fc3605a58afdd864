"""Entries that do not hold: what stands at a position, what is wrong with it, and how work goes on past it. Plans.

Every worker stops before an entry that does not hold. It goes on once a later entry `ledger.entry_quarantined` names
the position and the digests of just what stands there (format.md, "Quarantine"): then `Quarantined` stands for it. An
entry that holds is never passed over, whatever is on record.

    vetted      entries as readers have them, each checked, as far as they hold or may be passed over
    look        what stands at one position, and the newest record that names it
    describe    the event that records it
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from ledger.canonical import POSTGRES_EPOCH, body_bytes, digest, timestamp_from
from ledger.chain import check_entry, check_link
from ledger.effects import Plan, Query, Row, sql
from ledger.envelopes import Hash
from ledger.errors import ChainBroken, InvalidEvent, QuarantineRefused
from ledger.events import GENESIS, Entry, Event, Quarantined, Seen, Tail
from ledger.findings import ERASED_TYPE, QUARANTINED, Finding, Findings, Link, Walk
from ledger.record import Record
from ledger.store import LedgerRef

SQL = sql("quarantine")
VIEW = "ledger.entries"
_FAR, _LONG_AGO = 2**63 - 1, -(2**63)
"""How Postgres stores `infinity` and `-infinity`."""
_EPOCH = round(POSTGRES_EPOCH.timestamp()) * 1_000_000
_STEP = 1_000
"""Missing entries of one hole that a reader passes over at a time."""


class _Said(msgspec.Struct, frozen=True):
    """metadata of an entry `ledger.entry_quarantined`. Digests in hex; None where nothing stands there."""

    reason: str
    found: list[str]
    hash: Hash
    row: Hash | None = None
    body: Hash | None = None


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

    def names(self, rows: Sequence[Record]) -> bool:
        """Is it what stands there? A body may have been erased since: whether that is on record, `verify` says."""
        row, body = digests(rows)
        return row == self.row and body in (self.body, None)

    def finding(self) -> tuple[int, str, str]:
        """Position, kind and detail of what a verification says of it."""
        found = ", ".join(self.found)
        detail = f"quarantined by {self.actor}, {self._when}, in entry {self.by}: {found}; its reason: {self.reason}"
        return self.position, "quarantined", detail

    def changed(self) -> tuple[int, str, str]:
        """The same, where something else stands there now."""
        detail = f"what stands here is not what {self.actor} quarantined, {self._when}, in entry {self.by}"
        return self.position, "quarantined", detail

    @property
    def _when(self) -> str:
        return timestamp_from(self.recorded).decode()


class Found(NamedTuple):
    """What stands at a position: no row where one is missing, more than one where an index is broken.

    before: what it is judged by. hash: by which the chain goes on, as the entry after it or the tail has it.
    marks: all records about it, in order.
    """

    ledger: LedgerRef
    position: int
    rows: tuple[Record, ...]
    before: Link
    hash: bytes
    marks: tuple[Mark, ...]

    @property
    def mark(self) -> Mark | None:
        """The newest record that names what stands there."""
        return next((mark for mark in reversed(self.marks) if mark.names(self.rows)), None)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with it: nothing, where a row holds and continues the entry before it."""
        return flaws(self.ledger.name, self.position, self.rows, self.before)


# ------------------------------------------------------------------------------------------------------------- pure


def flaws(ledger: str, position: int, rows: Sequence[Record], before: Link) -> list[Finding]:
    """What is wrong with what stands at a position."""
    if not rows:
        return [Finding(position, "missing_entry", f"there is no entry {position}")]
    found = Findings()
    for record in rows:
        found = Findings()
        Walk(before, found).step(record.link(record.envelope(ledger)), record.prev_hash)
        flaw = record.body_flaw()
        if flaw is not None:
            found.add(position, "body_mismatch", flaw)
        if not found.kept:
            break
    return found.kept


def digests(rows: Sequence[Record]) -> tuple[str | None, str | None]:
    """The digests of what stands at a position, of its columns and of its body, in hex; None where there is none."""
    if not rows:
        return None, None
    bodies = [
        body_bytes(record.before, record.after, record.metadata, record.salt or b"")
        for record in rows
        if record[9:13] != (None, None, None, None)
    ]
    row = digest(b"\n".join(row_json(record) for record in rows)).hex()
    return row, digest(b"\n".join(bodies)).hex() if bodies else None


def row_json(record: Record) -> bytes:
    """A row without its body, as JSON: what is digested (format.md, "Quarantine"). Binary in hex, times in microseconds
    since 2000-01-01 UTC as Postgres stores them."""
    named = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in record._asdict().items()
        if name not in ("before", "after", "metadata", "salt")
    }
    return msgspec.json.encode(dict(sorted(named.items())))


def mark_of(record: Record, ledger: str) -> Mark | None:
    """The record that an entry makes; None where it makes none, or does not hold itself."""
    envelope, body = record.envelope(ledger), record.body()
    if record.action != QUARANTINED or record.resource_type != ERASED_TYPE or envelope is None or body is None:
        return None
    if digest(envelope) != record.hash or digest(body) != record.body_hash:
        return None
    try:
        position = int(record.resource_id or "")
        said = msgspec.json.decode(record.metadata or b"", type=_Said)
    except ValueError:
        return None
    if str(position) != record.resource_id or not 0 < position < record.position:
        return None
    who = (record.position, record.actor, record.recorded, said.reason, tuple(said.found))
    return Mark(position, *who, bytes.fromhex(said.hash), said.row, said.body)


def holds(entry: Entry) -> bool:
    """By itself: are its hash and its body true?"""
    try:
        check_entry(entry)
    except ChainBroken:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------ plans


def vetted(ledger: LedgerRef, tail: Tail, entries: Sequence[Entry], end: int) -> Plan[list[Seen]]:
    """What comes after `tail`, as far as it holds or may be passed over.

    entries: as they were read, from after `tail`; end: up to where there must be some. Raises ChainBroken where the
    very next one does not hold.
    """
    at: dict[int, list[Entry]] = {}
    for entry in entries:
        at.setdefault(entry.position, []).append(entry)
    last = entries[-1].position if entries else min(end, tail.position + _STEP)
    seen: list[Seen] = []
    while tail.position < last:
        position = tail.position + 1
        here: Seen | None = None
        problem = "there is no such entry"
        for entry in at.get(position, ()):
            try:
                check_link(tail, entry)
                check_entry(entry)
                here = entry
                break
            except ChainBroken as error:
                problem = error.problem
        if here is None:
            here = yield from passed(ledger, position, tail.recorded_at)
        if here is None:
            if seen:
                break
            raise ChainBroken(position, problem, ledger.name)
        seen.append(here)
        tail = here.tail
    return seen


def passed(ledger: LedgerRef, position: int, recorded_at: datetime) -> Plan[Quarantined | None]:
    """What stands for an entry that does not hold, where it is on record that work goes on past it."""
    rows = yield from _stands(ledger, position, position)
    for mark in reversed((yield from marks(ledger, [position]))):
        if mark.names(rows):
            return Quarantined(position, mark.hash, recorded_at, mark.by)
    return None


def look(ledger: LedgerRef, position: int, entries: str = VIEW) -> Plan[Found]:
    """What stands at a position. entries: the table or view that it is read from."""
    rows = yield from _stands(ledger, max(position - 1, 1), position + 1, entries)
    at: dict[int, list[Record]] = {}
    for row in rows:
        at.setdefault(row.position, []).append(row)
    marked = yield from marks(ledger, [position - 1, position], entries)
    here = tuple(mark for mark in marked if mark.position == position)
    passed_before = [mark for mark in marked if mark.position == position - 1]
    before = Link(0, GENESIS, GENESIS, None) if position == 1 else Link(position - 1, None, None, None)
    for record in at.get(position - 1, ()):
        before = record.link(record.envelope(ledger.name))
    if position > 1 and any(mark.names(at.get(position - 1, [])) for mark in passed_before):
        recorded = before.recorded if before.stored == before.computed else None
        hashes = [mark.hash for mark in passed_before if mark.names(at.get(position - 1, []))]
        before = Link(position - 1, before.stored, hashes[-1], recorded)
    [(end, end_hash)] = yield Query(SQL["tail"], (ledger.ledger_id,))
    going_on = end_hash if end == position else None
    for record in at.get(position + 1, ()):
        going_on = record.prev_hash
    return Found(ledger, position, tuple(at.get(position, ())), before, going_on or GENESIS, here)


def marks(ledger: LedgerRef, positions: Collection[int], entries: str = VIEW) -> Plan[list[Mark]]:
    """The records about these positions, in order."""
    params = (ledger.ledger_id, [str(position) for position in positions])
    rows = yield Query(SQL["marks"].replace("{}", entries), params)
    found = (mark_of(_record(row), ledger.name) for row in rows)
    return [mark for mark in found if mark is not None]


def is_chained(ledger: LedgerRef, position: int, hash_: bytes) -> Plan[bool]:
    """Is this the hash of the entry at a position, as it stands there or as the chain goes on from it?"""
    [(chained,)] = yield if_chained(ledger, position, hash_)
    return bool(chained)


def if_chained(ledger: LedgerRef, position: int, hash_: bytes) -> Query:
    """Asks that."""
    at = ledger.ledger_id
    return Query(SQL["is_chained"], (at, position, hash_, at, position + 1, hash_, at, position, hash_))


def describe(ledger: LedgerRef, position: int, actor: str, reason: str, actor_type: str = "user") -> Plan[Event]:
    """The event that quarantines what stands at a position. Raises QuarantineRefused where that holds, InvalidEvent."""
    if not isinstance(position, int) or not 0 < position < 10**18:
        raise InvalidEvent("position", f"must be the position of an entry, not {position!r}")
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidEvent("reason", "must say why; it stays in the ledger, so name no personal data in it")
    found = yield from look(ledger, position)
    [(end, _)] = yield Query(SQL["tail"], (ledger.ledger_id,))
    if position > end:
        raise QuarantineRefused(f"there is no entry {position} yet: ledger {ledger.name!r} ends at {end}")
    kinds = sorted({finding.kind for finding in found.findings} | (yield from _unexplained(found)))
    if not kinds:
        raise QuarantineRefused(
            f"entry {position} of ledger {ledger.name!r} holds: its hash, body and link are true. Nothing was recorded"
        )
    row, body = digests(found.rows)
    metadata = {"body": body, "found": kinds, "hash": found.hash.hex(), "reason": reason, "row": row}
    return Event(actor, QUARANTINED, ERASED_TYPE, str(position), actor_type, metadata=metadata)


def _unexplained(found: Found) -> Plan[set[str]]:
    """A body that is gone, and no erasure says so."""
    if not found.rows or found.rows[0].salt is not None or found.findings:
        return set()
    rows = yield Query(SQL["erasure"], (found.ledger.ledger_id, str(found.position), found.position))
    return set() if rows else {"body_missing"}


def _stands(ledger: LedgerRef, first: int, last: int, entries: str = VIEW) -> Plan[list[Record]]:
    rows = yield Query(SQL["stands"].replace("{}", entries), (ledger.ledger_id, first, last))
    return [_record(row) for row in rows]


def _record(row: Row) -> Record:
    values = list(row)
    values[1] = None if row[1] is None else row[1].bytes
    values[2:4] = map(_moment, row[2:4])
    values[9:12] = (None if text is None else text.encode() for text in row[9:12])
    return Record(*values)


def _moment(text: str | None) -> int | None:
    """Seconds since 1970 in text, as Postgres stores the moment."""
    if text is None:
        return None
    seconds = Decimal(text)
    if not seconds.is_finite():
        return _FAR if seconds > 0 else _LONG_AGO
    return int(seconds * 1_000_000) - _EPOCH
