"""Reads a ledger's own table for verification and export, row by row, and says what is wrong with it. Plans.

It reads the table's columns and makes the envelopes itself: what a view or a function in the database says is not
believed. Times stay numbers, because a forged row may hold one that no datetime can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ledger.canonical import body_bytes, digest, envelope_from, timestamp_from, uuid_text
from ledger.damage import first_line, guarded
from ledger.effects import Plan, Query, Refused, Row, Stored, sql
from ledger.findings import (
    BEGINNING,
    ERASED,
    ERASED_TYPE,
    ERASURE_ERASED,
    HOLD_PLACED,
    HOLD_RELEASED,
    RETRIED,
    SKIPPED,
    Finding,
    Findings,
    Link,
    Walk,
    body_missing,
)
from ledger.store import FAR, LedgerRef

SQL = sql("verify")
TABLE = "ledger.audit_logs"
_MARKS = frozenset((HOLD_PLACED, HOLD_RELEASED, SKIPPED, RETRIED))
"""Actions that a table of the ledger keeps too."""
_RANGE = 10_000
"""Positions that are read from the view at a time."""
_STRAYS = 1_000
"""Rows at positions below 1 that are named; one finding is enough to damn the ledger."""
_MOST_OF_A_RANGE = 200_000
"""Findings on one range; more than an honest table's keys let it have."""


class Source(NamedTuple):
    """A ledger, and where its entries are read: the table, or the view for whoever may not read that."""

    ledger_id: int
    name: str
    entries: str = TABLE

    @property
    def ledger(self) -> LedgerRef:
        return LedgerRef(self.ledger_id, self.name)

    @property
    def whole(self) -> bool:
        """Is it the table, which shows whatever there is?"""
        return self.entries == TABLE


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


def source_of(ledger: LedgerRef) -> Plan[Source]:
    """Where this database user reads the ledger's entries."""
    [(entries,)] = yield Query(SQL["source"])
    return Source(*ledger, entries)


def records(source: Source, first: int, take: Callable[[Record], object], last: int = FAR) -> Plan[None]:
    """Hands every row at positions first … last to `take`, in order."""
    yield from _rows(source, first, last, lambda row: take(Record(*row)))


def _rows(source: Source, first: int, last: int, take: Callable[[Row], object]) -> Plan[None]:
    """The same, as plain tuples.

    From the view in ranges: it is planned as if all its rows were wanted, and might sort them all before the first.
    """
    if source.whole:
        yield Stored(_from(source, "records"), (source.ledger_id, first, last), take)
        return
    newest: list[int] = []

    def noting(row: Row) -> None:
        newest[:] = row[:1]
        take(row)

    start: int | None = first
    while start is not None and start <= last:
        end = min(start + _RANGE - 1, last)
        yield Stored(_from(source, "records"), (source.ledger_id, start, end), noting)
        # With its last position taken, it goes on right after it; else this is the end, or a hole.
        start = end + 1 if newest == [end] else (yield from next_position(source, end + 1))


def newest(source: Source, last: int = FAR, first: int = 1, *, near: int = 1) -> Plan[Link | None]:
    """The newest entry at positions first … last, None where there is none.

    near: where it should be, or before it. From there on it is looked for first: backwards, the view has no index.
    """
    links: list[Link] = []

    def take(row: Row) -> None:
        record = Record(*row)
        links.append(_link(record, record.envelope(source.name)))

    near = max(near, first)
    for low, high in ((near, last), (first, near - 1)):
        if low <= high and not links:
            yield Stored(_from(source, "newest"), (source.ledger_id, low, high), take)
    return links[0] if links else None


def newest_or(damaged: Link, source: Source, last: int = FAR, first: int = 1, *, near: int = 1) -> Plan[Link | None]:
    """The same; `damaged` where it cannot be read."""
    links: list[Link | None] = []

    def look() -> Plan[None]:
        links.append((yield from newest(source, last, first, near=near)))

    refused = yield from guarded(look())
    return damaged if refused is not None else links[0]


def next_position(source: Source, at: int) -> Plan[int | None]:
    """The first position from `at` on that has an entry."""
    rows = yield Query(_from(source, "next_position"), (source.ledger_id, at))
    return int(rows[0][0]) if rows else None


def check_range(
    source: Source,
    start: int,
    end: int,
    first: int,
    before: Link | None = None,
    leaf: Callable[[int, bytes | None], object] | None = None,
) -> Plan[Span]:
    """Checks the entries at positions start … end, each against the one before it, which may lie before `start`.

    first: where the whole verification begins: what is missing before it is not looked for. before: what the first of
    the range is judged by, where the caller knows it; else it is read. leaf: takes each position with its envelope,
    which is None where a forged entry has none.
    """
    if before is None:
        begins = BEGINNING if first == 1 else Link(first - 1, None, None, None)
        damaged = Link(start - 1, None, None, None)
        before = (yield from newest_or(damaged, source, start - 1, max(first - 1, 1), near=start - 1)) or begins
    check = _Check(source.name, before, leaf)
    yield from _readable(source, start, end, check)
    if check.erased:
        erased = [str(position) for position in check.erased]
        rows = yield Query(_from(source, "erasures"), (source.ledger_id, ERASED_TYPE, erased, ERASED))
        excused = {int(resource_id): position for resource_id, position in rows}
        for position in check.erased:
            if excused.get(position, 0) <= position:
                check.findings.add(position, "body_missing", body_missing(position))
    if check.marks:
        columns = map(list, zip(*check.marks, strict=True))
        for position, table in (yield Query(SQL["lost_marks"], (*columns, source.ledger_id, source.ledger_id))):
            check.findings.add(position, "unprotected", f"{table} does not have what this entry says")
    check.findings.sort()
    return Span(check.entries, check.findings, check.walk.last)


def _readable(source: Source, start: int, end: int, check: _Check) -> Plan[None]:
    """Takes all rows that can be read; what cannot is narrowed down to single positions."""
    refused = yield from guarded(_rows(source, start, end, check.take))
    if refused is None:
        return
    start = max(start, check.walk.last.position + 1)
    if start >= end:
        check.unreadable(end, refused)
        return
    middle = (start + end) // 2
    yield from _readable(source, start, middle, check)
    yield from _readable(source, middle + 1, end, check)


def strays(source: Source) -> Plan[list[Finding]]:
    """Rows where none can be: at positions below 1, of ledgers that there are not, holds and skips that no entry says.

    No reader is shown rows of other ledgers, nor of none.
    """
    rows = yield Query(_from(source, "misplaced"), (source.ledger_id, _STRAYS, source.ledger_id))
    findings = [
        Finding(position, "tail_mismatch", f"a row stands at position {position}: the first entry's is 1")
        for (position,) in rows
    ]
    rows = yield Query(_from(source, "false_marks"), (*[source.ledger_id] * 4, _STRAYS))
    findings += [
        Finding(position, "unprotected", f"{table} has what entry {position} should say, and no entries do")
        for table, position in rows
    ]
    rows = (yield Query(SQL["orphans"])) if source.whole else []
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


def _from(source: Source, name: str) -> str:
    """A statement of verify.sql that reads entries from there."""
    return SQL[name].replace("{}", source.entries)


_recorded_from = lru_cache(maxsize=16)(timestamp_from)  # entries that were recorded together have it in common


class _Check:
    """Takes rows one by one. Nearly all are sound, which is told quickly; of another it is found out what is wrong."""

    def __init__(self, ledger: str, before: Link, leaf: Callable[[int, bytes | None], object] | None) -> None:
        self.ledger = ledger
        self.leaf = leaf
        self.findings = Findings(_MOST_OF_A_RANGE)
        self.walk = Walk(before, self.findings)
        self.entries = 0
        self.erased: list[int] = []
        self.marks: list[tuple[int, str, str | None, str | None]] = []

    def take(self, row: Row) -> None:
        self.entries += 1
        if not self._is_sound(row):
            self._examine(Record(*row))

    def _is_sound(self, row: Row) -> bool:
        """Is it a whole entry that continues a sound one, and says nothing of holds or skips? Then it is done with."""
        # fmt: off
        (
            position, entry_id, recorded, occurred, actor, actor_type, action, resource_type, resource_id,
            before, after, metadata, salt, body_hash, prev_hash, entry_hash,
        ) = row
        # fmt: on
        last = self.walk.last
        if salt is None or action in _MARKS or last.recorded is None:
            return False
        try:
            envelope = envelope_from(
                self.ledger, position, uuid_text(entry_id), _recorded_from(recorded), timestamp_from(occurred),
                actor, actor_type, action, resource_type, resource_id, body_hash, prev_hash,
            )  # fmt: skip
            sound = bool(
                digest(envelope) == entry_hash
                and prev_hash == last.stored
                and position == last.position + 1
                and recorded >= last.recorded
                and digest(body_bytes(before, after, metadata, salt)) == body_hash
            )
        except (AttributeError, OverflowError, TypeError):  # a NULL, or a time that no datetime can hold
            return False
        if sound:
            self.walk.last = Link(position, entry_hash, entry_hash, recorded)
            if self.leaf is not None:
                self.leaf(position, envelope)
        return sound

    def unreadable(self, position: int, refused: Refused) -> None:
        """What comes next is not judged by it."""
        if position > self.walk.last.position + 1:
            self.walk.missing(position)
        self.findings.add(position, "unreadable", f"it cannot be read: {first_line(refused)}")
        self.walk.last = Link(position, None, None, None)
        if self.leaf is not None:
            self.leaf(position, None)

    def _examine(self, record: Record) -> None:
        position = record.position
        if record.action in _MARKS:
            self.marks.append((position, record.action, record.resource_type, record.resource_id))
        envelope = record.envelope(self.ledger)
        self.walk.step(_link(record, envelope), record.prev_hash)
        if self.leaf is not None:
            self.leaf(position, envelope)
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
