"""What the ledger's own entries say, compared with the entries that they name and the tables that keep it. Plans."""

from __future__ import annotations

from ledger.effects import Plan, Query
from ledger.format.actions import ERASED, ERASED_TYPE, HOLD_PLACED, HOLD_RELEASED, RETRIED, SKIPPED
from ledger.format.findings import Finding, Findings
from ledger.format.own_entries import OwnEntries, OwnEntry, Target
from ledger.statements import sql
from ledger.store.stored_rows import Source

SQL = sql(__file__)

_KEPT = frozenset((HOLD_PLACED, HOLD_RELEASED, SKIPPED, RETRIED))
"""Actions that a table of the ledger keeps too."""
_MOST = 1_000
"""Rows of such tables that are named; one finding is enough to damn the ledger."""


def beginning(source: Source, first: int, findings: Findings) -> Plan[OwnEntries]:
    """What own entries are judged by from position `first` on: what was held and left out there.

    That is taken from the tables: `false_marks` names what is in them and in no entry; what an entry before `first`
    says, and they have lost, only a verification from the first entry sees.
    """
    rows = (yield Query(SQL["standing"], (source.ledger_id, first, source.ledger_id, first))) if first > 1 else []
    return OwnEntries(findings, [OwnEntry(*row) for row in rows])


def follow(source: Source, own: OwnEntries, entries: list[OwnEntry]) -> Plan[None]:
    """The next own entries, in the order of their positions."""
    if not entries:
        return
    kept = [entry for entry in entries if entry.action in _KEPT]
    if kept:
        columns = map(list, zip(*kept, strict=True))
        for position, table in (yield Query(SQL["lost_marks"], (*columns, source.ledger_id, source.ledger_id))):
            own.findings.add(position, "unprotected", f"{table} does not have what this entry says")
    named = sorted({each.named for each in entries if each.action in (ERASED, SKIPPED) and each.named is not None})
    targets: dict[int | None, Target] = {}
    if named:
        resources = [str(position) for position in named]
        rows = yield Query(source.statement(SQL["first_erasures"]), (source.ledger_id, ERASED_TYPE, resources, ERASED))
        erased = {int(resource_id): position for resource_id, position in rows}
        rows = yield Query(source.statement(SQL["targets"]), (source.ledger_id, named))
        for position, action, resource_type, resource_id, has_body in rows:
            targets[position] = Target(action, resource_type, resource_id, has_body, erased.get(position))
    for entry in entries:
        own.take(entry, targets.get(entry.named))


def false_marks(source: Source) -> Plan[list[Finding]]:
    """Holds and skips in the tables that no entries say."""
    rows = yield Query(source.statement(SQL["false_marks"]), (*[source.ledger_id] * 4, _MOST))
    return [
        Finding(position, "unprotected", f"{table} has what this entry should say, and no entries do")
        for table, position in rows
    ]
