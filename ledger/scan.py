"""Reads a ledger's own table for verification and export, row by row, and says what is wrong with it. Plans.

It reads the table's columns and makes the envelopes itself: what a view or a function in the database says is not
believed. Times stay numbers, because a forged row may hold one that no datetime can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ledger.canonical import body_bytes, digest, envelope_from, timestamp_from, uuid_text
from ledger.effects import Plan, Query, Row, Stored, sql
from ledger.findings import BEGINNING, OWN_ERASED, Finding, Findings, Link, Walk, body_missing
from ledger.ownentries import OwnEntry
from ledger.rules import ERASED, ERASED_TYPE, Columns, broken, is_own, surely_kept
from ledger.store import FAR, LedgerRef

SQL = sql("verify")
TABLE = "ledger.audit_logs"
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


class Record(Columns):
    """A row as it is stored."""

    __slots__ = ()

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


class Span(NamedTuple):
    """What reading a range of positions brought.

    last: what the next entry after it is judged by. own: the ledger's own entries, in order, but those whose hash is
    not theirs.
    """

    entries: int
    findings: Findings
    last: Link
    own: list[OwnEntry]


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
        yield Stored(from_(source, "records"), (source.ledger_id, first, last), take)
        return
    newest: list[int] = []

    def noting(row: Row) -> None:
        newest[:] = row[:1]
        take(row)

    start: int | None = first
    while start is not None and start <= last:
        end = min(start + _RANGE - 1, last)
        yield Stored(from_(source, "records"), (source.ledger_id, start, end), noting)
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
            yield Stored(from_(source, "newest"), (source.ledger_id, low, high), take)
    return links[0] if links else None


def next_position(source: Source, at: int) -> Plan[int | None]:
    """The first position from `at` on that has an entry."""
    rows = yield Query(from_(source, "next_position"), (source.ledger_id, at))
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
        before = yield from newest(source, start - 1, max(first - 1, 1), near=start - 1)
    if before is None:
        before = BEGINNING if first == 1 else Link(first - 1, None, None, None)
    check = _Check(source.name, before, leaf)
    yield from _rows(source, start, end, check.take)
    if check.erased:
        erased = [str(position) for position in check.erased]
        rows = yield Query(from_(source, "erasures"), (source.ledger_id, ERASED_TYPE, erased, ERASED))
        excused = {int(resource_id): position for resource_id, position in rows}
        for position in check.erased:
            if excused.get(position, 0) <= position:
                check.findings.add(position, "body_missing", body_missing(position))
    check.findings.sort()
    return Span(check.entries, check.findings, check.walk.last, check.own)


def strays(source: Source) -> Plan[list[Finding]]:
    """Rows where none can be: at positions below 1, and of ledgers that there are not.

    No reader is shown rows of other ledgers, nor of none.
    """
    rows = yield Query(from_(source, "misplaced"), (source.ledger_id, _STRAYS, source.ledger_id))
    findings = [
        Finding(position, "tail_mismatch", f"a row stands at position {position}: the first entry's is 1")
        for (position,) in rows
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


def from_(source: Source, name: str) -> str:
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
        self.own: list[OwnEntry] = []

    def take(self, row: Row) -> None:
        self.entries += 1
        if not self._is_sound(row):
            self._examine(Record(*row))

    def _is_sound(self, row: Row) -> bool:
        """Is it a whole entry that continues a sound one, keeps the rules and is not the ledger's own? Then it is done
        with."""
        # fmt: off
        (
            position, entry_id, recorded, occurred, actor, actor_type, action, resource_type, resource_id,
            before, after, metadata, salt, body_hash, prev_hash, entry_hash,
        ) = row
        # fmt: on
        last = self.walk.last
        if salt is None or last.recorded is None:
            return False
        try:
            envelope = envelope_from(
                self.ledger, position, uuid_text(entry_id), _recorded_from(recorded), timestamp_from(occurred),
                actor, actor_type, action, resource_type, resource_id, body_hash, prev_hash,
            )  # fmt: skip
            body = body_bytes(before, after, metadata, salt)
            sound = bool(
                digest(envelope) == entry_hash
                and prev_hash == last.stored
                and position == last.position + 1
                and recorded >= last.recorded
                and digest(body) == body_hash
                and len(salt) == 16
                and surely_kept(actor, actor_type, action, resource_type, resource_id, body)
            )
        except (AttributeError, OverflowError, TypeError):  # a NULL, or a time that no datetime can hold
            return False
        if sound:
            self.walk.last = Link(position, entry_hash, entry_hash, recorded)
            if self.leaf is not None:
                self.leaf(position, envelope)
        return sound

    def _examine(self, record: Record) -> None:
        position, add = record.position, self.findings.add
        envelope = record.envelope(self.ledger)
        link = _link(record, envelope)
        self.walk.step(link, record.prev_hash)
        if self.leaf is not None:
            self.leaf(position, envelope)
        body = record.body()
        if body is not None:
            if digest(body) != record.body_hash:
                add(position, "body_mismatch", "its body is not the one that its envelope names")
                record = record.without_body()
        elif record[9:12] != (None, None, None):
            add(position, "body_mismatch", "its salt was removed, but not all of its body")
            record = record.without_body()
        elif is_own(record.action):
            add(position, "body_missing", OWN_ERASED)
        else:
            self.erased.append(position)
        if link.computed is not None and link.computed == link.stored:  # else it is not what the ledger recorded
            for rule in broken(record):
                add(position, "rule_broken", str(rule))
            if is_own(record.action):
                self.own.append(OwnEntry(position, record.action, record.resource_type, record.resource_id))


def _link(record: Record, envelope: bytes | None) -> Link:
    return Link(record.position, record.hash, None if envelope is None else digest(envelope), record.recorded)
