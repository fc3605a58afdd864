"""A database that is behind its stream: restored from a backup, or failed over to a standby that lagged.

What the stream holds beyond it happened once and is the ledger's no more: no view and no group's progress is built on
it, and whoever goes on needs no help once a new epoch was opened.
"""

from __future__ import annotations

import shlex
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, create_redis_connection, testing
from ledger.drivers.pools import Connector
from ledger.effects import Effect, Plan, Wait
from ledger.errors import StreamDiverged
from ledger.stream import wire
from ledger.stream.reader import Streams, next_entries, reader_after
from ledger.stream.relay import Relay, open_epoch
from tests.support.backup import Backup
from tests.support.cli import cli_of
from tests.support.helpers import checked, event, events, eventually, handed_out, numbers, receipt_of
from tests.support.views import project, projector, rows, some_events

KEY = wire.key("main")


@contextmanager
def relay_of(ledger: Ledger) -> Iterator[Relay]:
    servers = Connector(ledger.settings)
    try:
        yield Relay(servers)
    finally:
        servers.close()


@contextmanager
def backup_of(ledger: Ledger, servers: testing.TestServers, name: str = "backup") -> Iterator[Backup]:
    backup = Backup(ledger, servers, name)
    try:
        yield backup
    finally:
        backup.admin.execute(f"drop database if exists {backup.copy} with (force)".encode())
        backup.admin.close()


def checkpoint(ledger: Ledger, view: str = "timeline") -> int:
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        [(position,)] = connection.execute("select position from ledger.projections where name = %s", (view,))
    return int(position)


def noted(ledger: Ledger, group: str = "mailer") -> int:
    """Up to where Postgres says that the group has dealt with everything."""
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        [(position,)] = connection.execute("select position from ledger.subscriptions where name = %s", (group,))
    return int(position)


def test_views_take_nothing_from_a_stream_that_is_ahead(ledger: Ledger, servers: testing.TestServers) -> None:
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


@pytest.mark.parametrize("more", [10, 40])
def test_a_projector_that_has_seen_what_was_lost_goes_on_with_its_views(
    ledger: Ledger, servers: testing.TestServers, more: int
) -> None:
    """They were set back with the ledger: only what the projector itself remembers is ahead."""
    ledger.append_many(some_events(50))
    project(ledger)
    with backup_of(ledger, servers) as backup, relay_of(ledger) as relay, projector(ledger) as running:
        stop = threading.Event()
        thread = threading.Thread(target=running.run, args=(stop,))
        thread.start()
        try:
            ledger.append_many(some_events(20, 50))
            relay.publish()
            eventually(lambda: checkpoint(ledger) == 70)
            backup.restore()
            time.sleep(1.5 if more < 20 else 0)  # it notices; or the ledger has grown past what it remembers
            ledger.append_many(some_events(more, 200))
            eventually(lambda: checkpoint(ledger) == 50 + more or not thread.is_alive())
            assert thread.is_alive()
        finally:
            stop.set()
            thread.join()


def test_a_group_keeps_no_progress_beyond_its_ledger(ledger: Ledger, servers: testing.TestServers) -> None:
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
        relay.trim()
        assert handed_out(ledger) == list(range(11, 19)), "all that is new, and nothing again"
        assert noted(ledger) == 18
        ledger.append(event(9))
        relay.publish()
        assert handed_out(ledger) == [19]


def test_a_group_that_left_entries_unacknowledged_gets_them_in_the_new_epoch(
    ledger: Ledger, servers: testing.TestServers
) -> None:
    ledger.append_many(events(10))
    with relay_of(ledger) as relay:
        relay.publish()
        deliveries = ledger.subscribe("mailer", after=0, idle=0.4)
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
        relay.trim()
        assert handed_out(ledger) == list(range(5, 11))
        assert list(ledger.subscribe("mailer", after=0, claim_after=0.01, idle=0.4)) == [], (
            "claims of the epoch that is over"
        )
        assert noted(ledger) == 10


def test_a_group_in_an_epoch_that_nobody_has_goes_on(ledger: Ledger, redis_url: str) -> None:
    """Redis was emptied, a reader created its group again, and then the database was set back to a lower epoch."""
    ledger.append_many(events(5))
    assert handed_out(ledger) == list(range(1, 6)), "what Postgres has"
    with create_redis_connection(redis_url) as client, relay_of(ledger) as relay:
        client.delete(KEY)
        client.xgroup_create(KEY, "mailer", "9-7", mkstream=True)
        ledger.append_many(events(3, 5))
        relay.publish()
        assert handed_out(ledger) + handed_out(ledger) == [6, 7, 8], "it looks at that after an answer of nothing"
        assert noted(ledger) == 8


def test_a_reader_of_a_stream_that_lies_waits_between_its_looks(ledger: Ledger, redis_url: str) -> None:
    """Or it would ask both servers as often as they answer, for as long as nobody looks after the stream."""
    ledger.append_many(events(3))
    with create_redis_connection(redis_url) as client:
        client.xadd(KEY, {"envelope": "{}", "body": "", "hash": "00" * 32}, id="1-4")
        reader = ledger.run(reader_after(ledger.ref, 3))
        performed: list[Effect] = []

        def recorded() -> Plan[object]:
            plan = next_entries([reader], Streams(True), wait=0.2)
            try:
                effect = next(plan)
                while True:
                    performed.append(effect)
                    effect = plan.send((yield effect))
            except StopIteration as stop:
                return stop.value

        assert ledger.run(recorded()) == {}
        assert any(isinstance(effect, Wait) for effect in performed), performed


# ------------------------------------------------------------------------------------------------------------- salvage


def test_what_only_the_stream_has_is_recorded_again(
    ledger: Ledger, servers: testing.TestServers, tmp_path: Path
) -> None:
    cli = cli_of(ledger)
    file = tmp_path / "lost entries.jsonl"
    ledger.append_many(some_events(30))
    with backup_of(ledger, servers) as backup, relay_of(ledger) as relay:
        ledger.append_many(some_events(20, 30))
        ledger.erase(7, "user:dpo", "request 4711's", actor_type="staff")  # 51
        ledger.hold(("invoice", "inv_3"), "user:counsel", "case 12")  # 52
        ledger.hold(40, "user:counsel", "case 13")  # 53, of an entry that is lost
        ledger.append(event(1, idempotency_key="k", after={"n": 0.1, "big": 2**80, "text": "ü \u2028"}))
        ledger.erase(33, "user:dpo", "request 4712")  # 55, of an entry that is lost
        relay.publish()
        lost = {entry.id: entry for entry in ledger.read(after=30)}
        [gone] = [entry.id for entry in lost.values() if entry.erased]
        ran = cli.well("salvage", str(file))
        assert ran.out == "" and "has no entry that the database lacks" in ran.err and not file.exists()
        backup.restore()
        relay.trim()
        with pytest.raises(StreamDiverged, match=r"salvage FILE' .* relay --new-epoch'"):
            relay.publish()
        ran = cli.well("salvage", str(file))
        assert "entries 31 to 55 are not in the database: 21 events" in ran.err and "4 of the ledger's own" in ran.err
        assert cli("salvage", str(file)).code == 2, "nothing is written over"
        again = cli.well("salvage", "--json", str(tmp_path / "again")).json
        assert again["lost"] == {"after": 30, "last": 55} and again["commands"][1:] == ran.out.splitlines()[1:]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        cli.well("relay", "--once", "--new-epoch")
        commands = [shlex.split(each, comments=True) for each in ran.out.splitlines()]
        assert [[command[3], command[-1]] for command in commands if command] == [
            ["import", str(file)], ["erase", "7"], ["hold", "invoice:inv_3"],
        ]  # fmt: skip
        for command in filter(None, commands * 2):
            cli.well(*command[1:])
    entries = checked(ledger)
    back = [entry for entry in entries[30:] if not entry.action.startswith("ledger.")]
    assert len(back) == 21 and [entry.before for entry in back if entry.id == gone] == [None]
    for entry in back:
        before = lost[entry.id]
        for field in (
            "occurred_at",
            "actor",
            "actor_type",
            "action",
            "resource_id",
            "before",
            "after",
            "metadata",
        ):
            assert getattr(entry, field) == getattr(before, field)
    assert ledger.append(event(1, idempotency_key="k", after={"n": 0.1, "big": 2**80, "text": "ü \u2028"})) in [
        receipt_of(entry) for entry in back
    ]
    assert entries[6].erased and entries[-2].metadata == {"reason": "request 4711's"}
    assert entries[-2].actor_type == "staff" and entries[-1].action == "ledger.hold_placed"
    assert ledger.verify().ok


def test_a_stream_without_anything_in_common(ledger: Ledger, servers: testing.TestServers, tmp_path: Path) -> None:
    """More is lost than it holds; what is no entry in it is counted, and no more."""
    with backup_of(ledger, servers) as backup, relay_of(ledger) as relay:
        ledger.append_many(events(1200))
        relay.publish()
        with create_redis_connection(ledger.settings.redis_url or "") as client:
            client.xtrim(KEY, minid="1-101", approximate=False)
            client.xadd(KEY, {"envelope": "{}", "body": "", "hash": "00" * 32}, id="1-1201")
        backup.restore()
        ran = cli_of(ledger).well("salvage", str(tmp_path / "lost"))
    assert "entries 101 to 1201 are not in the database: 1,100 events" in ran.err and "1 not readable" in ran.err
    assert len((tmp_path / "lost").read_bytes().splitlines()) == 1100
    assert cli_of(ledger).well("import", str(tmp_path / "lost")).code == 0
    assert numbers(checked(ledger)) == list(range(100, 1200))


@pytest.mark.parametrize("more", [1, 9])
def test_set_back_and_forth(ledger: Ledger, servers: testing.Servers, more: int) -> None:
    """The second backup knows nothing of the epoch that was opened after the first: the stream has other entries in it.

    more: entries in that epoch, fewer and more than the newer backup has.
    """
    cli = cli_of(ledger)
    ledger.append_many(events(10))
    with relay_of(ledger) as relay, backup_of(ledger, servers) as older:
        relay.publish()
        ledger.append_many(events(5, 10))
        relay.publish()
        with backup_of(ledger, servers, "newer") as newer:
            older.restore()
            cli.well("relay", "--once", "--new-epoch")
            ledger.append_many(events(more, 100))
            relay.publish()
            newer.restore()
            relay.trim()
            with pytest.raises(StreamDiverged, match="--new-epoch"):
                relay.publish()
            cli.well("relay", "--once", "--new-epoch")
            ledger.append_many(events(2, 15))
            relay.publish()
            assert relay.stopped == []
            assert numbers(list(ledger.follow(0, idle=1))) == numbers(checked(ledger)) == list(range(17))
            assert handed_out(ledger) == list(range(1, 18))


def test_an_epoch_that_somebody_else_wrote(ledger: Ledger) -> None:
    """Is not run after: the stream is in the way, and that is said."""
    cli = cli_of(ledger)
    ledger.append_many(events(3))
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        redis.xadd(KEY, {"x": "y"}, id=f"{2**40}-1")
        assert "--new-epoch" in cli("relay", "--once", "--new-epoch").err
        redis.delete(KEY)
    assert cli.well("relay", "--once").out == "Published 3 entries\n"
