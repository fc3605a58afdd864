"""Verifies a whole ledger in its database: chain, bodies, tail, its Merkle tree, and the protections of its tables.

Everything is read in one snapshot; further processes share it. What is found does not depend on how many there are:
each range of positions is judged against the entry before it, wherever that lies. Where the ledger keeps tiles or
checkpoints, or is to be compared with some, its tree is made anew from the entries while they are read.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from ledger.drivers.connections import connect
from ledger.drivers.run import Connection, drive
from ledger.effects import Plan, Query, Refused, SqlScript
from ledger.errors import InvalidSetting, Unavailable
from ledger.events import GENESIS
from ledger.format.findings import BEGINNING, Finding, Findings, Link, Report, check_tail
from ledger.migrate import journal, migrate
from ledger.settings import Settings
from ledger.store import damage, ledgers, stored_rows
from ledger.store.stored_rows import SQL, Source
from ledger.telemetry import Progress
from ledger.tlog.tiles import FULL
from ledger.verify import entries, own_lookups, protections
from ledger.verify import tree as treecheck
from ledger.verify.checkpoints import Claim, Trust, given_claims
from ledger.verify.entries import Span
from ledger.verify.tree import Base, Job, KeptTree, TreeCheck
from ledger.verify.tree_rebuild import Grown

"""Called with how many entries are done, and about how many there are."""
_RANGE = 10_000
"""Positions that are checked at a time."""


class _Seen(NamedTuple):
    """What a verification begins with.

    first: the position. newest: None in an empty ledger; tail: None where its row is gone. kept: None where the tree is
    not looked at. base: of an incremental verification.
    notes, privileged: as the report has them.
    """

    source: Source
    first: int
    tail: Link | None
    newest: Link | None
    kept: KeptTree | None
    base: Base | None
    snapshot: str | None
    notes: tuple[str, ...]
    privileged: list[str]

    @property
    def leaves(self) -> int | None:
        return None if self.kept is None else self.kept.leaves


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
        seen, others = drive(begin, lambda: connection)
        first, last = seen.first, seen.newest.position if seen.newest else 0
        tree = None
        if seen.kept is not None:
            tree = TreeCheck(seen.source.ledger, seen.kept, last, claims, trust.keys, seen.base)
        findings, about_others = Findings(), Findings()
        own = drive(own_lookups.beginning(seen.source, first, about_others), lambda: connection)
        entries = 0
        for span, grown in _spans(settings, connection, seen, tree, workers):
            findings.extend(span.findings)
            entries += span.entries
            drive(own_lookups.follow(seen.source, own, span.own), lambda: connection)
            if tree is not None and grown is not None:
                drive(tree.take(grown), lambda: connection)
            if progress is not None:
                progress(entries, max(entries, last - first + 1))
        if tree is not None:
            drive(tree.end(), lambda: connection)
            others += tree.findings.in_order()
        found = findings.in_order(*others, *about_others.in_order(), *_tail_findings(seen))
        report = Report(
            ledger=seen.source.name,
            ok=not found,
            first=first,
            last=max(last, first - 1),
            entries=entries,
            head=(seen.newest.stored if seen.newest else None) or GENESIS,
            findings=found,
            seconds=time.perf_counter() - started,
            notes=seen.notes,
            privileged=seen.privileged,
        )
        drive(_end(seen.source, report, len(found) + max(findings.more - 1, 0)), lambda: connection)
    finally:
        connection.close()
    return report


def _begin(
    name: str, first: int, claims: Sequence[Claim], incremental: bool, shared: bool
) -> Plan[tuple[_Seen, list[Finding]]]:
    """Opens the snapshot; looks at everything but the entries."""
    migrations = journal.load()
    yield SqlScript(SQL["begin"])
    newer = yield from migrate.check_schema(migrations)
    ledger = yield from ledgers.find_ledger(name)
    tail = yield from entries.tail_of(ledger)
    source = yield from stored_rows.source_of(ledger)
    if tail is None:
        newest = yield from stored_rows.newest(source)
    else:  # an entry that cannot be read is named when its turn comes
        newest = yield from entries.newest_or(tail, source, near=tail.position)
    last = max(link.position for link in (tail, newest, BEGINNING) if link is not None)
    if first > last + 1:
        raise InvalidSetting(f"ledger {name!r} ends at position {last}: there is nothing to verify from {first} on")
    kept = base = None
    if first == 1:
        kept = yield from treecheck.kept_tree(ledger)
        if kept is None and claims:
            kept = KeptTree(0, {})
        if incremental:
            base = yield from treecheck.proven_base(source, claims)
            first = 1 if base is None else base.size + 1
    findings = yield from entries.strays(source)
    findings += yield from own_lookups.false_marks(source)
    if source.whole and first == 1:  # else it would take longer than what was asked for
        findings += yield from damage.unindexed()
    findings += yield from protections.check(newer)
    privileged = yield from protections.privileged()
    snapshot = None
    if shared:
        [(snapshot,)] = yield Query(SQL["export_snapshot"])
    notes = yield from treecheck.rebuilds(source)
    return _Seen(source, first, tail, newest, kept, base, snapshot, notes, privileged), findings


def _end(source: Source, report: Report, findings: int) -> Plan[None]:
    yield Query("rollback")
    try:
        values = (report.first, report.last, report.head, min(findings, 2**31 - 1))
        yield Query(SQL["record"], (source.ledger_id, *values))
    except Refused:
        return  # a read-only user or server: the report is what counts


def _spans(
    settings: Settings, connection: Connection, seen: _Seen, tree: TreeCheck | None, workers: int
) -> Iterator[tuple[Span, Grown | None]]:
    """The outcome of each range, in order."""
    jobs = _jobs(connection, seen, tree, workers)
    if seen.snapshot is None:
        for job in jobs:
            yield drive(treecheck.check_range(seen.source, job, seen.first, seen.leaves), lambda: connection)
        return
    # More would make memory grow with the findings of ranges that no one has asked for yet.
    ahead = 2 * workers
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        under_way: deque[Future[tuple[Span, Grown | None]]] = deque()
        try:
            for job in jobs:
                under_way.append(pool.submit(_check_range, settings, seen, job))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise Unavailable("a verifying process was killed: try again with fewer workers") from error
        finally:
            for future in under_way:
                future.cancel()


def _jobs(connection: Connection, seen: _Seen, tree: TreeCheck | None, workers: int) -> Iterator[Job]:
    """Ranges that have entries; what lies between them is empty, however far a forged row stands off.

    Where the tree is looked at they end with tiles, so that each of those is in one range.
    """
    if seen.newest is None:
        return
    size = min(_RANGE, -(-(seen.newest.position - seen.first + 1) // workers))
    if tree is not None:
        size = max(size // FULL, 1) * FULL
    at = seen.first
    while (start := drive(stored_rows.next_position(seen.source, at), lambda: connection)) is not None:
        if tree is not None and start - at < size:
            start = at  # missing entries that are quarantined have leaves too
        end = start + size - 1
        if tree is not None:
            end -= end % FULL
        end = min(end, ledgers.FAR)
        job = Job(start, end, through=seen.newest.position)
        yield job if tree is None else drive(tree.job(start, end), lambda: connection)
        if end == ledgers.FAR:
            return
        at = end + 1


def _check_range(settings: Settings, seen: _Seen, job: Job) -> tuple[Span, Grown | None]:
    """In a process of its own: the same snapshot on a connection of its own."""
    connection = connect(settings)
    try:
        return drive(_in_snapshot(seen, job), lambda: connection)
    finally:
        connection.close()


def _in_snapshot(seen: _Seen, job: Job) -> Plan[tuple[Span, Grown | None]]:
    yield SqlScript(SQL["begin"])
    yield SqlScript(SQL["import_snapshot"].format(seen.snapshot))
    return (yield from treecheck.check_range(seen.source, job, seen.first, seen.leaves))


def _tail_findings(seen: _Seen) -> list[Finding]:
    newest = seen.newest or BEGINNING
    if seen.tail is None:
        detail = f"the ledger's tail is gone; its newest entry is {newest.position}"
        return [Finding(newest.position, "tail_mismatch", detail)]
    findings = Findings()
    check_tail(seen.tail, newest, seen.first, findings)
    return findings.kept
