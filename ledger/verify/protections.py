"""Checks that the protections made by the migrations are in place, and that nothing goes round them. Plans."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.effects import Plan, Query
from ledger.format.findings import Finding
from ledger.statements import sql
from ledger.verify import catalog

SQL = sql(__file__)


def check(newer: Sequence[str] = ()) -> Plan[list[Finding]]:
    """One finding for each object that is not as the migrations make it, and for whatever goes round the protections.

    newer: files of the migrations that the database has beyond those of this package; they may be why.
    Changes settings of the transaction that it runs in.
    """
    wanted = catalog.load()
    actual = yield from catalog.read()
    details = list(catalog.differences(wanted, actual, newer=bool(newer)))
    for statement in ("views", "outside"):
        details += [detail for (detail,) in (yield Query(SQL[statement]))]
    details += [detail for (detail,) in (yield Query(SQL["roles"], (_roles(wanted),)))]
    if details and newer:
        details.append(f"this package does not know {', '.join(newer)}, which may be why: upgrade auditledger to tell")
    return [Finding(None, "unprotected", detail) for detail in details]


def privileged() -> Plan[list[str]]:
    """Who is bound by no privilege, and who can make itself so: a sentence for each. No findings."""
    return [sentence for (sentence,) in (yield Query(SQL["privileged"], (_roles(catalog.load()),)))]


def _roles(wanted: catalog.Facts) -> list[str]:
    """The ledger's own."""
    return [name for kind, name in wanted if kind == "role"]
