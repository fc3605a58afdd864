"""Splits a ledger into ranges of positions and checks each: here, or by several workers that share the snapshot.

Workers are threads with the native core, which checks entries without the interpreter's lock; else they are processes.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import NamedTuple

from ledger.drivers.connections import connect
from ledger.drivers.cursors import Connection
from ledger.drivers.postgres_connection import AnsweringConnection
from ledger.drivers.run import drive
from ledger.effects import Plan, Query, SqlScript
from ledger.errors import Unavailable
from ledger.format import native
from ledger.settings import Settings
from ledger.statements import sql
from ledger.store import ledgers, stored_rows
from ledger.store.stored_rows import Source
from ledger.tlog.tiles import FULL
from ledger.verify.entries import HOLE, LeafTaker, Span, check_range
from ledger.verify.tree import SQL as TREE
from ledger.verify.tree import Job, TreeCheck
from ledger.verify.tree_rebuild import Grown, Leaves

SQL = sql(__file__)
_RANGE = 10_000
"""Positions that are checked at a time."""


class Scope(NamedTuple):
    """What is verified.

    first: the position at which the verification begins. newest: the position of the newest entry, 0 if there is none.
    leaves: how many the kept tiles are of; None if the tree is not looked at. snapshot: its name, for other processes;
    None if there are none.
    """

    source: Source
    first: int
    newest: int
    leaves: int | None
    snapshot: str | None


def check_ranges(
    settings: Settings, connection: Connection, scope: Scope, tree: TreeCheck | None, workers: int
) -> Iterator[tuple[Span, Grown | None]]:
    """The outcome of each range, in order. Raises Unavailable if a process is killed."""
    jobs = _jobs(connection, scope, tree, workers)
    if scope.snapshot is None:
        for job in jobs:
            yield drive(_check(scope, job), connection)
        return
    # More would make memory grow with the findings of ranges that no one has asked for yet.
    ahead = 2 * workers
    idle: deque[AnsweringConnection] | None = None
    pool: Executor
    if native.core is None:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    else:
        pool, idle = ThreadPoolExecutor(workers), deque()
    with pool:
        under_way: deque[Future[tuple[Span, Grown | None]]] = deque()
        try:
            for job in jobs:
                under_way.append(pool.submit(_check_elsewhere, settings, scope, job, idle))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenExecutor as error:
            raise Unavailable("a verifying process was killed: try again with fewer workers") from error
        finally:
            pool.shutdown(cancel_futures=True)
            for other in idle or ():
                other.close()


def _jobs(connection: Connection, scope: Scope, tree: TreeCheck | None, workers: int) -> Iterator[Job]:
    """Ranges that have entries, with the holes before them; of a long hole its beginning is a range, and the rest none.

    So missing entries that are quarantined are named, and have their leaves, however the ledger is split.
    If the tree is looked at, ranges end with tiles, so that each of those is in one range.
    """
    if not scope.newest:
        return
    size = min(_RANGE, -(-(scope.newest - scope.first + 1) // workers))
    if tree is not None:
        size = max(size // FULL, 1) * FULL
    hole = max(size, HOLE + FULL)

    def job(start: int, end: int) -> Job:
        if tree is None:
            return Job(start, end, through=scope.newest)
        return drive(tree.job(start, end - end % FULL if end < ledgers.FAR else end), connection)

    position = scope.first
    while (start := drive(stored_rows.next_position(scope.source, position), connection)) is not None:
        if start - position >= hole:
            yield job(position, position + hole - 1)
            position = start
        ranged = job(position, min(start + size - 1, ledgers.FAR))
        yield ranged
        if ranged.end == ledgers.FAR:
            return
        position = ranged.end + 1


def _check_elsewhere(
    settings: Settings, scope: Scope, job: Job, idle: deque[AnsweringConnection] | None
) -> tuple[Span, Grown | None]:
    """On a connection of a worker's own, in the same snapshot.

    idle: the workers' connections that wait for the next range; None in a process, which has one for each. None of a
    pooler's waits: its transaction would hold a connection that another worker may be waiting for.
    """
    try:
        connection = idle.pop() if idle is not None else _in_snapshot(settings, scope)
    except IndexError:
        connection = _in_snapshot(settings, scope)
    try:
        outcome = drive(_check(scope, job), connection)
    except BaseException:
        connection.close()
        raise
    if idle is not None and connection.direct:
        idle.append(connection)
    else:
        connection.close()
    return outcome


def _in_snapshot(settings: Settings, scope: Scope) -> AnsweringConnection:
    """A new connection, in a transaction that shares the snapshot."""

    def begin() -> Plan[None]:
        yield SqlScript(stored_rows.SQL["begin"])
        yield SqlScript(SQL["import_snapshot"].format(scope.snapshot))

    connection = connect(settings)
    try:
        drive(begin(), connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(scope: Scope, job: Job) -> Plan[tuple[Span, Grown | None]]:
    """Checks the entries of a range, and the tiles over them if the tree is looked at."""
    source, first = scope.source, scope.first
    if scope.leaves is None:
        return (yield from check_range(source, job.start, job.end, first, through=job.through)), None
    made: list[Leaves] = []

    def leaves_anew() -> LeafTaker:
        made.append(Leaves(job.start - 1, job.known))
        return made[-1]

    span = yield from check_range(source, job.start, job.end, first, leaves=leaves_anew, through=job.through)
    hashed = made[-1]
    if hashed.start % FULL == 0:  # else entries are missing before it, and their tile cannot be judged
        rows = yield Query(TREE["leaves"], (source.ledger_id, hashed.start // FULL, (job.end - 1) // FULL))
        hashed.tile_findings(dict(rows), scope.leaves, span.findings)
    return span, hashed.grown(job.sizes)
