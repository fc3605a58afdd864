"""Applies entries to projections: those that they have not seen, without those that they skip. Plans.

Exactly once: view positions move in the transaction that changes the tables. Erasures are carried out in it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ledger.effects import Apply, Pipeline, Plan, Query, Refused, Rollback, Row
from ledger.errors import ChainBroken, ProjectionFailed, StreamDiverged, Unavailable
from ledger.events import Entry, Quarantined, Seen, Tail
from ledger.format.actions import erased_by
from ledger.projection import failures
from ledger.projection.base import LIVE_SCHEMA, SQL, Projection, Retry, ViewPosition, Writes, building_schema, lock_work
from ledger.store.ledgers import BEGIN, COMMIT, LOCK_TIMEOUT, LedgerRef
from ledger.store.quarantine import holds, if_chained
from ledger.store.stuck_sessions import end_silent_sessions

ABOUT = 100
"""Entries about one resource that are read at a time: 25 MB where each has the largest body."""
_OF_SERVER = ("40", "53", "55", "57", "58", "XX")
"""Classes of SQLSTATE of the server's own errors. Any other that a commit raises is of a view's deferred constraint."""


def advance(
    ledger: LedgerRef,
    projections: Sequence[Projection],
    start: Tail,
    entries: Sequence[Seen],
    *,
    epoch: int,
    building: bool = False,
    retry: Retry | None = None,
    applied: Callable[[str, int], None] | None = None,
) -> Plan[dict[str, ViewPosition]]:
    """Applies the entries, which continue `start`, to several projections of one ledger in one transaction.

    Each gets those that it has not seen, without those that it skips; one that is elsewhere, because another worker was
    faster, gets none. building: in the tables of a rebuild, which is of one projection. applied: called with the name
    of each projection that moved, and by how many entries, after the commit. Returns their positions afterwards.
    Raises ProjectionFailed with the first entry that a projection got, whichever it failed at; StreamDiverged if the
    entries are not the ledger's; ChainBroken if a view was built over an entry that is not.
    """
    schema = building_schema(projections[0]) if building else LIVE_SCHEMA
    names = [projection.name for projection in projections]
    last = entries[-1]
    try:
        _, rows, *_, skipped, chained = yield Pipeline(
            (
                BEGIN,
                Query(SQL["lock_checkpoints"], (ledger.ledger_id, names, building)),
                lock_work(schema, projections),
                Query(SQL["set_path"], (schema,)),
                failures.skips(ledger.ledger_id, names),
                if_chained(ledger, last.position, last.hash),
            )
        )
    except Refused as refused:
        if refused.sqlstate == failures.NOT_PLAIN:
            raise _failure(projections[0], ledger, entries, refused) from refused
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
        yield from end_silent_sessions()
        raise Unavailable(f"another worker holds the position of {', '.join(names)} for too long") from refused
    if not chained[0][0] and not isinstance(last, Quarantined):  # which comes from Postgres, never from a stream
        yield Rollback()
        raise StreamDiverged(f"entry {last.position} of the stream of ledger {ledger.name!r} is not the ledger's")
    held = {row[0]: ViewPosition(*row) for row in rows}
    skips = skipped_by(ledger, skipped, retry)
    moves, moved_by = [], {}
    for projection in projections:
        view_position = held.get(projection.name)
        if view_position is not None and view_position.version == projection.version:
            moved = yield from apply_unseen(ledger, projection, view_position, start, entries, epoch, skips)
            if moved != view_position:
                held[projection.name] = moved
                moved_by[projection.name] = moved.position - view_position.position
                moves.append(move(ledger.ledger_id, moved, building))
    try:
        yield Pipeline((*moves, COMMIT)) if moves else COMMIT
    except Refused as refused:
        if refused.sqlstate.startswith(_OF_SERVER):
            raise
        failing = next(projection for projection in projections if projection.name in moved_by)
        raise _failure(failing, ledger, entries, refused) from refused
    for name, count in moved_by.items():
        if applied is not None:
            applied(name, count)
    return held


def _failure(projection: Projection, ledger: LedgerRef, entries: Sequence[Seen], refused: Refused) -> ProjectionFailed:
    error = refused.__cause__ or refused
    return failures.failure(projection.name, ledger.name, entries[0].position, error, type(projection))


def advance_exactly(
    ledger: LedgerRef,
    projection: Projection,
    start: Tail,
    entries: Sequence[Seen],
    *,
    epoch: int,
    building: bool = False,
    retry: Retry | None = None,
    applied: Callable[[str, int], None] | None = None,
) -> Plan[dict[str, ViewPosition]]:
    """`advance` of one projection; if it fails, in halves, up to the entry that it cannot apply.

    Raises ProjectionFailed with that entry; everything before it is applied.
    """
    options: dict[str, Any] = {"epoch": epoch, "building": building, "retry": retry, "applied": applied}
    try:
        return (yield from advance(ledger, [projection], start, entries, **options))
    except ProjectionFailed:
        yield Rollback()
        if len(entries) == 1:
            raise
    half = len(entries) // 2
    yield from advance_exactly(ledger, projection, start, entries[:half], **options)
    return (yield from advance_exactly(ledger, projection, entries[half - 1].tail, entries[half:], **options))


def skipped_by(ledger: LedgerRef, rows: Iterable[Row], retry: Retry | None) -> dict[str, frozenset[int]]:
    """The positions that each projection skips. rows: of failures.skips. retry: the skip that is taken back."""
    retried = {retry.position} if retry is not None and retry.ledger_id == ledger.ledger_id else set()
    return {name: frozenset(positions) - retried for name, positions in rows}


def apply_unseen(
    ledger: LedgerRef,
    projection: Projection,
    view_position: ViewPosition,
    start: Tail,
    entries: Sequence[Seen],
    epoch: int,
    skips: Mapping[str, frozenset[int]],
) -> Plan[ViewPosition]:
    """Applies the entries that the projection has not seen. Returns its position afterwards."""
    fresh = _unseen(view_position, start, entries)
    if not fresh:
        return view_position
    skipped = skips.get(projection.name, frozenset())
    kept = [entry for entry in fresh if isinstance(entry, Entry) and entry.position not in skipped]
    if kept:
        error = yield Apply(_applying(projection, ledger, kept, skipped))
        if error is not None:
            raise failures.failure(projection.name, ledger.name, kept[0].position, error, type(projection))
    last = fresh[-1]
    return view_position._replace(epoch=epoch, position=last.position, hash=last.hash, recorded_at=last.recorded_at)


def move(ledger_id: int, to: ViewPosition, building: bool) -> Query:
    """The statement that moves a view position."""
    params = (to.epoch, to.position, to.hash, to.recorded_at, ledger_id, to.name, building)
    return Query(SQL["move_checkpoint"], params)


def _applying(
    projection: Projection, ledger: LedgerRef, entries: Sequence[Entry], skipped: frozenset[int]
) -> Callable[[Writes], None]:
    def apply(tx: Writes) -> None:
        done = 0
        for end, entry in enumerate(entries, 1):
            erased = erased_by(entry.action, entry.resource_type, entry.resource_id, entry.position)
            if erased is not None:
                projection.apply(ledger.ledger_id, entries[done:end], tx)
                if erased not in skipped:
                    _erase(projection, ledger, erased, entry.position, skipped, tx)
                done = end
        if done < len(entries):
            projection.apply(ledger.ledger_id, entries[done:], tx)

    return apply


def _erase(
    projection: Projection, ledger: LedgerRef, position: int, erasure: int, skipped: frozenset[int], tx: Writes
) -> None:
    """Has the projection drop what came from the body of the entry at `position`, erased by that at `erasure`."""
    rows = tx.execute(SQL["entry"], (ledger.ledger_id, position))
    if not rows:
        return
    entry = Entry(ledger.name, *rows[0])
    if entry.erased:
        about = (each for each in _about(ledger, entry, erasure, tx) if each.position not in skipped and holds(each))
        projection.erase(ledger.ledger_id, entry, about, tx)


def _about(ledger: LedgerRef, entry: Entry, last: int, tx: Writes) -> Iterator[Entry]:
    """The entries about the same resource up to a position, in order, page by page."""
    after = 0
    while entry.resource_type is not None:
        resource = (entry.resource_type, entry.resource_id)
        rows = tx.execute(SQL["about"], (ledger.ledger_id, *resource, after, last, ABOUT))
        for row in rows:
            yield Entry(ledger.name, *row)
        if len(rows) < ABOUT:
            return
        after = rows[-1][0]


def _unseen(view_position: ViewPosition, start: Tail, entries: Sequence[Seen]) -> Sequence[Seen]:
    seen = view_position.position - start.position
    if not 0 <= seen < len(entries):
        return ()
    before = start if seen == 0 else entries[seen - 1].tail
    if before.hash != view_position.hash:
        raise ChainBroken(
            view_position.position,
            f"projection {view_position.name!r} was built over another entry than the ledger's: find out why, "
            f"then 'auditledger replay {view_position.name}'",
        )
    return entries[seen:]
