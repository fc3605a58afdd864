"""What Postgres stores and cannot read, or does not show: damaged files, and indexes that lack rows. Plans.

In the transaction that stored_rows.sql's `begin` opens.
"""

from __future__ import annotations

from ledger.effects import Plan, Query, Refused, SqlScript
from ledger.format.findings import Finding
from ledger.statements import sql

SQL = sql(__file__)


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


def first_line(refused: Refused) -> str:
    return str(refused).partition("\n")[0]


def unindexed() -> Plan[list[Finding]]:
    """Findings for indexes that do not show what their tables hold. For all tables that this database user may read.

    Reads each table and index once, whichever ledger the rows are of; memory stays constant.
    """
    findings: list[Finding] = []
    held: dict[str, int] = {}
    for table, index, columns in (yield Query(SQL["indexes"])):
        refused = yield from guarded(_compare(table, index, columns, held, findings))
        if refused is not None:
            detail = f"index {index} or its table {table} cannot be read to the end: {first_line(refused)}"
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
