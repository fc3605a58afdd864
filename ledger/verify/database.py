"""Verifies a whole ledger in its database: chain, bodies, tail, its Merkle tree, and the protections of its tables.

Everything is read in one snapshot; further processes share it. What is found does not depend on how many there are:
each range of positions is judged against the entry before it, wherever that lies. Where the ledger keeps tiles or
checkpoints, or is to be compared with some, its tree is made anew from the entries while they are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from ledger.drivers.connections import connect
from ledger.drivers.run import drive
from ledger.effects import Plan, Query, Refused, SqlScript
from ledger.errors import InvalidSetting
from ledger.events import GENESIS
from ledger.format.findings import BEGINNING, Finding, Findings, Link
from ledger.migrate import migrate
from ledger.settings import Settings
from ledger.statements import sql
from ledger.store import ledgers, stored_rows
from ledger.store.durability import commit_and_flush
from ledger.store.stored_rows import Source, newest_or
from ledger.telemetry import Progress
from ledger.verify import own_entries, protections
from ledger.verify.checkpoints import Claim, Trust, given_claims
from ledger.verify.ranges import Scope, check_ranges
from ledger.verify.report import Report, check_tail
from ledger.verify.tree import Base, KeptTree, TreeCheck, kept_tree, proven_base, rebuilds

SQL = sql(__file__)
_STRAYS = 1_000
"""Rows at positions below 1 that are named; one finding is enough to damn the ledger."""


class _Seen(NamedTuple):
    """What a verification begins with.

    newest: None in an empty ledger; tail: None if its row is gone. kept: None if the tree is not looked at. base: of an
    incremental verification. notes, privileged: as the report has them.
    """

    scope: Scope
    tail: Link | None
    newest: Link | None
    kept: KeptTree | None
    base: Base | None
    notes: tuple[str, ...]
    privileged: list[str]


def verify(
    settings: Settings,
    *,
    first: int = 1,
    workers: int = 1,
    checkpoints: Sequence[tuple[str, bytes]] = (),
    trust: Trust | None = None,
    incremental: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Checks the ledger `settings.name` from position `first` to its end, and what protects its tables.

    workers: processes to share the work; above 1 they are spawned, so a script must guard its main module.
    checkpoints: signed notes to compare the ledger with, each with the name by which findings call it; trust: whose
    signatures count on them, and on those that the ledger keeps. incremental: read only what is newer than the newest
    of them, if the tiles prove it and it continues the others; else all. The report's `first` says which.
    From a `first` above 1 the tree cannot be made anew, so it is not looked at.
    The outcome is also kept in ledger.verifications, where this database user may write there.
    Raises NoteRefused for a checkpoint that is not signed, or of another ledger; InvalidSetting for a `first` that is
    not there and options that do not go together; UnknownLedger, SchemaMismatch, Unavailable.
    """
    started = time.perf_counter()
    if first < 1 or workers < 1:
        raise InvalidSetting("positions begin at 1, and it takes at least one worker")
    if first > 1 and (checkpoints or incremental):
        raise InvalidSetting("checkpoints are compared with all entries from the first: they go without a beginning")
    if incremental and not checkpoints:
        raise InvalidSetting("an incremental verification begins at a checkpoint that you trust: give one")
    trust = trust or Trust()
    claims = given_claims(checkpoints, trust, settings.name)
    connection = connect(settings)
    try:
        begin = _begin(settings.name, first, claims, incremental, workers > 1)
        seen, others = drive(begin, connection)
        source, first, last = seen.scope.source, seen.scope.first, seen.scope.newest
        tree = None
        if seen.kept is not None:
            tree = TreeCheck(source.ledger, seen.kept, last, claims, trust.keys, seen.base)
        findings, about_others = Findings(), Findings()
        own = drive(own_entries.beginning(source, first, about_others), connection)
        entries = 0
        for span, grown in check_ranges(settings, connection, seen.scope, tree, workers):
            findings.extend(span.findings)
            entries += span.entries
            drive(own_entries.follow(source, own, span.own), connection)
            if tree is not None and grown is not None:
                drive(tree.take(grown), connection)
            if progress is not None:
                progress(entries, max(entries, last - first + 1))
        if tree is not None:
            drive(tree.end(), connection)
            others += tree.findings.listed()
        listed = findings.listed(*others, *about_others.listed(), *_tail_findings(seen))
        report = Report(
            ledger=source.name,
            ok=not listed,
            first=first,
            last=max(last, first - 1),
            entries=entries,
            head=(seen.newest.stored if seen.newest else None) or GENESIS,
            findings=listed,
            seconds=time.perf_counter() - started,
            notes=seen.notes,
            privileged=seen.privileged,
        )
        drive(_end(source, report, len(listed) + max(findings.more - 1, 0)), connection)
    finally:
        connection.close()
    return report


def _begin(
    name: str, first: int, claims: Sequence[Claim], incremental: bool, shared: bool
) -> Plan[tuple[_Seen, list[Finding]]]:
    """Opens the snapshot; looks at everything but the entries."""
    migrations = migrate.load_migrations()
    yield SqlScript(stored_rows.SQL["begin"])
    newer = yield from migrate.check_schema(migrations)
    ledger = yield from ledgers.find_ledger(name)
    tail = yield from stored_rows.tail_of(ledger)
    source = yield from stored_rows.source_of(ledger)
    if tail is None:
        newest = yield from stored_rows.newest(source)
    else:  # an entry that cannot be read is named when its turn comes
        newest = yield from newest_or(tail, source, near=tail.position)
    last = max(link.position for link in (tail, newest, BEGINNING) if link is not None)
    if first > last + 1:
        raise InvalidSetting(f"ledger {name!r} ends at position {last}: there is nothing to verify from {first} on")
    kept = base = None
    if first == 1:
        kept = yield from kept_tree(ledger)
        if kept is None and claims:
            kept = KeptTree(0, {})
        if incremental:
            base = yield from proven_base(source, claims)
            first = 1 if base is None else base.size + 1
    findings = yield from _strays(source)
    findings += yield from own_entries.false_marks(source)
    if source.whole and first == 1:  # else it would take longer than what was asked for
        findings += yield from stored_rows.unindexed()
    findings += yield from protections.check(newer)
    privileged = yield from protections.privileged()
    snapshot = None
    if shared:
        [(snapshot,)] = yield Query(SQL["export_snapshot"])
    notes = yield from rebuilds(source)
    scope = Scope(source, first, newest.position if newest else 0, None if kept is None else kept.leaves, snapshot)
    return _Seen(scope, tail, newest, kept, base, notes, privileged), findings


def _end(source: Source, report: Report, findings: int) -> Plan[None]:
    yield from commit_and_flush()  # what the snapshot showed is durable
    try:
        values = (report.first, report.last, report.head, min(findings, 2**31 - 1))
        yield Query(SQL["record"], (source.ledger_id, *values))
    except Refused:
        return  # a read-only user or server: the report is what counts


def _strays(source: Source) -> Plan[list[Finding]]:
    """Rows where none can be: at positions below 1, and of ledgers that there are not.

    No reader is shown rows of other ledgers, nor of none.
    """
    rows = yield Query(source.statement(SQL["misplaced"]), (source.ledger_id, _STRAYS, source.ledger_id))
    findings = [
        Finding(position, "tail_mismatch", "a row stands before the first position, which is 1") for (position,) in rows
    ]
    rows = (yield Query(SQL["orphans"])) if source.whole else []
    return findings + [
        Finding(position, "broken_link", f"entry {position} stands under ledger_id {ledger_id}, which no ledger has")
        for ledger_id, position in rows
    ]


def _tail_findings(seen: _Seen) -> list[Finding]:
    newest = seen.newest or BEGINNING
    if seen.tail is None:
        detail = f"the ledger's tail is gone; its newest entry is {newest.position}"
        return [Finding(newest.position, "tail_mismatch", detail)]
    findings = Findings()
    check_tail(seen.tail, newest, seen.scope.first, findings)
    return findings.kept
