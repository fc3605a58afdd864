"""A rebuild beside the live view: swapped in unnoticed by readers, or abandoned without a trace."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from ledger_projections import ActorActivity, ResourceState, Timeline, search

from ledger import Ledger
from ledger.drivers.connections import connect
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.errors import ConnectionLost, InvalidSetting
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from tests.support.views import BUILT_IN, leftovers, project, rows, some_events


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
            entries = drive(search(self.ledger.ref, limit=1), connection).entries
            return entries[0].position if entries else 0

        self.noting(look)
        connection.close()


def test_swapped_under_load_without_a_reader_noticing(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(2000))
    project(ledger)
    stop = threading.Event()
    watch, servers = Watch(ledger, stop), Connector(ledger.settings)
    running = Projector(servers, [view() for view in BUILT_IN])

    def append() -> None:
        number = 2000
        while not stop.is_set():
            ledger.append_many(some_events(20, number))
            number += 20
            stop.wait(0.03)

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


def test_catching_up_beside_a_swap(ledger: Ledger, admin: psycopg.Connection) -> None:
    """A worker that waited for the swap goes on from the checkpoint that came with it."""
    ledger.append_many(some_events(10))
    project(ledger, [ActorActivity()])
    ledger.append_many(some_events(10, 10))
    with psycopg.connect(ledger.settings.database_url or "") as swapping:
        # What a swap does to checkpoints: the live one is removed, another takes its place.
        swapping.execute("insert into ledger.projections select ledger_id, name, true, version from ledger.projections")
        swapping.execute(
            """
            update ledger.projections as built
            set position = live.position, hash = live.hash, recorded_at = live.recorded_at
            from ledger.projections as live where built.building and not live.building
            """
        )
        swapping.execute("delete from ledger.projections where not building")
        swapping.execute("update ledger.projections set building = false")
        worker = threading.Thread(target=project, args=(ledger, [ActorActivity()]))
        worker.start()
        waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        while worker.is_alive() and not admin.execute(waiting).fetchall():
            time.sleep(0.01)
        swapping.commit()
        worker.join()
    assert admin.execute("select sum(entries) from ledger_views.actor_activity").fetchall() == [(20,)]


def test_grants_survive(ledger: Ledger, admin: psycopg.Connection) -> None:
    project(ledger)
    role = f"reader_{random.randrange(10**9)}"
    grants = "select relacl::text from pg_class where oid = 'ledger_views.timeline'::regclass"
    admin.execute(f"create role {role}")
    try:
        admin.execute(f"grant select on ledger_views.timeline to {role} with grant option")
        admin.execute("grant select, references on ledger_views.timeline to public")
        before = admin.execute(grants).fetchone()
        rebuild(ledger.settings, Timeline())
        assert admin.execute(grants).fetchone() == before
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


def test_a_killed_rebuild_leaves_the_live_view_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(200))
    project(ledger)
    live = rows(admin, "resource_state")

    def kill(done: int, to_do: int) -> None:
        admin.execute(
            """
            select pg_terminate_backend(pid) from pg_locks
            where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
            """
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


def test_right_after_one_that_was_killed(ledger: Ledger) -> None:
    """Its lock lasts until its backend has seen that it is gone."""
    with psycopg.connect(ledger.settings.database_url or "", autocommit=True) as killed:
        killed.execute("select pg_advisory_lock(hashtextextended('auditledger rebuild timeline', 0))")
        ending = threading.Timer(0.3, killed.close)
        ending.start()
        assert rebuild(ledger.settings, Timeline()) == 0
        ending.join()
