"""Checks a range of stored entries, row by row, each against the one before it. Plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from ledger.effects import Plan, Query, Refused, Row
from ledger.format import native
from ledger.format.actions import ERASED, ERASED_TYPE, is_own
from ledger.format.canonical import body_bytes, digest, envelope_from, uuid_text
from ledger.format.findings import (
    BEGINNING,
    Finding,
    Findings,
    Link,
    Record,
    Walk,
    add_mismatched,
    add_not_erased,
    check_body,
    check_rules,
)
from ledger.format.quarantine_record import Mark, digests, flaws, leaf_of
from ledger.format.rules import surely_kept
from ledger.format.times import timestamp_from
from ledger.statements import sql
from ledger.store.quarantine import marks
from ledger.store.stored_rows import Source, guarded, messages_of, newest_or, records, rows_of
from ledger.verify.own_entries import OwnEntry

SQL = sql(__file__)
HOLE = 1_000
"""Missing entries at the beginning of one hole for which it is looked whether they are quarantined."""
_MOST_OF_A_RANGE = 200_000
"""Findings on one range; more than an honest table's keys let it have."""
_EARLIEST = -(2**63)
"""As microseconds since 2000-01-01 UTC: no time that Postgres stores is before it."""


class LeafTaker(Protocol):
    """Takes the leaves of a range, position by position."""

    def add(self, position: int, envelope: bytes | None, quarantined: bool = False) -> None:
        """What a position's leaf is of: its envelope, or None if a forged entry has none.

        Of a quarantined one it is of the envelope only if that is the one that the chain goes on from, else of the hash
        by which the chain goes on (format.md, "Quarantine").
        """

    def add_hashes(self, position: int, hashes: bytes) -> None:
        """The leaf hashes (32 bytes each, joined) of sound entries, of which the first is at `position`."""


class Span(NamedTuple):
    """What reading a range of positions brought.

    last: what the next entry after it is judged by. own: the ledger's own entries, in order, but those whose hash is
    not theirs.
    """

    entries: int
    findings: Findings
    last: Link
    own: list[OwnEntry]


def check_range(
    source: Source,
    start: int,
    end: int,
    first: int,
    before: Link | None = None,
    leaves: Callable[[], LeafTaker] | None = None,
    through: int = 0,
) -> Plan[Span]:
    """Checks the entries at positions start … end, each against the one before it, which may lie before `start`.

    first: the position at which the whole verification begins; nothing is missing before it. before: what the first
    entry of the range is judged by; None to read it. leaves: makes what takes the leaves, anew each time that the
    range is read. through: the position up to which there must be entries, also after the last of the range.

    If something is wrong, the records of quarantine about it are read, and the range again with them.
    """
    if before is None:
        begins = BEGINNING if first == 1 else Link(first - 1, None, None, None)
        damaged = Link(start - 1, None, None, None)
        before = (yield from newest_or(damaged, source, start - 1, max(first - 1, 1), near=start - 1)) or begins
    if before.recorded is None:  # any time may follow: the next entry is told sound as quickly as those after it
        before = before._replace(recorded=_EARLIEST)
    check = _Check(source.name, before, leaves() if leaves is not None else None, {})
    span = yield from _checked(source, start, end, check)
    suspects = {position for finding in span.findings.kept for position in _suspects(finding)}
    suspects.update(range(span.last.position + 1, min(end, through, span.last.position + HOLE) + 1))
    if not suspects:
        return span
    wanted = suspects | {before.position}
    known: dict[int, list[Mark]] = {}
    for mark in (yield from marks(source.ledger, wanted, source.entries)):
        known.setdefault(mark.position, []).append(mark)
    if not known:
        return span
    before = yield from _passed_over(source, before, start, known)
    check = _Check(source.name, before, leaves() if leaves is not None else None, known)
    return (yield from _checked(source, start, end, check, min(end, through)))


def _suspects(finding: Finding) -> Iterable[int]:
    """The positions of a finding at which it is looked for what is quarantined: all, but of a hole the first HOLE."""
    if finding.position is None or finding.through is None:
        return ()
    end = finding.through + 1
    return range(finding.position, min(end, finding.position + HOLE) if finding.kind == "missing_entry" else end)


def _checked(source: Source, start: int, end: int, check: _Check, through: int = 0) -> Plan[Span]:
    yield from _readable(source, start, end, check)
    check.examine_group()
    check.pass_holes(through + 1)
    if check.erased:
        erased = [str(position) for position in check.erased]
        rows = yield Query(source.statement(SQL["erasures"]), (source.ledger_id, ERASED_TYPE, erased, ERASED))
        excused = {int(resource_id): position for resource_id, position in rows}
        for position, record in check.erased.items():
            if excused.get(position, 0) <= position and not check.is_quarantined(position, (record,)):
                add_not_erased(position, check.findings)
        mismatched = yield Query(source.statement(SQL["mismatched"]), (source.ledger_id, ERASED_TYPE, erased, ERASED))
        for resource_id, position, actor, stood in mismatched:
            add_mismatched(int(resource_id), position, actor, stood, check.findings)
    return Span(check.entries, check.findings, check.walk.last, check.own)


def _passed_over(source: Source, before: Link, start: int, known: Mapping[int, Sequence[Mark]]) -> Plan[Link]:
    """What the first of a range is judged by, where entries before it are quarantined."""
    if before.position in known:
        rows: list[Record] = []
        yield from records(source, before.position, rows.append, before.position)
        before = _after(known[before.position], rows, before) or before
    for position in range(before.position + 1, min(start, before.position + HOLE + 1)):
        passed = _after(known.get(position, ()), (), before)
        if passed is None:
            break
        before = passed
    return before


def _after(known: Sequence[Mark], rows: Sequence[Record], before: Link) -> Link | None:
    """What the entry after a quarantined one is judged by; None if no record names what stands there."""
    stands = digests(rows)
    for mark in reversed(known):
        if mark.names(stands):
            return Link(mark.position, mark.hash, mark.hash, before.recorded)
    return None


def _readable(source: Source, start: int, end: int, check: _Check) -> Plan[None]:
    """Takes all rows that can be read; what cannot is narrowed down to single positions."""
    natively = native.core is not None and not check.strange
    if natively:
        reading = messages_of(source, start, end, check.take_messages)
    else:
        reading = rows_of(source, start, end, check.take)
    refused = yield from guarded(reading)
    start = max(start, check.walk.last.position + 1)
    if natively and check.strange:
        check.forget(start)
        return (yield from _readable(source, start, end, check))
    if refused is None:
        return
    check.forget(start)
    if start >= end:
        check.unreadable(end, refused)
        return
    middle = (start + end) // 2
    yield from _readable(source, start, middle, check)
    yield from _readable(source, middle + 1, end, check)


_recorded_from = lru_cache(maxsize=16)(timestamp_from)  # entries that were recorded together have it in common


class _Check:
    """Takes rows one by one. Nearly all are sound, which is told quickly; of another it is found out what is wrong."""

    def __init__(
        self, ledger: str, before: Link, leaves: LeafTaker | None, known: Mapping[int, Sequence[Mark]]
    ) -> None:
        """known: the records of what is quarantined, by the positions that they name."""
        self.ledger = ledger
        self.known = known
        self.group: list[Record] = []
        self.leaves = leaves
        self.findings = Findings(_MOST_OF_A_RANGE)
        self.walk = Walk(before, self.findings)
        self.entries = 0
        self.strange = False
        self.erased: dict[int, Record] = {}
        self.own: list[OwnEntry] = []
        self._native: Any = native.core and native.core.Check(ledger, set(known), leaves is not None)

    def take_messages(self, messages: list[bytes]) -> None:
        """Takes rows as COPY has them: sound ones by the native core, the others one by one.

        Passes over what comes after one that is `strange`: whoever gave a column another type is still to be named.
        """
        if self.strange:
            return
        try:
            self._take_messages(messages)
        except UnicodeDecodeError:
            raise
        except ValueError:
            self.strange = True

    def _take_messages(self, messages: list[bytes]) -> None:
        index = 0
        while index < len(messages):
            if not self.group:
                index = self._take_sound(messages, index)
            if index < len(messages):
                row = native.core.columns(messages[index])
                if row is not None:
                    self.take(row)
                index += 1

    def _take_sound(self, messages: list[bytes], index: int) -> int:
        self._native.go_on(*self.walk.last)
        taken, index = self._native.take(messages, index)
        if taken:
            self.entries += taken
            self.walk.last = Link(*self._native.last())
            if self.leaves is not None:
                self.leaves.add_hashes(self.walk.last.position - taken + 1, self._native.leaves())
        return int(index)

    def take(self, row: Row) -> None:
        self.entries += 1
        if self.group and row[0] != self.group[0].position:
            self.examine_group()
        if row[0] in self.known:
            self.group.append(Record(*row))
        elif not self._is_sound(row):
            self._examine(Record(*row))

    def forget(self, start: int) -> None:
        """Forgets what was put together from a position on, which is read again."""
        if self.group and self.group[0].position >= start:
            self.entries -= len(self.group)
            self.group = []

    def examine_group(self) -> None:
        """What stands at a position that a record names: more than one row where somebody has broken an index."""
        records, self.group = self.group, []
        if not records:
            return
        position = records[0].position
        self.pass_holes(position)
        if flaws(self.ledger, position, records, self.walk.last):
            envelope = records[0].envelope(self.ledger)
            if self.is_quarantined(position, records, envelope):
                return
            self.findings.add(*self.known[position][-1].changed())
        for record in records:
            self._examine(record)

    def _is_sound(self, row: Row) -> bool:
        """Returns whether a row is a whole entry that continues a sound one, keeps the rules and is not an own entry.

        If so, nothing more is done with it.
        """
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
            if self.leaves is not None:
                self.leaves.add(position, envelope, False)
        return sound

    def unreadable(self, position: int, refused: Refused) -> None:
        """What comes next is not judged by it."""
        self.examine_group()
        if position > self.walk.last.position + 1:
            self.walk.missing(position)
        self.findings.add(position, "unreadable", f"it cannot be read: {refused.first_line}")
        self.walk.last = Link(position, None, None, None)
        if self.leaves is not None:
            self.leaves.add(position, None, False)

    def _examine(self, record: Record) -> None:
        position = record.position
        self.pass_holes(position)
        envelope = record.envelope(self.ledger)
        link = record.link(envelope)
        self.walk.step(link, record.prev_hash)
        if self.leaves is not None:
            self.leaves.add(position, envelope, False)
        flaw = record.body_flaw()
        if check_body(position, record.action, flaw, self.findings, gone=record.salt is None):
            self.erased[position] = record
        if flaw is not None:
            record = Record(*record.without_body())
        if link.computed is not None and link.computed == link.stored:  # else it is not what the ledger recorded
            check_rules(record, self.findings)
            if is_own(record.action):
                self.own.append(OwnEntry(position, record.action, record.resource_type, record.resource_id))

    def pass_holes(self, until: int) -> None:
        """The missing entries that are quarantined, from the last entry up to `until`."""
        while self.walk.last.position + 1 < until:
            position = self.walk.last.position + 1
            if not self.is_quarantined(position, ()):
                return

    def is_quarantined(self, position: int, rows: Sequence[Record], envelope: bytes | None = None) -> bool:
        """Returns whether a record quarantines what is there: then that is a finding, and the chain goes on from it."""
        for mark in reversed(self.known.get(position, ())):
            if mark.names(digests(rows)):
                self.findings.add(*mark.finding())
                if position > self.walk.last.position:
                    self.walk.last = Link(position, mark.hash, mark.hash, self.walk.last.recorded)
                    if self.leaves is not None:
                        self.leaves.add(position, leaf_of(envelope, mark), True)
                return True
        return False
