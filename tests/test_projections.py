"""What holds for every projection: rebuilt as it was live, swapped unseen, stopped alone, moved exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import psycopg
import pytest
from ledger_projections import ActorActivity, ResourceState, Timeline, search

from ledger import Entry, Event, Ledger, Projection, ProjectionFailed, UnknownProjection, Writes
from ledger import projection as plans
from ledger.chain import check_continues
from ledger.connections import connect
from ledger.consumer import BEGINNING
from ledger.drive import drive
from ledger.errors import ConnectionLost, InvalidSetting
from ledger.projector import Projector
from ledger.relay import Relay
from ledger.replay import rebuild
from ledger.servers import Servers
from tests.support import race
from tests.views import BUILT_IN, cut, project, projector, rows, some_events


class Count(Projection):
    """How many entries there are: the smallest projection. It fails on the action `poison`."""

    name = "count"
    version = 1
    tables: ClassVar[tuple[str, ...]] = ("count",)
    schema = "create table count (ledger_id int primary key, entries bigint not null)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        for entry in entries:
            tx.execute(
                "insert into count values (%s, 1) on conflict (ledger_id) do update set entries = count.entries + 1",
                (ledger_id,),
            )
            if entry.action == "poison":
                raise ValueError("poisoned")


@pytest.mark.parametrize("view", BUILT_IN)
def test_rebuilt_as_it_was_live(ledger: Ledger, admin: psycopg.Connection, view: type[Projection]) -> None:
    """Row for row, whatever batches came live."""
    ledger.append_many(some_events(1500))
    projection, servers = view(), Servers(ledger.settings)
    servers.run(plans.install(projection, [ledger.ref]))
    tail = BEGINNING
    for batch in cut(list(ledger.read()), (1, 3, 1000)):
        at = servers.run(plans.advance(ledger.ref, [projection], tail, batch, epoch=1))[projection.name]
        tail = check_continues(tail, batch)
        assert at.position == tail.position
    servers.close()
    live = rows(admin, projection.name)
    assert live

    seen: list[tuple[int, int]] = []
    assert rebuild(ledger.settings, projection, lambda done, to_do: seen.append((done, to_do))) == 1500
    assert seen[-1] == (1500, 1500)
    assert rows(admin, projection.name) == live
    ledger.append_many(some_events(50, 1500))
    project(ledger, [projection])
    live = rows(admin, projection.name)
    rebuild(ledger.settings, projection)
    assert rows(admin, projection.name) == live


def test_from_the_stream_as_from_postgres(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(300))
    servers = Servers(ledger.settings)
    Relay(servers).publish()
    servers.close()
    project(ledger)
    for view in BUILT_IN:
        live = rows(admin, view.name)
        rebuild(ledger.settings, view())
        assert rows(admin, view.name) == live


def test_several_projectors_apply_each_entry_once(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(3000))

    def catch_up() -> None:
        with projector(ledger, [Count(), ActorActivity()]) as running:
            running.catch_up()
            assert not running.failed

    race(catch_up, catch_up, catch_up)
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(3000,)]
    [(activity,)] = admin.execute("select sum(entries) from ledger_views.actor_activity").fetchall()
    assert activity == 3000


# ------------------------------------------------------------------------------------------------------------- swap


class Watch:
    """Readers of a view that note what they see go wrong, on connections that they keep."""

    def __init__(self, ledger: Ledger, stop: threading.Event) -> None:
        self.ledger = ledger
        self.stop = stop
        self.reads = 0
        self.wrong: list[str] = []

    def noting(self, look: Callable[[], int]) -> None:
        """Looks again and again; what it sees must not go back."""
        before = 0
        while not self.stop.is_set():
            try:
                now = look()
            except Exception as error:
                self.wrong.append(repr(error))
                return
            if now < before:
                self.wrong.append(f"{before} rows, then {now}")
            before = now
            self.reads += 1

    def count(self) -> None:
        """One statement, prepared by the driver from its fifth time on."""
        with psycopg.connect(self.ledger.settings.database_url or "", autocommit=True) as connection:
            self.noting(lambda: connection.execute("select count(*) from ledger_views.timeline").fetchall()[0][0])

    def newest(self) -> None:
        """The view's own query, whose newest entry must not go back."""
        connection = connect(self.ledger.settings)

        def look() -> int:
            entries = drive(search(self.ledger.ref, limit=1), lambda: connection).entries
            return entries[0].position if entries else 0

        self.noting(look)
        connection.close()


def test_swapped_under_load_without_a_reader_noticing(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(3000))
    project(ledger)
    stop = threading.Event()
    watch, servers = Watch(ledger, stop), Servers(ledger.settings)
    running = Projector(servers, [view() for view in BUILT_IN])

    def append() -> None:
        number = 3000
        while not stop.is_set():
            ledger.append_many(some_events(20, number))
            number += 20
            stop.wait(0.01)

    threads = [threading.Thread(target=target) for target in (append, watch.count, watch.newest, watch.count)]
    threads.append(threading.Thread(target=running.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        for view in BUILT_IN:
            rebuild(ledger.settings, view())
        rebuild(ledger.settings, Timeline())
        ledger.wait_for(ledger.tail().position, "timeline", timeout=30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        running.close()
        servers.close()
    assert not running.failed
    assert watch.wrong == []
    assert watch.reads > 50
    project(ledger)
    for view in BUILT_IN:
        live = rows(admin, view.name)
        rebuild(ledger.settings, view())
        assert rows(admin, view.name) == live


def test_grants_survive(ledger: Ledger, admin: psycopg.Connection) -> None:
    project(ledger)
    role = f"reader_{random.randrange(10**9)}"
    admin.execute(f"create role {role}")
    try:
        admin.execute(f"grant select on ledger_views.timeline to {role} with grant option")
        admin.execute("grant select, references on ledger_views.timeline to public")
        before = admin.execute(
            "select relacl::text from pg_class where oid = 'ledger_views.timeline'::regclass"
        ).fetchone()
        rebuild(ledger.settings, Timeline())
        after = admin.execute(
            "select relacl::text from pg_class where oid = 'ledger_views.timeline'::regclass"
        ).fetchone()
        assert before == after
    finally:
        admin.execute(f"drop owned by {role}")
        admin.execute(f"drop role {role}")


def test_a_long_reader_holds_up_the_swap_and_is_not_cut_off(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    project(ledger)
    with psycopg.connect(ledger.settings.database_url or "") as reader:
        reader.execute("select from ledger_views.timeline")
        swapping = threading.Thread(target=rebuild, args=(ledger.settings, Timeline()))
        swapping.start()
        swapping.join(1.5)
        assert swapping.is_alive()
        assert len(ledger.run(search(ledger.ref)).entries) == 10  # meanwhile others read on
        assert reader.execute("select count(*) from ledger_views.timeline").fetchone() == (10,)
        reader.rollback()
        swapping.join(20)
        assert not swapping.is_alive()
    assert leftovers(admin) == 0


def leftovers(admin: psycopg.Connection) -> int:
    """Schemas and checkpoints of rebuilds."""
    [(count,)] = admin.execute(
        """
        select (select count(*) from pg_namespace where nspname like 'ledger\\_rebuild\\_%')
            + (select count(*) from ledger.projections where building)
        """
    ).fetchall()
    return int(count)


def test_a_killed_rebuild_leaves_the_live_view_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(200))
    project(ledger)
    live = rows(admin, "resource_state")

    def kill(done: int, to_do: int) -> None:
        admin.execute(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
        )

    with pytest.raises(ConnectionLost):
        rebuild(ledger.settings, ResourceState(), kill)
    assert leftovers(admin) == 2
    assert rows(admin, "resource_state") == live
    ledger.append_many(some_events(100, 200))
    project(ledger)
    live = rows(admin, "resource_state")
    assert rebuild(ledger.settings, ResourceState()) == 300
    assert rows(admin, "resource_state") == live
    assert leftovers(admin) == 0


def test_one_rebuild_at_a_time(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    project(ledger)
    refused: list[str] = []

    def second(done: int, to_do: int) -> None:
        with pytest.raises(InvalidSetting, match="another rebuild") as caught:
            rebuild(ledger.settings, Timeline())
        refused.append(str(caught.value))
        rebuild(ledger.settings, ResourceState())  # another view's may run beside it

    assert rebuild(ledger.settings, Timeline(), second) == 10
    assert len(refused) == 1
    assert leftovers(admin) == 0


# ------------------------------------------------------------------------------------------------- versions, failures


class Sum(Count):
    """The next version of Count, with another table."""

    version = 2
    tables: ClassVar[tuple[str, ...]] = ("count", "sums")
    schema = Count.schema + "; create table sums (ledger_id int primary key, total bigint not null)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        super().apply(ledger_id, entries, tx)
        tx.execute(
            "insert into sums values (%s, %s) on conflict (ledger_id) do update set total = sums.total + excluded.total",
            (ledger_id, sum(entry.position for entry in entries)),
        )


def test_a_new_version_is_rebuilt_by_itself(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    project(ledger, [Count()])
    ledger.append_many(some_events(10))
    with projector(ledger, [Sum()]) as running:
        assert admin.execute("select total from ledger_views.sums").fetchall() == [(210,)] or running.catch_up()
    assert admin.execute("select total from ledger_views.sums").fetchall() == [(55 + 155,)]
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(20,)]
    with projector(ledger, [Count()]) as running:  # back to the old version
        running.catch_up()
        assert not running.failed
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(20,)]


def test_a_failing_projection_stops_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    with projector(ledger, [Count(), Timeline()]) as running:
        running.catch_up()
        ledger.append_many([*some_events(5), Event("user:1", "poison"), *some_events(5)])
        running.catch_up()
        [failed] = running.failed
        assert isinstance(failed, ProjectionFailed)
        assert (failed.name, failed.position) == ("count", 11)
        assert "ValueError: poisoned" in str(failed)
    assert len(rows(admin, "timeline")) == 21
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(10,)]
    assert ledger.run(plans.reached(ledger.ref, "count")) == 10
    with pytest.raises(ProjectionFailed):
        rebuild(ledger.settings, Count())
    assert leftovers(admin) == 0
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(10,)]


class Misspelt(Count):
    name = "misspelt"
    tables: ClassVar[tuple[str, ...]] = ("misspelt",)
    schema = "create table misspelt (ledger_id int primary key)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        tx.copy("misspelt", ["no_such_column"], [(1,)])


def test_a_projection_that_the_database_refuses_stops_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(3))
    with projector(ledger, [Misspelt(), Count()]) as running:
        running.catch_up()
        assert [failed.name for failed in running.failed] == ["misspelt"]
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(3,)]


def test_a_ledger_created_later_is_projected(ledger: Ledger, admin: psycopg.Connection) -> None:
    project(ledger)
    admin.execute("select ledger.create_ledger('later')")
    with Ledger.open(database_url=ledger.settings.database_url, name="later") as later:
        later.append(Event("user:1", "user.login"))
        with pytest.raises(UnknownProjection):
            later.run(plans.reached(later.ref, "timeline"))
        rebuild(ledger.settings, Timeline())
        assert later.run(plans.reached(later.ref, "timeline")) == 1
        project(ledger)
        assert len(rows(admin, "resource_state")) == 0


def test_what_applies_is_checked(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Nothing is built over an entry that is not the one seen before."""
    ledger.append_many(some_events(3))
    project(ledger, [Count()])
    admin.execute("update ledger.projections set hash = decode(repeat('11', 32), 'hex') where name = 'count'")
    ledger.append_many(some_events(1))
    errors: list[Any] = []
    with projector(ledger, [Count()]) as running:
        try:
            running.catch_up()
        except Exception as error:
            errors.append(error)
    assert [type(error).__name__ for error in errors] == ["ChainBroken"]
