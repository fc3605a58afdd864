"""Rebuilds a projection beside the live one and puts it in its place. Plans."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.effects import Pipeline, Plan, Query, Refused, Rollback, SqlScript
from ledger.errors import Unavailable, UsageError
from ledger.projection import failures
from ledger.projection.apply import apply_unseen, move, skipped_by
from ledger.projection.base import (
    SQL,
    Projection,
    Retry,
    add_checkpoints,
    building_schema,
    checkpoints,
    create_tables,
    lock_work,
)
from ledger.store.ledgers import BEGIN, COMMIT, LET_REBUILD, LOCK_TIMEOUT, PAGE, LedgerRef, read, tail_of
from ledger.store.quarantine import vetted
from ledger.store.stuck_sessions import end_silent_sessions

_FORBIDDEN = "42501"


def lock_of(projection: Projection) -> Query:
    """The lock (store/locks.py) that a rebuild of this projection holds."""
    return Query(SQL["lock_rebuild"], (projection.name,))


def begin_rebuild(projection: Projection, ledgers: Sequence[LedgerRef]) -> Plan[None]:
    """Empty tables beside the live ones, in place of those of a rebuild that was given up. Wants the lock."""
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
                # One that fell silent in the middle of what it says has lost its lock, but not yet what it writes.
                yield from end_silent_sessions()
                if not is_last:
                    continue
                raise Unavailable(
                    f"a rebuild of {projection.name!r} that fell silent still holds its tables: replay it again"
                ) from refused
            if refused.sqlstate != _FORBIDDEN:
                raise
            raise UsageError(
                "ledger_owner may not create a schema in this database, which a rebuild needs: run 'auditledger "
                "migrate' as the database's owner, who lets it (copies and restored databases have no such privileges)"
            ) from refused
    yield Pipeline((Query(SQL["as_projector"]), Query(SQL["set_path"], (schema,))))
    yield from create_tables(projection, schema)
    yield from add_checkpoints(projection, ledgers, building=True)
    yield COMMIT


def swap(projection: Projection, ledgers: Sequence[LedgerRef], retry: Retry | None = None) -> Plan[bool]:
    """Puts the rebuilt tables in the live ones' place, in one transaction; for when few entries are left to replay.

    While it holds the live checkpoints no worker moves them, so the rest can be caught up; readers wait for a moment
    and then see the new tables. retry: is recorded in the same transaction.
    False where readers held the live tables for too long: try again. Raises ProjectionFailed.
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
    live = yield from checkpoints(projection.name)
    yield from add_checkpoints(projection, ledgers, building=True)
    built = yield from checkpoints(projection.name, building=True)
    for ledger in ledgers:
        at = built[ledger.ledger_id]
        goal = live[ledger.ledger_id].position if ledger.ledger_id in live else 0
        skips = skipped_by(ledger, (yield failures.skips(ledger.ledger_id, [projection.name])), retry)
        while at.position < goal:
            entries = yield from read(ledger, at.position, PAGE, goal)
            if not entries and (yield from tail_of(ledger)).position <= at.position:
                break  # the live view had seen more than a database that was set back
            seen = yield from vetted(ledger, at.tail, entries, goal)
            at = yield from apply_unseen(ledger, projection, at, at.tail, seen, at.epoch, skips)
        yield move(ledger.ledger_id, at, building=True)
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
    """Clears away a rebuild that was given up."""
    yield Query(SQL["drop_rebuild"], (projection.name,))
