"""Is what the schema sets up against changes still in place? What must be there stands in `sql/verify.sql`."""

from __future__ import annotations

from ledger.effects import Plan, Query, sql
from ledger.findings import Finding
from ledger.migrate import Migration, functions

SQL = sql("verify")


def check(migrations: list[Migration]) -> Plan[list[Finding]]:
    """One finding for each trigger, constraint, function and table that is not as these migrations make it."""
    wanted = functions(migrations)
    rows = yield Query(
        SQL["unprotected"],
        (
            [each.name for each in wanted],
            [each.source for each in wanted],
            [each.as_owner for each in wanted],
            ["\n".join(each.settings) for each in wanted],
        ),
    )
    return [Finding(None, "unprotected", detail) for (detail,) in rows]
