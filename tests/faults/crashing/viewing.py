"""Jobs on views: projected live, installed, and rebuilt with a swap."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg
from ledger_projections import Timeline

from ledger import Entry, Ledger, Projection, Writes
from ledger.drivers.pools import Connector
from ledger.errors import SkipRefused
from ledger.format.actions import RETRIED, SKIPPED
from ledger.projection import rebuild as replay
from ledger.projection import worker
from ledger.projection.rebuild import rebuild
from ledger.projection.retries import unskip
from ledger.projection.worker import Projector
from ledger.store import ledgers
from tests.faults.crashing.jobs import BATCH, Job, Tell, World, again, check_receipts
from tests.support.failing_projection import positions, standstill
from tests.support.helpers import checked
from tests.support.projections import Count
from tests.support.signed_checkpoints import MAIN
from tests.support.views import BUILT_IN, leftovers, project, rows


def check_views(world: World) -> None:
    """Every view is what a replay makes of the ledger."""
    project(world.ledger)
    live = {view: rows(world.admin, view.name) for view in BUILT_IN}
    assert all(live.values())
    for view, before in live.items():
        rebuild(world.ledger.settings, view())
        assert rows(world.admin, view.name) == before, f"{view.name} differs from its replay"
    assert leftovers(world.admin) == 0


def check_checkpoints(world: World) -> None:
    """Each view shows just what its checkpoint says that it has seen: as far as two of them tell."""
    checkpoints: psycopg.Cursor[tuple[str, int]] = world.admin.execute(
        "select name, position from ledger.projections where not building"
    )
    held = dict(checkpoints.fetchall())
    [shown] = world.admin.execute(
        """
        select (select max(position) from ledger_views.timeline), (select sum(entries) from ledger_views.actor_activity)
        """
    ).fetchall()
    assert (held["timeline"], held["actor_activity"]) == shown


class Project(Job):
    """From Postgres, many at once: each view in a transaction of its own, with an erasure in the middle."""

    def prepare(self, world: World) -> None:
        """It erases what was projected before."""
        if not world.ledger.tail().position:
            world.ledger.append_many(self.events(2))
            project(world.ledger)
        seen = world.ledger.tail().position
        world.ledger.append_many(self.events(2, 2))
        world.ledger.erase(seen, "officer", "asked for")
        world.ledger.append_many(self.events(2, 4))

    def run(self, tell: Tell) -> None:
        # One view after the other, in the same order always.
        vars(worker).update(MANY=BATCH, ThreadPoolExecutor=lambda _: ThreadPoolExecutor(1))
        views = [each() for each in BUILT_IN]
        with closing(Connector(self.settings)) as servers, closing(Projector(servers, views)) as running:
            again(running.catch_up)
            assert not running.failed

    def look(self, world: World) -> None:
        check_checkpoints(world)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        check_checkpoints(world)
        tail = world.ledger.tail().position
        assert set(world.admin.execute("select position from ledger.projections where not building")) == {(tail,)}


class ProjectFew(Project):
    """From the stream, a few: all views in one transaction."""

    def prepare(self, world: World) -> None:
        world.ledger.append_many(self.events(2))
        world.relay.publish()


class Install(Job):
    """A view that was not there before."""

    def prepare(self, world: World) -> None:
        world.admin.execute("drop table if exists ledger_views.count")
        world.admin.execute("delete from ledger.projections where name = 'count'")
        if not world.ledger.tail().position:
            world.ledger.append_many(self.events(3))
            project(world.ledger)

    def run(self, tell: Tell) -> None:
        with closing(Connector(self.settings)) as servers, closing(Projector(servers, [Count()])) as running:
            again(running.install)
            again(running.catch_up)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        assert rows(world.admin, "count") == ["(1,3)"]
        assert set(world.admin.execute("select position from ledger.projections")) == {(3,)}


class Choosy(Projection):
    """Positions. refuses: the entry that it does not take."""

    name = "choosy"
    tables: ClassVar[tuple[str, ...]] = ("choosy",)
    schema = "create table choosy (ledger_id int, position bigint, primary key (ledger_id, position))"

    def __init__(self, refuses: int | None = None) -> None:
        self._refuses = refuses

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        positions = [entry.position for entry in entries]
        if self._refuses in positions:
            raise ValueError("a mistake in the view")
        tx.copy("choosy", ["ledger_id", "position"], [(ledger_id, position) for position in positions])


@dataclass
class Skip(Job):
    """An entry that a view cannot take is skipped on the record, and taken back once the view was mended."""

    poison: int = 0

    def prepare(self, world: World) -> None:
        project(world.ledger, [Choosy()])
        world.ledger.append_many(self.events(2))
        self.poison = world.ledger.tail().position - 1

    def run(self, tell: Tell) -> None:
        replay.BATCH = ledgers.STEP = 100_000  # the ledger grows with every run, and no effect may be added by that
        with Ledger(self.settings) as ledger, closing(Connector(self.settings)) as servers:
            with closing(Projector(servers, [Choosy(self.poison)])) as running:
                again(running.catch_up)
            with suppress(SkipRefused):  # it was taken back already
                tell("skipped", again(lambda: ledger.skip("choosy", self.poison, "officer", "a mistake")))
            with suppress(SkipRefused):
                again(lambda: unskip(servers, Choosy(), MAIN, self.poison, "officer", "mended"))

    def look(self, world: World) -> None:
        """What is skipped is on the record and left out, and what was taken back is neither."""
        skips = world.admin.execute("select position, skipped, retried from ledger.skips").fetchall()
        said = {entry.position: entry.action for entry in checked(world.ledger) if entry.action in (SKIPPED, RETRIED)}
        retried = {retried: RETRIED for *_, retried in skips if retried is not None}
        assert said == {skipped: SKIPPED for _, skipped, _ in skips} | retried
        left_out = {position for position, _, retried in skips if retried is None}
        seen, *_ = standstill(world.admin, "choosy")
        assert positions(world.admin, "choosy") == [each for each in range(1, seen + 1) if each not in left_out]

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        self.look(world)
        check_receipts(checked(world.ledger), told)
        done = "select count(retried), count(*) from ledger.skips where position = %s"
        assert world.admin.execute(done, (self.poison,)).fetchall() == [(1, 1)]
        assert leftovers(world.admin) == 0


class Rebuild(Job):
    """A view that lags behind is replayed beside the live one, and swapped in."""

    count = 2 * BATCH

    def prepare(self, world: World) -> None:
        if not world.ledger.tail().position:
            world.ledger.append_many(self.events(self.count))
            project(world.ledger)
        world.admin.execute("delete from ledger_views.timeline where position = %s", (self.count,))
        world.admin.execute(
            """
            update ledger.projections as checkpoint
            set position = entry.position, hash = entry.hash, recorded_at = entry.recorded_at
            from ledger.audit_logs as entry where entry.position = %s and name = 'timeline'
            """,
            (self.count - 1,),
        )

    def run(self, tell: Tell) -> None:
        replay.BATCH = BATCH
        again(lambda: rebuild(self.settings, Timeline()))

    def look(self, world: World) -> None:
        check_checkpoints(world)
        assert leftovers(world.admin) in (0, 2)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        check_checkpoints(world)
        assert len(rows(world.admin, "timeline")) == self.count
        assert leftovers(world.admin) == 0
