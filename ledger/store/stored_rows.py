"""Reads a ledger's own table for verification and export, row by row. Plans.

It reads the table's columns and makes the envelopes itself: what a view or a function in the database says is not
believed. Times stay numbers, because a forged row may hold one that no datetime can.

What Postgres stores and cannot read, or does not show, is found too: damaged files, and indexes that lack rows. For
that, the transaction is the one that stored_rows.sql's `begin` opens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ledger.effects import CopyOut, Effect, Plan, Query, Refused, Row, SqlScript, Stored
from ledger.format.findings import Finding, Link, Record
from ledger.store.columns import entry_sql
from ledger.store.ledgers import FAR, LedgerRef

SQL = entry_sql(__file__)
TABLE = "ledger.audit_logs"
_RANGE = 10_000
"""Positions that are read from the view at a time."""


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

    def statement(self, text: str) -> str:
        """A statement in which `{}` is where entries are read."""
        return text.replace("{}", self.entries)


def source_of(ledger: LedgerRef) -> Plan[Source]:
    """Where this database user reads the ledger's entries."""
    [(entries,)] = yield Query(SQL["source"])
    return Source(*ledger, entries)


def records(source: Source, first: int, take: Callable[[Record], object], last: int = FAR) -> Plan[None]:
    """Hands every row at positions first … last to `take`, in order."""
    yield from rows_of(source, first, last, lambda row: take(Record(*row)))


def rows_of(source: Source, first: int, last: int, take: Callable[[Row], object]) -> Plan[None]:
    """The same, as plain tuples."""
    statement = source.statement(SQL["records"])
    yield from _in_ranges(
        source, first, last, lambda start, end: Stored(statement, (source.ledger_id, start, end), take)
    )


def messages_of(source: Source, first: int, last: int, take: Callable[[list[bytes]], object]) -> Plan[None]:
    """The same, as the messages of a COPY (effects.CopyOut)."""
    statement = source.statement(SQL["copy_records"])
    yield from _in_ranges(
        source,
        first,
        last,
        lambda start, end: CopyOut(statement.format(ledger_id=source.ledger_id, first=start, last=end), take),
    )


def _in_ranges(source: Source, first: int, last: int, reading: Callable[[int, int], Effect]) -> Plan[None]:
    """Reads the table at once, and the view in ranges.

    The view is planned as if all its rows were wanted, and Postgres might sort them all before the first.
    """
    if source.whole:
        yield reading(first, last)
        return
    start: int | None = first
    while start is not None and start <= last:
        end = min(start + _RANGE - 1, last)
        yield reading(start, end)
        start = None if end == last else (yield from next_position(source, end + 1))


def newest(source: Source, last: int = FAR, first: int = 1, *, near: int = 1) -> Plan[Link | None]:
    """The newest entry at positions first … last, None where there is none.

    near: where it should be, or before it. From there on it is looked for first: backwards, the view has no index.
    """
    links: list[Link] = []

    def take(row: Row) -> None:
        record = Record(*row)
        links.append(record.link(record.envelope(source.name)))

    near = max(near, first)
    for low, high in ((near, last), (first, near - 1)):
        if low <= high and not links:
            yield Stored(source.statement(SQL["newest"]), (source.ledger_id, low, high), take)
    return links[0] if links else None


def tail_of(ledger: LedgerRef) -> Plan[Link | None]:
    """What the tail's row says the newest entry is; None where there is no such row, or no position in it."""
    tails: list[Link] = []

    def take(row: Row) -> None:
        position, stored, recorded = row
        if position is not None:
            tails.append(Link(position, stored, stored, recorded))

    yield Stored(SQL["tail"], (ledger.ledger_id,), take)
    return tails[0] if tails else None


def next_position(source: Source, at: int) -> Plan[int | None]:
    """The first position from `at` on that has an entry."""
    rows = yield Query(source.statement(SQL["next_position"]), (source.ledger_id, at))
    return int(rows[0][0]) if rows else None


# --------------------------------------------------------------------------------------------------------------- damage


def guarded(plan: Plan[object]) -> Plan[Refused | None]:
    """Runs it in a savepoint; brings what Postgres says where that cannot read what it stores."""
    yield SqlScript(SQL["savepoint"])
    try:
        yield from plan
    except Refused as refused:
        if not refused.is_damage:
            raise
        yield SqlScript(SQL["go_back"])
        return refused
    yield SqlScript(SQL["release"])
    return None


def newest_or(damaged: Link, source: Source, last: int = FAR, first: int = 1, *, near: int = 1) -> Plan[Link | None]:
    """As `newest`; `damaged` if that entry cannot be read."""
    links: list[Link | None] = []

    def look() -> Plan[None]:
        links.append((yield from newest(source, last, first, near=near)))

    refused = yield from guarded(look())
    return damaged if refused is not None else links[0]


def unindexed() -> Plan[list[Finding]]:
    """Findings for indexes that do not show what their tables hold. For all tables that this database user may read.

    Reads each table and index once, whichever ledger the rows are of; memory stays constant.
    """
    findings: list[Finding] = []
    held: dict[str, int] = {}
    for table, index, columns in (yield Query(SQL["indexes"])):
        refused = yield from guarded(_compare(table, index, columns, held, findings))
        if refused is not None:
            detail = f"index {index} or its table {table} cannot be read to the end: {refused.first_line}"
            findings.append(Finding(None, "unreadable", detail))
    return findings


def _compare(table: str, index: str, columns: str, held: dict[str, int], findings: list[Finding]) -> Plan[None]:
    """held: how many rows each table has, as far as they were counted."""
    if table not in held:
        held[table] = yield from _counted("in_the_table", columns, table, "")
    shown = yield from _counted("in_the_index", columns, table, f"order by {columns}")
    if shown != held[table]:
        detail = f"index {index} shows {shown} rows, and its table {table} has {held[table]}: REINDEX makes it anew"
        findings.append(Finding(None, "unprotected", detail))


def _counted(how: str, *parts: str) -> Plan[int]:
    yield SqlScript(SQL["savepoint"])
    yield SqlScript(SQL[how])
    [(count,)] = yield Query(SQL["count_of"].format(*parts).replace("%", "%%"))
    yield SqlScript(SQL["go_back"])  # which takes the settings back
    return int(count)
