"""Rebuilds projections from Postgres, beside the live ones, and swaps them in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from ledger.drivers.connections import connect
from ledger.drivers.cursors import Connection
from ledger.drivers.run import drive
from ledger.effects import Pipeline, Plan, Query, Refused, Rollback, SqlScript
from ledger.errors import ChainBroken, InvalidSetting, ProjectionFailed, SkipRefused, TailBusy, Unavailable, UsageError
from ledger.projection import failures
from ledger.projection.apply import advance_exactly, apply_unseen, move, skipped_by
from ledger.projection.base import (
    SQL,
    Projection,
    Retry,
    add_view_positions,
    building_schema,
    check_projection,
    create_tables,
    lock_work,
    view_positions,
)
from ledger.settings import Settings
from ledger.store.ledgers import BEGIN, COMMIT, LET_REBUILD, LOCK_TIMEOUT, PAGE, LedgerRef, all_ledgers, read, tail_of
from ledger.store.locks import kept, take
from ledger.store.quarantine import vetted
from ledger.store.stuck_sessions import end_silent_sessions
from ledger.telemetry import Progress

BATCH = 5000
ALIVE = 2.0
"""Seconds between two signs of life of a rebuild."""
TRIES = 60
"""How often a swap is tried that readers hold up, a second apart."""

T = TypeVar("T")


def rebuild(
    settings: Settings, projection: Projection, progress: Progress | None = None, *, retry: Retry | None = None
) -> int:
    """Applies every ledger to new tables and swaps them in. Returns how many entries were applied.

    The live view goes on meanwhile. progress: called with entries done and entries to do. retry: a skip to take back.
    Raises ChainBroken with an entry that does not continue the one before, ProjectionFailed with an entry that could
    not be applied, TailBusy if readers hold the live tables for minutes, InvalidSetting if another rebuild of the
    projection runs, SkipRefused if there is no such skip.
    """
    check_projection(projection)
    with closing(connect(settings)) as holder, closing(connect(settings)) as connection:
        holder.answer_timeout = settings.silence_timeout
        if not drive(take(lock_of(projection)), holder):
            raise InvalidSetting(f"another rebuild of {projection.name!r} is running: wait for it to end")
        with kept(holder, connection, settings.silence_timeout) as locked:
            try:
                return _Rebuild(connection, locked, projection, progress or (lambda done, to_do: None), retry).run()
            except (ChainBroken, ProjectionFailed, SkipRefused, TailBusy):
                connection.rollback()
                drive(drop_rebuild(projection), connection)
                raise


class _Rebuild:
    """One rebuild, on a connection of its own. locked: raises if its lock is lost."""

    def __init__(
        self,
        connection: Connection,
        locked: Callable[[], None],
        projection: Projection,
        progress: Progress,
        retry: Retry | None,
    ) -> None:
        self._connection = connection
        self._locked = locked
        self._projection = projection
        self._progress = progress
        self._retry = retry
        self._done = 0

    def run(self) -> int:
        self._drive(begin_rebuild(self._projection, self._drive(all_ledgers())))
        for _ in range(TRIES):
            ledgers = self._drive(all_ledgers())
            while sum(map(self._catch_up, ledgers)) > BATCH:
                pass  # many entries came meanwhile; fewer each time, but hardly ever none
            self._locked()
            try:
                if self._drive(swap(self._projection, ledgers, self._retry)):
                    return self._done
            except (ProjectionFailed, TailBusy):  # at one of the newest: catching up again finds it
                self._connection.rollback()
            time.sleep(1)
        raise TailBusy(f"readers held the tables of {self._projection.name!r} for too long: replay it again later")

    def _catch_up(self, ledger: LedgerRef) -> int:
        """Applies the entries up to the ledger's end as it is now. Returns how many."""
        built = self._drive(view_positions(self._projection.name, building=True)).get(ledger.ledger_id)
        if built is None:
            return 0  # created a moment ago: the swap applies it
        tail, goal = built.tail, self._drive(tail_of(ledger)).position
        while tail.position < goal:
            read_now = self._drive(read(ledger, tail.position, BATCH, goal))
            entries = self._drive(vetted(ledger, tail, read_now, goal))
            advanced = advance_exactly(
                ledger, self._projection, tail, entries, epoch=built.epoch, building=True, retry=self._retry
            )
            moved = self._drive(advanced).get(self._projection.name)
            if moved is None:
                raise Unavailable(
                    f"another rebuild of {self._projection.name!r} took this one's place: replay it again"
                )
            tail = moved.tail
            self._done += len(entries)
            self._progress(self._done, max(goal, self._done))
        return tail.position - built.position

    def _drive(self, plan: Plan[T]) -> T:
        self._locked()
        return drive(plan, self._connection)


_FORBIDDEN = "42501"


def lock_of(projection: Projection) -> Query:
    """The lock (store/locks.py) that a rebuild of this projection holds."""
    return Query(SQL["lock_rebuild"], (projection.name,))


def begin_rebuild(projection: Projection, ledgers: Sequence[LedgerRef]) -> Plan[None]:
    """Creates empty tables beside the live ones, in place of those of an abandoned rebuild. Needs `lock_of`."""
    schema = building_schema(projection)
    yield BEGIN
    yield SqlScript(LET_REBUILD)
    yield COMMIT
    for is_last in (False, True):
        try:
            begin = Query(SQL["begin_rebuild"], (projection.name,))
            yield Pipeline((BEGIN, Query(SQL["short_lock_timeout"]), begin))
            break
        except Refused as refused:
            yield Rollback()
            if refused.sqlstate == LOCK_TIMEOUT:
                # A rebuild that fell silent in a transaction has lost its lock, but still holds what it wrote.
                yield from end_silent_sessions()
                if not is_last:
                    continue
                raise Unavailable(
                    f"a stalled rebuild of {projection.name!r} still holds its tables: replay it again"
                ) from refused
            if refused.sqlstate != _FORBIDDEN:
                raise
            raise UsageError(
                "ledger_owner may not create a schema in this database, which a rebuild needs: run 'auditledger "
                "migrate' as the database's owner, which grants it (copies and restored databases lack that privilege)"
            ) from refused
    yield Pipeline((Query(SQL["as_projector"]), Query(SQL["set_path"], (schema,))))
    yield from create_tables(projection, schema)
    yield from add_view_positions(projection, ledgers, building=True)
    yield COMMIT


def swap(projection: Projection, ledgers: Sequence[LedgerRef], retry: Retry | None = None) -> Plan[bool]:
    """Puts the rebuilt tables in place of the live ones, in one transaction; for when few entries are left to apply.

    It locks the live positions, so that no worker moves them while the rest is applied; readers wait for a moment and
    then see the new tables. retry: is recorded in the same transaction.
    Returns False if readers held the live tables for too long: try again. Raises ProjectionFailed.
    """
    schema = building_schema(projection)
    yield Pipeline(
        (
            BEGIN,
            Query(SQL["lock_all_checkpoints"], (projection.name,)),
            lock_work(schema, [projection]),
            Query(SQL["set_path"], (schema,)),
        )
    )
    live = yield from view_positions(projection.name)
    yield from add_view_positions(projection, ledgers, building=True)
    built = yield from view_positions(projection.name, building=True)
    for ledger in ledgers:
        reached = built[ledger.ledger_id]
        goal = live[ledger.ledger_id].position if ledger.ledger_id in live else 0
        skips = skipped_by(ledger, (yield failures.skips(ledger.ledger_id, [projection.name])), retry)
        while reached.position < goal:
            entries = yield from read(ledger, reached.position, PAGE, goal)
            if not entries and (yield from tail_of(ledger)).position <= reached.position:
                break  # the live view was ahead of a database that was restored
            seen = yield from vetted(ledger, reached.tail, entries, goal)
            reached = yield from apply_unseen(ledger, projection, reached, reached.tail, seen, reached.epoch, skips)
        yield move(ledger.ledger_id, reached, building=True)
    try:
        yield Pipeline(
            (
                Query(SQL["short_lock_timeout"]),
                Query(SQL["swap_in"], (schema, list(projection.tables))),
                Query(SQL["drop_live_checkpoints"], (projection.name,)),
                Query(SQL["raise_checkpoints"], (projection.name,)),
            )
        )
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
        return False
    yield Query(SQL["drop_rebuild"], (projection.name,))
    if retry is None:
        yield COMMIT
    else:
        yield from retry.record()
    return True


def drop_rebuild(projection: Projection) -> Plan[None]:
    """Drops the tables and positions of a rebuild that was given up."""
    yield Query(SQL["drop_rebuild"], (projection.name,))
