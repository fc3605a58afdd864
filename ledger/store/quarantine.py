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
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from ledger.effects import Plan, Query, Refused, Row
from ledger.errors import ChainBroken, InvalidEvent, QuarantineRefused
from ledger.events import GENESIS, Entry, Event, Quarantined, Seen, Tail
from ledger.format.actions import ERASED_TYPE, QUARANTINED
from ledger.format.chain import check_continues, check_entry, check_link
from ledger.format.findings import Finding, Link, Record
from ledger.format.quarantine_record import Mark, digests, flaws, mark_of
from ledger.format.times import POSTGRES_EPOCH
from ledger.store.columns import entry_sql
from ledger.store.ledgers import STEP, LedgerRef, read

SQL = entry_sql(__file__)
VIEW = "ledger.entries"
_FAR, _LONG_AGO = 2**63 - 1, -(2**63)
"""How Postgres stores `infinity` and `-infinity`."""
_EPOCH = round(POSTGRES_EPOCH.timestamp()) * 1_000_000
_STEP = 1_000
"""Missing entries of one hole that a reader passes over at a time."""


class AtPosition(NamedTuple):
    """What stands at a position: no row where one is missing, more than one where an index is broken.

    before: what it is judged by. hash: by which the chain goes on, as the entry after it or the tail has it.
    marks: all records about it, in order. damage: why Postgres cannot read what stands there.
    """

    ledger: LedgerRef
    position: int
    rows: tuple[Record, ...]
    before: Link
    hash: bytes
    marks: tuple[Mark, ...]
    damage: Refused | None = None

    @property
    def mark(self) -> Mark | None:
        """The newest record that names what stands there."""
        stands = digests(self.rows)
        return None if self.damage else next((mark for mark in reversed(self.marks) if mark.names(stands)), None)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with it: nothing, where a row holds and continues the entry before it."""
        if self.damage is not None:
            return [Finding(self.position, "unreadable", f"it cannot be read: {self.damage.first_line}")]
        return flaws(self.ledger.name, self.position, self.rows, self.before)


def holds(entry: Entry) -> bool:
    """Whether an entry's hash and body are true, by itself."""
    try:
        check_entry(entry)
    except ChainBroken:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------ plans


def vetted(ledger: LedgerRef, tail: Tail, entries: Sequence[Entry], end: int) -> Plan[list[Seen]]:
    """What comes after `tail`, as far as it holds or may be passed over.

    It does not end with a quarantined entry before `end`: the database refuses a view position there. So it reads on,
    or ends before. entries: as they were read, from after `tail`; end: up to where there must be some. Raises
    ChainBroken at the first entry that does not hold, where none that holds comes before it.
    """
    if entries:
        with suppress(ChainBroken):  # nearly always they hold
            check_continues(tail, entries)
            return list(entries)
    by_position: dict[int, list[Entry]] = {}
    for entry in entries:
        by_position.setdefault(entry.position, []).append(entry)
    last = entries[-1].position if entries else min(end, tail.position + _STEP)
    seen: list[Seen] = []
    while tail.position < last or (tail.position < end and seen and isinstance(seen[-1], Quarantined)):
        position = tail.position + 1
        if position > last:
            more = yield from read(ledger, tail.position, STEP, end)
            by_position = {}
            for entry in more:
                by_position.setdefault(entry.position, []).append(entry)
            last = more[-1].position if more else position
        accepted: Seen | None = None
        problem = "there is no such entry"
        for entry in by_position.get(position, ()):
            try:
                check_link(tail, entry)
                check_entry(entry)
                accepted = entry
                break
            except ChainBroken as error:
                problem = error.problem
        if accepted is None:
            accepted = yield from passed(ledger, position, tail.recorded_at)
        if accepted is None:
            while seen and isinstance(seen[-1], Quarantined):
                seen.pop()
            if seen:
                break
            if (yield from look(ledger, position)).findings:
                raise ChainBroken(position, problem, ledger.name)
            raise ChainBroken(
                position,
                f"{problem}, as it was read before; the ledger has another one there now, which this one continues: "
                "begin again after an entry that is there; a projection is rebuilt by 'auditledger replay'",
            )
        seen.append(accepted)
        tail = accepted.tail
    return seen


def passed(ledger: LedgerRef, position: int, recorded_at: datetime) -> Plan[Quarantined | None]:
    """What stands for an entry that does not hold, where it is on record that work goes on past it."""
    stands = digests((yield from _stands(ledger, position, position)))
    for mark in reversed((yield from marks(ledger, [position]))):
        if mark.names(stands):
            return Quarantined(position, mark.hash, recorded_at, mark.by)
    return None


def look(ledger: LedgerRef, position: int, entries: str = VIEW) -> Plan[AtPosition]:
    """What stands at a position. entries: the table or view that it is read from."""
    by_position: dict[int, list[Record]] = {}
    damage = None
    try:
        for row in (yield from _stands(ledger, max(position - 1, 1), position + 1, entries)):
            by_position.setdefault(row.position, []).append(row)
    except Refused as refused:
        if not refused.is_damage:
            raise
        for each in range(max(position - 1, 1), position + 2):
            try:
                by_position[each] = yield from _stands(ledger, each, each, entries)
            except Refused as refused:
                damage = refused if each == position else damage
    marked = yield from marks(ledger, [position - 1, position], entries)
    about = tuple(mark for mark in marked if mark.position == position)
    before = Link(0, GENESIS, GENESIS, None) if position == 1 else Link(position - 1, None, None, None)
    for record in by_position.get(position - 1, ()):
        before = record.link(record.envelope(ledger.name))
    stood_before = digests(by_position.get(position - 1, ()))
    for mark in marked:
        if mark.position == position - 1 and mark.names(stood_before):
            recorded = before.recorded if before.stored == before.computed else None
            before = Link(position - 1, before.stored, mark.hash, recorded)
    [(end, end_hash)] = yield Query(SQL["tail"], (ledger.ledger_id,))
    going_on = end_hash if end == position else None
    for record in by_position.get(position + 1, ()):
        going_on = record.prev_hash
    rows = tuple(by_position.get(position, ()))
    return AtPosition(ledger, position, rows, before, going_on or GENESIS, about, damage)


def marks(ledger: LedgerRef, positions: Collection[int], entries: str = VIEW) -> Plan[list[Mark]]:
    """The records about these positions, in order."""
    params = (ledger.ledger_id, [str(position) for position in positions])
    return _marks((yield Query(SQL["marks"].replace("{}", entries), params)), ledger)


def all_marks(ledger: LedgerRef, entries: str = VIEW) -> Plan[list[Mark]]:
    """All records of a ledger, in order."""
    return _marks((yield Query(SQL["all_marks"].replace("{}", entries), (ledger.ledger_id,))), ledger)


def is_chained(ledger: LedgerRef, position: int, hash_: bytes) -> Plan[bool]:
    """Whether this is the hash of the entry at a position, as it stands there or as the chain goes on from it."""
    [(chained,)] = yield if_chained(ledger, position, hash_)
    return bool(chained)


def if_chained(ledger: LedgerRef, position: int, hash_: bytes) -> Query:
    """The query of `is_chained`."""
    of = ledger.ledger_id
    return Query(SQL["is_chained"], (of, position, hash_, of, position + 1, hash_, of, position, hash_))


def describe(ledger: LedgerRef, position: int, actor: str, reason: str, actor_type: str = "user") -> Plan[Event]:
    """The event that quarantines what stands at a position. Raises QuarantineRefused where that holds, InvalidEvent."""
    if not isinstance(position, int) or not 0 < position < 10**18:
        raise InvalidEvent("position", f"must be the position of an entry, not {position!r}")
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidEvent("reason", "must say why; it stays in the ledger, so name no personal data in it")
    stored = yield from look(ledger, position)
    [(end, _)] = yield Query(SQL["tail"], (ledger.ledger_id,))
    if position > end:
        raise QuarantineRefused(f"there is no entry {position} yet: ledger {ledger.name!r} ends at {end}")
    kinds = sorted({finding.kind for finding in stored.findings} | (yield from _unexplained(stored)))
    if not kinds:
        raise QuarantineRefused(
            f"entry {position} of ledger {ledger.name!r} holds: its hash, body and link are true. Nothing was recorded"
        )
    metadata = {"found": kinds, "hash": stored.hash.hex(), "reason": reason, **digests(stored.rows)._asdict()}
    return Event(actor, QUARANTINED, ERASED_TYPE, str(position), actor_type, metadata=metadata)


def refusal(ledger: LedgerRef, origin: str, problem: str | None) -> Plan[None]:
    """Notes for `status` that a log's signer refused to sign, and why; None: that it signs again."""
    yield Query(SQL["refusal"], (ledger.ledger_id, origin, problem))


def _unexplained(stored: AtPosition) -> Plan[set[str]]:
    """body_missing, if the body is gone and no erasure is recorded."""
    if not stored.rows or stored.rows[0].salt is not None or stored.findings:
        return set()
    rows = yield Query(SQL["erasure"], (stored.ledger.ledger_id, str(stored.position), stored.position))
    return set() if rows else {"body_missing"}


def _stands(ledger: LedgerRef, first: int, last: int, entries: str = VIEW) -> Plan[list[Record]]:
    rows = yield Query(SQL["stands"].replace("{}", entries), (ledger.ledger_id, first, last))
    return [_record(row) for row in rows]


def _marks(rows: Sequence[Row], ledger: LedgerRef) -> list[Mark]:
    parsed = (mark_of(_record(row), ledger.name) for row in rows)
    return [mark for mark in parsed if mark is not None]


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
