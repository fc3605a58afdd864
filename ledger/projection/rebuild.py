"""Rebuilds projections from Postgres, beside the live ones, and swaps them in."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

from ledger.drivers.connections import connect
from ledger.drivers.cursors import Connection
from ledger.drivers.run import drive
from ledger.effects import Plan
from ledger.errors import (
    ChainBroken,
    InvalidSetting,
    ProjectionFailed,
    SkipRefused,
    TailBusy,
    Unavailable,
    UnknownProjection,
)
from ledger.projection.apply import advance_exactly
from ledger.projection.base import Projection, Retry, check_projection, checkpoints
from ledger.projection.rebuilding import begin_rebuild, drop_rebuild, lock_of, swap
from ledger.settings import Settings
from ledger.store.ledgers import LedgerRef, all_ledgers, read, tail_of
from ledger.store.locks import kept, take
from ledger.store.quarantine import vetted

GROUP = "auditledger.projections"
"""The entry points under which packages offer their projections."""
BATCH = 5000
ALIVE = 2.0
"""Seconds between two signs of life of a rebuild."""
TRIES = 60
"""How often a swap that readers hold up is tried, a second apart."""

T = TypeVar("T")
Progress = Callable[[int, int], None]


def find_projections(names: list[str] | None = None) -> list[Projection]:
    """Projections by name, or as `module:Class`; all installed ones where none is named. Raises UnknownProjection."""
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    found: list[Projection] = []
    for name in names or sorted(offered):
        try:
            made = offered[name].load() if name in offered else _load(name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise UnknownProjection(f"projection {name!r} cannot be loaded: {error}") from error
        if isinstance(made, Projection):
            raise UnknownProjection(f"{name!r} is an instance: name its class, {type(made).__name__}")
        if not (isinstance(made, type) and issubclass(made, Projection)):
            raise UnknownProjection(f"{name!r} is not a Projection: it must be a subclass of ledger.Projection")
        try:
            found.append(check_projection(made()))
        except TypeError as error:  # it wants arguments, or lacks a method
            raise UnknownProjection(f"{name!r} cannot be made: {error}") from error
    return found


def _load(name: str) -> object:
    module, colon, attribute = name.partition(":")
    if not colon or not all(each.isidentifier() for each in (*module.split("."), attribute)):
        known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP)))
        raise UnknownProjection(f"there is no projection {name!r}; known are {known}; your own goes by module:Class")
    return getattr(import_module(module), attribute)


def rebuild(
    settings: Settings, projection: Projection, progress: Progress | None = None, *, retry: Retry | None = None
) -> int:
    """Replays every ledger into new tables and swaps them in. Returns how many entries that took.

    The live view goes on meanwhile. progress: called with entries done and entries to do. retry: take a skip back.
    Raises ChainBroken at an entry that does not continue the one before, ProjectionFailed at the entry that could not
    be applied, TailBusy where readers hold the live tables for minutes, InvalidSetting where another rebuild of the
    same projection runs, SkipRefused where there is nothing to take back.
    """
    check_projection(projection)
    with closing(connect(settings)) as holder, closing(connect(settings)) as connection:
        holder.patience = settings.patience
        if not drive(take(lock_of(projection)), lambda: holder):
            raise InvalidSetting(f"another rebuild of {projection.name!r} is running: wait for it to end")
        with kept(holder, connection, settings.patience) as locked:
            try:
                return _Rebuild(connection, locked, projection, progress or (lambda done, to_do: None), retry).run()
            except (ChainBroken, ProjectionFailed, SkipRefused, TailBusy):
                connection.rollback()
                drive(drop_rebuild(projection), lambda: connection)
                raise


class _Rebuild:
    """One rebuild, on a connection of its own. locked: raises where its lock is lost."""

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
                pass  # much has come meanwhile; it gets less, but hardly ever nothing
            self._locked()
            try:
                if self._drive(swap(self._projection, ledgers, self._retry)):
                    return self._done
            except (ProjectionFailed, TailBusy):  # at one of the newest: catching up again finds which
                self._connection.rollback()
            time.sleep(1)
        raise TailBusy(f"readers held the tables of {self._projection.name!r} for too long: replay it again later")

    def _catch_up(self, ledger: LedgerRef) -> int:
        """Replays up to the ledger's end as it is now. Returns how many entries that took."""
        built = self._drive(checkpoints(self._projection.name, building=True)).get(ledger.ledger_id)
        if built is None:
            return 0  # created a moment ago: the swap replays it
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
        return drive(plan, lambda: self._connection)
