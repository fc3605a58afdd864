"""Is what the schema sets up against changes still in place?

What must be there stands in `sql/verify.sql`, and in the migrations themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger import privileges
from ledger.effects import Plan, Query, sql
from ledger.findings import Finding
from ledger.migrate import Migration, functions

SQL = sql("verify")


def check(migrations: list[Migration], newer: Sequence[str] = ()) -> Plan[list[Finding]]:
    """One finding for each trigger, constraint, function, table and privilege that is not as these migrations make it.

    newer: files of the migrations that the database has beyond these; they may be why. Wants the search_path that
    verify.sql's `begin` sets.
    """
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
    findings = [Finding(None, "unprotected", detail) for (detail,) in rows]
    findings += yield from privileges.check(migrations)
    if findings and newer:
        detail = f"this package does not know {', '.join(newer)}, which may be why: upgrade auditledger to tell"
        findings.append(Finding(None, "unprotected", detail))
    return findings
