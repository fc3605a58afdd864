"""What a projection is; its checkpoint; the plans that move it.

A projection's tables have plain names. They live in the schema `ledger_views`; while they are rebuilt, in a schema of
their own. The search_path decides which of the two a statement means, so a projection never names a schema.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol

from ledger import trouble
from ledger.effects import Apply, Pipeline, Plan, Query, Refused, Rollback, Row, SqlScript, sql
from ledger.errors import (
    ChainBroken,
    ProjectionFailed,
    StreamDiverged,
    Unavailable,
    UnknownProjection,
)
from ledger.events import Entry, Tail
from ledger.findings import erased_by
from ledger.silence import end_silent_sessions
from ledger.store import BEGIN, LOCK_TIMEOUT, LedgerRef

SQL = sql("projection")
LIVE_SCHEMA = "ledger_views"
ABOUT = 100
"""Entries about one resource that are read at a time: 25 MB where each has the largest body."""

_COMMIT = Query("commit")
_DEFERRED = "23"
"""Constraints, which may be checked only at the commit."""


class Writes(Protocol):
    """The transaction in which `apply` changes its tables and its checkpoint moves."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """One statement; its rows, as tuples."""

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """One statement for each set of parameters, in few round trips."""

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Many rows into one table: the fastest way in."""


class Projection(ABC):
    """A read view made from entries, exactly once each, in order.

    name: of the projection, `[a-z][a-z0-9_]*`. version: raise it when `schema` or `apply` changes; the view is then
    rebuilt. tables: the tables that `schema` creates. schema: SQL that creates them, with plain names, every key
    beginning with ledger_id.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]]
    schema: ClassVar[str]

    @abstractmethod
    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        """Brings the tables up to date with the next entries of one ledger, all of them or, by raising, none.

        Must depend on nothing but its tables and the entries: a replay has to give the same rows.
        """

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        """Drops from the tables what came from the body of an entry that was erased; by default there is nothing.

        Called once `apply` was given the erasure (`ledger.entry_erased`), before the entries after it, in the same
        transaction. A replay is given the entry without its body from the beginning: both have to give the same rows.
        entry: as it stands now, without its body. about: all entries about the same resource up to the erasure, as
        they stand now, read from Postgres while they are iterated; none where the entry is about no resource.
        """
        return


class Checkpoint(NamedTuple):
    """How far a projection has come: the tail of what it has seen, and the stream's epoch at that time.

    failed_position: of the entry that it could not apply, where it stands still.
    """

    name: str
    version: int
    epoch: int
    position: int
    hash: bytes
    recorded_at: datetime
    failed_position: int | None = None

    @property
    def tail(self) -> Tail:
        return Tail(self.position, self.hash, self.recorded_at)


class Retry(NamedTuple):
    """A skip that a rebuild takes back: the entry is applied in its place.

    record: makes the plan that records it in the open transaction, the one that puts the view in place, and commits.
    """

    ledger_id: int
    position: int
    record: Callable[[], Plan[Any]]


def install(projection: Projection, ledgers: Sequence[LedgerRef]) -> Plan[None]:
    """Creates the tables where the projection is new, and a checkpoint for every ledger that has none."""
    yield Pipeline(
        (
            *(BEGIN, Query(SQL["as_projector"]), Query(SQL["lock_name"], (projection.name,))),
            Query(SQL["set_path"], (LIVE_SCHEMA,)),
        )
    )
    if not (yield Query(SQL["known"], (projection.name,))):
        yield from create_tables(projection, LIVE_SCHEMA)
    yield from add_checkpoints(projection, ledgers, building=False)
    yield _COMMIT


def checkpoints(name: str, building: bool = False) -> Plan[dict[int, Checkpoint]]:
    """The checkpoints of a projection by ledger_id."""
    rows = yield Query(SQL["checkpoints"], (name, building))
    return {row[0]: Checkpoint(*row[1:]) for row in rows}


def reached(ledger: LedgerRef, name: str) -> Plan[int]:
    """The position that the live projection has reached. Raises UnknownProjection."""
    found = yield from checkpoints(name)
    if ledger.ledger_id not in found:
        raise UnknownProjection(f"there is no projection {name!r} yet: build it with 'auditledger project {name}'")
    return found[ledger.ledger_id].position


def advance(
    ledger: LedgerRef,
    projections: Sequence[Projection],
    start: Tail,
    entries: Sequence[Entry],
    *,
    epoch: int,
    building: bool = False,
    retry: Retry | None = None,
    applied: Callable[[str, int], None] | None = None,
) -> Plan[dict[str, Checkpoint]]:
    """Applies the entries, which continue `start`, to several projections of one ledger in one transaction.

    Each takes from them what it has not seen; one that is elsewhere (another worker was faster) is left alone. Skipped
    entries are left out. building: in the tables of a rebuild, which is of one projection. applied: told of each
    projection that moved, and by how many entries, once that is committed. Returns their checkpoints afterwards.
    Raises ProjectionFailed at the first of the entries that a projection was given, whichever it failed at;
    StreamDiverged where the entries are not the ledger's, and ChainBroken where a view was built over one that is not.
    """
    schema = building_schema(projections[0]) if building else LIVE_SCHEMA
    names = [projection.name for projection in projections]
    last = entries[-1]
    try:
        *_, rows, skipped, there = yield Pipeline(
            (
                BEGIN,
                Query(SQL["set_path"], (schema,)),
                Query(SQL["lock_checkpoints"], (ledger.ledger_id, names, building)),
                trouble.skips(ledger.ledger_id, names),
                Query(SQL["hash_at"], (ledger.ledger_id, last.position)),
            )
        )
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
        yield from end_silent_sessions()
        raise Unavailable(f"another worker holds the checkpoint of {', '.join(names)} for too long") from refused
    if [tuple(row) for row in there] != [(last.hash,)]:
        yield Rollback()
        raise StreamDiverged(f"entry {last.position} of the stream of ledger {ledger.name!r} is not the ledger's")
    held = {row[0]: Checkpoint(*row) for row in rows}
    skips = skips_of(ledger, skipped, retry)
    moves, moved_by = [], {}
    for projection in projections:
        checkpoint = held.get(projection.name)
        if checkpoint is not None and checkpoint.version == projection.version:
            moved = yield from apply_unseen(ledger, projection, checkpoint, start, entries, epoch, skips)
            if moved != checkpoint:
                held[projection.name] = moved
                moved_by[projection.name] = moved.position - checkpoint.position
                moves.append(move(ledger.ledger_id, moved, building))
    try:
        yield Pipeline((*moves, _COMMIT)) if moves else _COMMIT
    except Refused as refused:
        if not refused.sqlstate.startswith(_DEFERRED):
            raise
        failing = next(projection for projection in projections if projection.name in moved_by)
        error = refused.__cause__ or refused
        raise trouble.failure(failing.name, ledger.name, entries[0].position, error, type(failing)) from error
    for name, count in moved_by.items():
        if applied is not None:
            applied(name, count)
    return held


def advance_exactly(
    ledger: LedgerRef,
    projection: Projection,
    start: Tail,
    entries: Sequence[Entry],
    *,
    epoch: int,
    building: bool = False,
    retry: Retry | None = None,
    applied: Callable[[str, int], None] | None = None,
) -> Plan[dict[str, Checkpoint]]:
    """`advance` of one projection; where it fails, in halves, up to the very entry that it cannot apply.

    Raises ProjectionFailed at that entry, with everything before it applied.
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


def skips_of(ledger: LedgerRef, rows: Iterable[Row], retry: Retry | None) -> dict[str, frozenset[int]]:
    """The positions that each projection leaves out."""
    retried = {retry.position} if retry is not None and retry.ledger_id == ledger.ledger_id else set()
    return {name: frozenset(positions) - retried for name, positions in rows}


def apply_unseen(
    ledger: LedgerRef,
    projection: Projection,
    checkpoint: Checkpoint,
    start: Tail,
    entries: Sequence[Entry],
    epoch: int,
    skips: Mapping[str, frozenset[int]],
) -> Plan[Checkpoint]:
    """Lets the projection write what it has not seen; the checkpoint that belongs to it then."""
    fresh = _unseen(checkpoint, start, entries)
    if not fresh:
        return checkpoint
    skipped = skips.get(projection.name, frozenset())
    kept = [entry for entry in fresh if entry.position not in skipped] if skipped else fresh
    if kept:
        error = yield Apply(_applying(projection, ledger, kept, skipped))
        if error is not None:
            raise trouble.failure(projection.name, ledger.name, kept[0].position, error, type(projection))
    last = fresh[-1]
    return checkpoint._replace(epoch=epoch, position=last.position, hash=last.hash, recorded_at=last.recorded_at)


def move(ledger_id: int, to: Checkpoint, building: bool) -> Query:
    """Moves a checkpoint."""
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
    """Lets the projection drop what came from the body of the entry at `position`, erased by that at `erasure`."""
    rows = tx.execute(SQL["entry"], (ledger.ledger_id, position))
    if not rows:
        return
    entry = Entry(ledger.name, *rows[0])
    if entry.erased:
        about = (each for each in _about(ledger, entry, erasure, tx) if each.position not in skipped)
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


def _unseen(checkpoint: Checkpoint, start: Tail, entries: Sequence[Entry]) -> Sequence[Entry]:
    seen = checkpoint.position - start.position
    if not 0 <= seen < len(entries):
        return ()
    before = start if seen == 0 else entries[seen - 1].tail
    if before.hash != checkpoint.hash:
        raise ChainBroken(
            checkpoint.position,
            f"projection {checkpoint.name!r} was built over another entry than the ledger's: look into it, "
            f"then 'auditledger replay {checkpoint.name}'",
        )
    return entries[seen:]


def building_schema(projection: Projection) -> str:
    """Where a rebuild has its tables until they are swapped in."""
    return f"ledger_rebuild_{projection.name}"


def create_tables(projection: Projection, schema: str) -> Plan[None]:
    """In the schema that the search_path names first."""
    yield SqlScript(projection.schema)
    yield Query(SQL["protect"], (schema, list(projection.tables)))


def add_checkpoints(projection: Projection, ledgers: Sequence[LedgerRef], building: bool) -> Plan[None]:
    """For the ledgers that have none yet."""
    ids = [ledger.ledger_id for ledger in ledgers]
    yield Query(SQL["add_checkpoints"], (projection.name, building, projection.version, ids))
