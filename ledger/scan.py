"""Reads a ledger's own table for verification and export, row by row, and says what is wrong with it. Plans.

It reads the table's columns and makes the envelopes itself: what a view or a function in the database says is not
believed. Times stay numbers, because a forged row may hold one that no datetime can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ledger.canonical import body_bytes, digest, envelope_from, timestamp_from, uuid_text
from ledger.effects import Plan, Query, Row, Stored, sql
from ledger.findings import BEGINNING, ERASED, ERASED_TYPE, ERASURE_ERASED, Finding, Findings, Link, Walk, body_missing
from ledger.merkle import leaf_hash
from ledger.store import FAR, LedgerRef

SQL = sql("verify")
_STRAYS = 1_000
"""Rows at positions below 1 that are named; one finding is enough to damn the ledger."""
_MOST_OF_A_RANGE = 200_000
"""Findings on one range; more than an honest table's keys let it have."""


class Record(NamedTuple):
    """A row as it is stored; any column but the position may be NULL in a forged one.

    id: 16 bytes. recorded, occurred: microseconds since 2000-01-01 UTC. before, after, metadata: JSON texts, UTF-8.
    """

    position: int
    id: bytes
    recorded: int
    occurred: int
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    before: bytes | None
    after: bytes | None
    metadata: bytes | None
    salt: bytes | None
    body_hash: bytes
    prev_hash: bytes
    hash: bytes

    def envelope(self, ledger: str) -> bytes | None:
        """The envelope's bytes; None where a NULL or a time outside the years 0001-9999 leaves it without one."""
        try:
            return envelope_from(
                ledger,
                self.position,
                uuid_text(self.id),
                timestamp_from(self.recorded),
                timestamp_from(self.occurred),
                *self[4:9],
                self.body_hash,
                self.prev_hash,
            )
        except (AttributeError, OverflowError, TypeError):
            return None

    def body(self) -> bytes | None:
        """The body's bytes; None where it was erased."""
        return None if self.salt is None else body_bytes(self.before, self.after, self.metadata, self.salt)

    @property
    def is_erasure(self) -> bool:
        return self.action == ERASED and self.resource_type == ERASED_TYPE


class Span(NamedTuple):
    """What reading a range of positions brought. last: what the next entry after it is judged by."""

    entries: int
    findings: Findings
    last: Link


def records(ledger: LedgerRef, first: int, take: Callable[[Record], object], last: int = FAR) -> Plan[None]:
    """Hands every row at positions first … last to `take`, in order."""
    yield Stored(SQL["records"], (ledger.ledger_id, first, last), lambda row: take(Record(*row)))


def newest(ledger: LedgerRef, last: int = FAR, first: int = 1) -> Plan[Link | None]:
    """The newest entry at positions first … last, None where there is none."""
    links: list[Link] = []

    def take(row: Row) -> None:
        record = Record(*row)
        links.append(_link(record, record.envelope(ledger.name)))

    yield Stored(SQL["newest"], (ledger.ledger_id, first, last), take)
    return links[0] if links else None


def next_position(ledger: LedgerRef, at: int) -> Plan[int | None]:
    """The first position from `at` on that has an entry."""
    rows = yield Query(SQL["next_position"], (ledger.ledger_id, at))
    position: int | None = rows[0][0]
    return position


def check_range(
    ledger: LedgerRef,
    start: int,
    end: int,
    first: int,
    before: Link | None = None,
    leaves: list[bytes] | None = None,
) -> Plan[Span]:
    """Checks the entries at positions start … end, each against the one before it, which may lie before `start`.

    first: where the whole verification begins: what is missing before it is not looked for. before: what the first of
    the range is judged by, where the caller knows it; else it is read. leaves: takes the leaf hash of each envelope
    (format.md, "Merkle tree and checkpoint"); an entry that has none is a finding, and brings nothing.
    """
    if before is None:
        before = yield from newest(ledger, start - 1, max(first - 1, 1))
    if before is None:
        before = BEGINNING if first == 1 else Link(first - 1, None, None, None)
    check = _Check(ledger.name, before, leaves)
    yield from records(ledger, start, check.take, end)
    if check.erased:
        rows = yield Query(
            SQL["erasures"], (ledger.ledger_id, ERASED_TYPE, [str(position) for position in check.erased], ERASED)
        )
        excused = {int(resource_id): position for resource_id, position in rows}
        for position in check.erased:
            if excused.get(position, 0) <= position:
                check.findings.add(position, "body_missing", body_missing(position))
    check.findings.sort()
    return Span(check.entries, check.findings, check.walk.last)


def strays(ledger: LedgerRef) -> Plan[list[Finding]]:
    """Rows where no entry can be: at positions below 1, or of ledgers that there are not."""
    rows = yield Query(SQL["misplaced"], (ledger.ledger_id, _STRAYS, ledger.ledger_id))
    findings = [
        Finding(position, "tail_mismatch", f"a row stands at position {position}: the first entry's is 1")
        for (position,) in rows
    ]
    rows = yield Query(SQL["orphans"])
    return findings + [
        Finding(position, "broken_link", f"entry {position} stands under ledger_id {ledger_id}, which no ledger has")
        for ledger_id, position in rows
    ]


def tail_of(ledger: LedgerRef) -> Plan[Link | None]:
    """What the tail's row says the newest entry is; None where there is no such row, or no position in it."""
    tails: list[Link] = []

    def take(row: Row) -> None:
        position, stored, recorded = row
        if position is not None:
            tails.append(Link(position, stored, stored, recorded))

    yield Stored(SQL["tail"], (ledger.ledger_id,), take)
    return tails[0] if tails else None


class _Check:
    """Takes records one by one."""

    def __init__(self, ledger: str, before: Link, leaves: list[bytes] | None) -> None:
        self.ledger = ledger
        self.leaves = leaves
        self.findings = Findings(_MOST_OF_A_RANGE)
        self.walk = Walk(before, self.findings)
        self.entries = 0
        self.erased: list[int] = []

    def take(self, record: Record) -> None:
        self.entries += 1
        position = record.position
        envelope = record.envelope(self.ledger)
        self.walk.step(_link(record, envelope), record.prev_hash)
        if self.leaves is not None and envelope is not None:
            self.leaves.append(leaf_hash(envelope))
        body = record.body()
        if body is not None:
            if digest(body) != record.body_hash:
                self.findings.add(position, "body_mismatch", "its body is not the one that its envelope names")
        elif record[9:12] != (None, None, None):
            self.findings.add(position, "body_mismatch", "its salt was removed, but not all of its body")
        elif record.is_erasure:
            self.findings.add(position, "body_missing", ERASURE_ERASED)
        else:
            self.erased.append(position)


def _link(record: Record, envelope: bytes | None) -> Link:
    return Link(record.position, record.hash, None if envelope is None else digest(envelope), record.recorded)
