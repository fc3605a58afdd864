"""Verifies a whole ledger in its database: chain, bodies, tail, and the protections of its tables.

Everything is read in one snapshot; further processes share it. What is found does not depend on how many there are:
each range of positions is judged against the entry before it, wherever that lies.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeAlias

from ledger import migrate, protections, scan, store
from ledger.connections import connect
from ledger.drive import Connection, drive
from ledger.effects import Plan, Query, Refused, SqlScript
from ledger.errors import InvalidSetting, Unavailable
from ledger.events import GENESIS
from ledger.findings import BEGINNING, Finding, Findings, Link, Report, check_tail
from ledger.scan import SQL, Source, Span
from ledger.settings import Settings

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many entries are done, and about how many there are."""
_RANGE = 10_000
"""Positions that are checked at a time."""


class _Seen(NamedTuple):
    """What a verification begins with. newest: None in an empty ledger; tail: None where its row is gone."""

    source: Source
    tail: Link | None
    newest: Link | None
    snapshot: str | None


class _Range(NamedTuple):
    start: int
    end: int


def verify(
    settings: Settings,
    *,
    first: int = 1,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Checks the ledger `settings.name` from position `first` to its end, and what protects its tables.

    workers: processes to share the work; above 1 they are spawned, so a script must guard its main module.
    The outcome is also kept in ledger.verifications, where this database user may write there.
    Raises InvalidSetting for a `first` that is not there, UnknownLedger, SchemaMismatch, Unavailable.
    """
    started = time.perf_counter()
    if first < 1 or workers < 1:
        raise InvalidSetting("positions begin at 1, and it takes at least one worker")
    connection = connect(settings)
    try:
        seen, others = drive(_begin(settings.name, first, workers > 1), lambda: connection)
        last = seen.newest.position if seen.newest else 0
        findings = Findings()
        entries = 0
        for span in _spans(settings, connection, seen, first, workers):
            findings.extend(span.findings)
            entries += span.entries
            if progress is not None:
                progress(entries, max(entries, last - first + 1))
        found = findings.in_order(*others, *_tail_findings(seen, first))
        report = Report(
            ledger=seen.source.name,
            ok=not found,
            first=first,
            last=max(last, first - 1),
            entries=entries,
            head=(seen.newest.stored if seen.newest else None) or GENESIS,
            findings=found,
            seconds=time.perf_counter() - started,
        )
        drive(_end(seen.source, report, len(found) + max(findings.more - 1, 0)), lambda: connection)
    finally:
        connection.close()
    return report


def _begin(name: str, first: int, shared: bool) -> Plan[tuple[_Seen, list[Finding]]]:
    """Opens the snapshot; looks at everything but the entries."""
    migrations = migrate.load()
    yield SqlScript(SQL["begin"])
    yield from migrate.check_schema(migrations)
    ledger = yield from store.find_ledger(name)
    tail = yield from scan.tail_of(ledger)
    source = yield from scan.source_of(ledger)
    newest = yield from scan.newest(source, near=1 if tail is None else tail.position)
    last = max(link.position for link in (tail, newest, BEGINNING) if link is not None)
    if first > last + 1:
        raise InvalidSetting(f"ledger {name!r} ends at position {last}: there is nothing to verify from {first} on")
    findings = yield from scan.strays(source)
    findings += yield from protections.check(migrations)
    snapshot = None
    if shared:
        [(snapshot,)] = yield Query(SQL["export_snapshot"])
    return _Seen(source, tail, newest, snapshot), findings


def _end(source: Source, report: Report, findings: int) -> Plan[None]:
    yield Query("rollback")
    try:
        values = (report.first, report.last, report.head, min(findings, 2**31 - 1))
        yield Query(SQL["record"], (source.ledger_id, *values))
    except Refused:
        return  # a read-only user or server: the report is what counts


def _spans(settings: Settings, connection: Connection, seen: _Seen, first: int, workers: int) -> Iterator[Span]:
    """The outcome of each range, in order."""
    ranges = _ranges(connection, seen, first, workers)
    if seen.snapshot is None:
        for start, end in ranges:
            yield drive(scan.check_range(seen.source, start, end, first), lambda: connection)
        return
    # More would make memory grow with the findings of ranges that no one has asked for yet.
    ahead = 2 * workers
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        under_way: deque[Future[Span]] = deque()
        try:
            for start, end in ranges:
                under_way.append(pool.submit(_check_range, settings, seen, start, end, first))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise Unavailable("a verifying process was killed: try again with fewer workers") from error
        finally:
            for future in under_way:
                future.cancel()


def _ranges(connection: Connection, seen: _Seen, first: int, workers: int) -> Iterator[_Range]:
    """Ranges that have entries; what lies between them is empty, however far a forged row stands off."""
    if seen.newest is None:
        return
    size = min(_RANGE, -(-(seen.newest.position - first + 1) // workers))
    start = drive(scan.next_position(seen.source, first), lambda: connection)
    while start is not None:
        end = min(start + size - 1, store.FAR)
        yield _Range(start, end)
        start = drive(scan.next_position(seen.source, end + 1), lambda: connection) if end < store.FAR else None


def _check_range(settings: Settings, seen: _Seen, start: int, end: int, first: int) -> Span:
    """In a process of its own: the same snapshot on a connection of its own."""
    connection = connect(settings)
    try:
        return drive(_in_snapshot(seen, start, end, first), lambda: connection)
    finally:
        connection.close()


def _in_snapshot(seen: _Seen, start: int, end: int, first: int) -> Plan[Span]:
    yield SqlScript(SQL["begin"])
    yield SqlScript(SQL["import_snapshot"].format(seen.snapshot))
    return (yield from scan.check_range(seen.source, start, end, first))


def _tail_findings(seen: _Seen, first: int) -> list[Finding]:
    newest = seen.newest or BEGINNING
    if seen.tail is None:
        detail = f"the ledger's tail is gone; its newest entry is {newest.position}"
        return [Finding(newest.position, "tail_mismatch", detail)]
    findings = Findings()
    check_tail(seen.tail, newest, first, findings)
    return findings.kept
