"""A database set back behind its stream: an older backup restored in its place, a standby that had not received all.

What the stream holds beyond it happened once and is the ledger's no more: no view and no group's progress is built on
it, and whoever goes on needs no help once a new epoch was opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from ledger import Ledger, create_redis_connection, stream, testing
from ledger.consumer import next_entries, reader_after
from ledger.effects import Effect, Plan, Wait
from ledger.errors import StreamDiverged
from ledger.relay import Relay, open_epoch
from ledger.servers import Servers
from tests.support import event, events
from tests.views import project, projector, rows, some_events

KEY = stream.key("main")


class Backup:
    """A copy of the ledger's database, to be put back in its place."""

    def __init__(self, ledger: Ledger, servers: testing.Servers) -> None:
        self.live = (ledger.settings.database_url or "").rpartition("/")[2]
        self.copy = f"{self.live}_backup"
        self.admin = psycopg.connect(servers.database_url, autocommit=True)
        self._alone()
        self.admin.execute(f"create database {self.copy} template {self.live}".encode())

    def restore(self) -> None:
        self.admin.execute(f"drop database {self.live} with (force)".encode())
        self.admin.execute(f"alter database {self.copy} rename to {self.live}".encode())

    def _alone(self) -> None:
        """Nobody may be connected to a database that is copied."""
        self.admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (self.live,))
        deadline = time.monotonic() + 20
        while self.admin.execute("select from pg_stat_activity where datname = %s", (self.live,)).rowcount:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def relay_of(ledger: Ledger) -> Iterator[Relay]:
    servers = Servers(ledger.settings)
    try:
        yield Relay(servers)
    finally:
        servers.close()


@contextmanager
def backup_of(ledger: Ledger, servers: testing.Servers) -> Iterator[Backup]:
    backup = Backup(ledger, servers)
    try:
        yield backup
    finally:
        backup.admin.execute(f"drop database if exists {backup.copy} with (force)".encode())
        backup.admin.close()


def eventually(holds: object, what: str = "") -> None:
    deadline = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def checkpoint(ledger: Ledger, view: str = "timeline") -> int:
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        [(position,)] = connection.execute("select position from ledger.projections where name = %s", (view,))
    return int(position)


def noted(ledger: Ledger, group: str = "mailer") -> int:
    """Up to where Postgres says that the group has dealt with everything."""
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        [(position,)] = connection.execute("select position from ledger.subscriptions where name = %s", (group,))
    return int(position)


def handed_out(ledger: Ledger) -> list[int]:
    """What a consumer of the group `mailer` is given until there is no more; all acknowledged."""
    found = []
    for delivery in ledger.subscribe("mailer", idle=0.4):
        delivery.ack()
        found.append(delivery.entry.position)
    return found


def test_views_take_nothing_from_a_stream_that_is_ahead(
    ledger: Ledger, servers: testing.Servers
) -> None:
    """The projector runs all the while, as it does over a failover, with nobody there to stop it."""
    ledger.append_many(some_events(50))
    project(ledger)
    with backup_of(ledger, servers) as backup, relay_of(ledger) as relay:
        ledger.append_many(some_events(20, 50))
        relay.publish()
        stop = threading.Event()
        with projector(ledger) as running:
            running.catch_up()
            backup.restore()
            thread = threading.Thread(target=running.run, args=(stop,))
            thread.start()
            try:
                time.sleep(2.5)
                assert checkpoint(ledger) == 50, "entries that the ledger does not have are in a view"
                ledger.append_many(some_events(40, 200))
                eventually(lambda: checkpoint(ledger) == 90 or not thread.is_alive())
            finally:
                stop.set()
                thread.join()
        with psycopg.connect(ledger.settings.database_url or "") as connection:
            live = rows(connection, "timeline")
            assert len(live) == 90
        with pytest.raises(StreamDiverged, match="--new-epoch"):
            relay.publish()
        ledger.run(open_epoch(ledger.ref))
        relay.publish()
        project(ledger)


def test_a_group_keeps_no_progress_beyond_its_ledger(ledger: Ledger, servers: testing.Servers) -> None:
    ledger.append_many(events(10))
    with relay_of(ledger) as relay:
        relay.publish()
        assert handed_out(ledger) == list(range(1, 11))
        with backup_of(ledger, servers) as backup:
            ledger.append_many(events(5, 10))
            relay.publish()
            assert handed_out(ledger) == list(range(11, 16))
            assert noted(ledger) == 15
            backup.restore()
        assert handed_out(ledger) == []
        assert noted(ledger) == 10
        ledger.append_many(events(8, 100))  # past where the stream stands, with other entries
        assert handed_out(ledger) == []
        assert noted(ledger) == 10
        ledger.run(open_epoch(ledger.ref))
        relay.publish()
        relay.tend()
        assert handed_out(ledger) == list(range(11, 19)), "all that is new, and nothing again"
        assert noted(ledger) == 18
        ledger.append(event(9))
        relay.publish()
        assert handed_out(ledger) == [19]


def test_a_group_that_left_entries_unacknowledged_gets_them_in_the_new_epoch(
    ledger: Ledger, servers: testing.Servers
) -> None:
    ledger.append_many(events(10))
    with relay_of(ledger) as relay:
        relay.publish()
        deliveries = ledger.subscribe("mailer", idle=0.4)
        for delivery in deliveries:
            if delivery.entry.position <= 4:
                delivery.ack()
        assert noted(ledger) == 4
        with backup_of(ledger, servers) as backup:
            ledger.append_many(events(5, 10))
            relay.publish()
            backup.restore()
        ledger.run(open_epoch(ledger.ref))
        relay.publish()
        relay.tend()
        assert handed_out(ledger) == list(range(5, 11))
        assert list(ledger.subscribe("mailer", claim_after=0.01, idle=0.4)) == [], "claims of the epoch that is over"
        assert noted(ledger) == 10


def test_a_reader_of_a_stream_that_lies_waits_between_its_looks(ledger: Ledger, redis_url: str) -> None:
    """Or it would ask both servers as often as they answer, for as long as nobody looks after the stream."""
    ledger.append_many(events(3))
    with create_redis_connection(redis_url) as client:
        client.xadd(KEY, {"envelope": "{}", "body": "", "hash": "00" * 32}, id="1-4")
        reader = ledger.run(reader_after(ledger.ref, 3))
        performed: list[Effect] = []

        def recorded() -> Plan[object]:
            plan = next_entries([reader], has_stream=True, wait=0.2)
            try:
                effect = next(plan)
                while True:
                    performed.append(effect)
                    effect = plan.send((yield effect))
            except StopIteration as stop:
                return stop.value

        assert ledger.run(recorded()) == {}
        assert any(isinstance(effect, Wait) for effect in performed), performed
