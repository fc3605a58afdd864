"""Backups, failovers and a lost Redis, by the commands of docs/operations.md on real servers."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, create_redis_connection, errors
from ledger.effects import Begin, Plan, Query
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.tlog.note import Verifier
from tests.support.cli import Cli
from tests.support.clusters import Cluster, Clusters
from tests.support.helpers import OwnServers, checked, event, events, eventually, handed_out, numbers
from tests.support.procedures import Perform, appender, main_of, performs, promised
from tests.support.views import rows, some_events
from tests.support.witnesses import serving
from tests.support.worker import worker


def both(first: Cluster, second: Cluster) -> str:
    """A URL that leads to whichever takes writes."""
    return f"postgresql://postgres:secret@127.0.0.1:{first.port},127.0.0.1:{second.port}/ledger" + (
        "?target_session_attrs=read-write"
    )


# --------------------------------------------------------------------------------------------------- backup and restore


@performs("A dump", "From a dump")
def test_a_dump_in_another_cluster(perform: Perform, primary: Cluster, clusters: Clusters, redis_url: str) -> None:
    cli = Cli("--database-url", primary.url(), "--redis-url", redis_url)
    with psycopg.connect(primary.url(), autocommit=True) as admin:
        for user, role in (("app", "ledger_writer"), ("worker", "ledger_projector")):
            admin.execute(f"create role {user} login password 'pass'".encode())
            cli.well("grant", role, user)
    with Ledger.open(database_url=primary.url()) as ledger:
        ledger.append_many(some_events(50))
        ledger.erase(4, "user:dpo", "4711")
        cli.well("run", "--once")
        perform("A dump", ADMIN_URL=primary.url())
        entries = checked(ledger)
    new = clusters.new("new")
    ran = perform("From a dump", NEW_ADMIN_URL=new.url("postgres"), NEW_DATABASE_URL=new.url())
    assert "OK, ledger main: 51 entries" in ran.stdout
    with Ledger.open(database_url=new.url()) as restored:
        assert checked(restored) == entries
    with Ledger.open(database_url=new.url(user="app:pass")) as app:
        assert app.append(event(0)).position == 52
    working = Cli("--database-url", new.url(user="worker:pass"), "--redis-url", redis_url)
    working.well("run", "--once")  # the stream ended where the dump did: it goes on
    working.well("replay", "timeline")
    assert main_of(working)["stream"]["diverged"] is False


@performs("Base backups", "From a base backup", "Erasure and backups", "After the database was rolled back")
def test_a_base_backup_and_a_moment_in_the_past(
    perform: Perform, primary: Cluster, clusters: Clusters, redis_url: str, tmp_path: Path
) -> None:
    """With an erasure, a hold and signed entries after that moment, and a subscriber that goes on all the while."""
    url, folder = primary.url(), clusters.folder
    archive = folder / "archive"
    clusters.run("mkdir", archive)
    cli = Cli("--database-url", url, "--redis-url", redis_url)
    with Ledger.open(database_url=url, redis_url=redis_url) as ledger:
        ledger.append_many(some_events(40))
        perform("Base backups", ADMIN_URL=url, ARCHIVE=str(archive), PGDATA=str(primary.folder))
        perform("Base backups", BACKUP=str(folder / "backup"))
        ledger.append_many(some_events(40, 40))
        key = tmp_path / "audit.key"
        vkey = cli.well("keygen", str(key), "--origin", "log.example/audit").out.strip()
        with serving(tmp_path / "witness", Verifier.parse(vkey)) as witness:
            sign = ("checkpoint", "--key", str(key), "--witness", str(witness))
            cli.well("run", "--once")
            cli.well(*sign)
            old_state = (tmp_path / "audit.key.state").read_bytes()
            assert handed_out(ledger) == list(range(1, 81))
            with psycopg.connect(url, autocommit=True) as admin:
                [(until,)] = admin.execute("select clock_timestamp()::text").fetchall()
            ledger.append_many(some_events(10, 80))
            ledger.erase(5, "user:dpo", "4711")
            ledger.erase(6, "user:dpo", "4712")
            ledger.hold(("invoice", "inv_1"), "user:counsel", "case 12")
            cli.well("run", "--once")
            cli.well(*sign, "--publish", str(tmp_path / "public"))
            assert handed_out(ledger) == list(range(81, 94))
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("select pg_switch_wal()")
                archived = "select last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) from pg_stat_archiver"
                eventually(lambda: admin.execute(archived).fetchall() == [(True,)])

            primary.kill()
            restored = clusters.known("restored")
            restored.port = primary.port
            paths = {"RESTORED": str(restored.folder), "PGPORT": str(primary.port), "UNTIL": until}
            perform("From a base backup", **paths)
            with psycopg.connect(url, autocommit=True) as admin:
                eventually(lambda: admin.execute("select pg_is_in_recovery()").fetchall() == [(False,)])
            assert "OK, ledger main: 80 entries" in cli.well("verify").out
            entries = list(ledger.read())
            assert len(entries) == 80 and not entries[4].erased, "what was erased is back"
            assert handed_out(ledger) == []

            ran = cli("run", "--once")
            assert ran.code == 1 and "diverged" in ran.error and "salvage" in ran.error
            ran = cli(*sign)
            assert ran.code == 1 and ran.error.startswith("truncated: ledger 'main' ends at position 80, and 93 were")
            (tmp_path / "audit.key.state").write_bytes(old_state)
            ran = cli(*sign)
            assert ran.code == 1 and "has cosigned a checkpoint of size 93 of this log" in ran.error

            perform.env.update(LEDGER_DATABASE_URL=url, LEDGER_REDIS_URL=redis_url)
            assert "DIVERGED" in (ran_ := perform("After the database was rolled back")).stdout
            assert "erase --actor=user:dpo" in ran_.stdout and " -- 5\n" in ran_.stdout and '"inv_' in ran_.stdout
            ran_ = perform("After the database was rolled back")
            assert "OK, ledger main: 93 entries" in ran_.stdout
            perform("Erasure and backups", POSITION="6", WHO="user:dpo", WHY="4712")
        cli.well("run", "--once")
        entries = checked(ledger)
        assert entries[4].erased and entries[5].erased and len(entries) == 93
        assert sorted(handed_out(ledger)) == list(range(81, 94))
        newest = tmp_path / "public/checkpoint"
        ran = cli("verify", "--checkpoint", str(newest), "--key", vkey)
        assert ran.code == 1 and "rewritten" in ran.out


# ------------------------------------------------------------------------------------------------------------ failover


def long_reads_on(standby: Cluster, primary: Cluster) -> None:
    """They are cancelled unless the standby tells the primary of them."""

    def read() -> Plan[None]:
        yield Begin("begin isolation level repeatable read read only")
        for _ in range(20):
            yield Query("select from ledger.tails")
            yield Query("select pg_sleep(0.05)")

    def churn(stop: threading.Event) -> None:
        with (
            Ledger.open(database_url=primary.url()) as ledger,
            psycopg.connect(primary.url(), autocommit=True) as admin,
        ):
            while not stop.is_set():
                ledger.append(event(0))
                admin.execute("vacuum ledger.tails")

    stop = threading.Event()
    with Ledger.open(database_url=standby.url()) as reading, psycopg.connect(standby.url(), autocommit=True) as admin:
        admin.execute("alter system set max_standby_streaming_delay = 0")
        admin.execute("select pg_reload_conf()")
        thread = threading.Thread(target=churn, args=(stop,))
        thread.start()
        try:
            reading.run(read())
            admin.execute("alter system set hot_standby_feedback = off")
            admin.execute("select pg_reload_conf()")
            with pytest.raises(errors.Unavailable, match="set hot_standby_feedback = on"):
                for _ in range(20):
                    reading.run(read())
        finally:
            stop.set()
            thread.join()
        admin.execute("alter system reset max_standby_streaming_delay")
        admin.execute("alter system set hot_standby_feedback = on")
        admin.execute("select pg_reload_conf()")


@performs("Failover")
def test_a_failover_to_a_synchronous_standby_loses_nothing(
    perform: Perform, primary: Cluster, clusters: Clusters, redis_url: str, tmp_path: Path
) -> None:
    standby = clusters.known("standby")
    url, promises = both(primary, standby), tmp_path / "promises"
    cli = Cli("--database-url", url, "--redis-url", redis_url)
    perform("Failover", PRIMARY_URL=primary.url(), STANDBY=str(standby.folder), PGPORT=str(standby.port))
    perform("Failover")
    key = tmp_path / "audit.key"
    cli.well("keygen", str(key), "--origin", "log.example/audit")
    refused = Cli("--database-url", standby.url())("append", "--actor", "a", "--action", "b")
    assert refused.code == 3 and "takes no writes" in refused.error and "target_session_attrs" in refused.error
    long_reads_on(standby, primary)
    with appender(url, promises), worker(cli, "run") as running:
        eventually(lambda: len(promised(promises)) > 20)
        cli.well("checkpoint", "--key", str(key))
        ran = perform("Failover", STANDBY_URL=standby.url())
        assert ran.stdout.startswith("OK, ledger main")
        before = len(promised(promises))
        primary.kill()
        perform("Failover")
        ran = perform("Failover")
        assert "OK, ledger main" in ran.stdout and "DIVERGED" not in ran.stdout
        eventually(lambda: len(promised(promises)) > before + 20)
        assert running.stop()[0] == 0, running.lines
    with Ledger.open(database_url=url) as ledger:
        there = {entry.position: entry.hash.hex() for entry in checked(ledger)}
    for position, digest in promised(promises):
        assert there[position] == digest
    cli.well("checkpoint", "--key", str(key))
    cli.well("run", "--once")
    assert main_of(cli)["stream"]["diverged"] is False


@performs("Signing again")
def test_a_failover_to_a_standby_that_was_behind(
    perform: Perform, primary: Cluster, clusters: Clusters, redis_url: str, tmp_path: Path
) -> None:
    """20 acknowledged entries are lost, published, projected, handed out and signed as they were."""
    standby = clusters.known("standby")
    url = both(primary, standby)
    cli = Cli("--database-url", url, "--redis-url", redis_url)
    perform.borrow("Failover", 0, PRIMARY_URL=primary.url(), STANDBY=str(standby.folder), PGPORT=str(standby.port))
    key = tmp_path / "audit.key"
    cli.well("keygen", str(key), "--origin", "log.example/audit")
    settings = Settings(database_url=url, redis_url=redis_url)
    with Ledger(settings) as ledger, worker(cli, "run") as running:
        ledger.append_many(some_events(100))
        eventually(lambda: main_of(Cli("--database-url", standby.url()))["position"] == 100)
        eventually(lambda: {view["position"] for view in main_of(cli)["projections"]} == {100})
        assert len(handed_out(ledger)) == 100
        with psycopg.connect(primary.url(), autocommit=True) as admin:
            replayed = "select replay_lsn >= pg_current_wal_lsn() from pg_stat_replication"
            eventually(lambda: admin.execute(replayed).fetchall() == [(True,)])
        standby.stop()  # as a network does that is cut
        lost = [ledger.append(said) for said in some_events(20, 100)]
        eventually(lambda: {view["position"] for view in main_of(cli)["projections"]} == {120})
        assert handed_out(ledger) == list(range(101, 121))
        cli.well("checkpoint", "--key", str(key))

        primary.kill()
        standby.start()
        perform.borrow("Failover", 3, STANDBY=str(standby.folder))
        eventually(lambda: any("diverged" in line and "salvage" in line for line in running.lines))
        assert running.stop()[0] == 0, running.lines
        assert {view["position"] for view in main_of(cli)["projections"]} == {100}, "a view holds what was lost"
        assert ledger.append(event(7)).position == 101, "the same Ledger goes on"
        ran = cli("checkpoint", "--key", str(key))
        assert ran.code == 1 and ran.error.startswith("truncated")

        perform.env.update(LEDGER_DATABASE_URL=url, LEDGER_REDIS_URL=redis_url)
        perform.borrow("After the database was rolled back", 0)
        perform.borrow("After the database was rolled back", 1)
        entries = checked(ledger)
        back = {entry.id: entry.position for entry in entries[101:]}
        assert [back[receipt.id] for receipt in lost] == list(range(102, 122))
        ran = cli("checkpoint", "--key", str(key))
        assert ran.code == 1 and ran.error.startswith("rewritten")
        public = {"KEYS": str(tmp_path), "PUBLISHED": str(tmp_path / "public-2")}
        perform("Signing again", WHO="user:oncall", WHY="failover of 2026-11-22; 101 to 120 recorded again", **public)
        assert (tmp_path / "public-2/checkpoints/122").exists()
        with worker(cli, "run") as started_again:
            eventually(lambda: {view["position"] for view in main_of(cli)["projections"]} == {122})
            assert handed_out(ledger) == list(range(101, 123))
            assert started_again.stop()[0] == 0
        with psycopg.connect(url, autocommit=True) as connection:
            live = rows(connection, "timeline")
            cli.well("replay", "timeline")
            assert rows(connection, "timeline") == live and len(live) == 122


# --------------------------------------------------------------------------------------------------------------- Redis


@performs("Redis: lost, moved, rolled back, full")
def test_a_redis_that_is_lost_rolled_back_full_and_moved(
    perform: Perform, own_servers: OwnServers, redis_url: str
) -> None:
    url = own_servers.database_url
    migrate(Settings(database_url=url))
    cli = Cli("--database-url", url, "--redis-url", own_servers.redis_url)
    perform.env.update(LEDGER_DATABASE_URL=url, LEDGER_REDIS_URL=own_servers.redis_url)
    status = perform("Redis: lost, moved, rolled back, full")
    assert "at 0" in status.stdout
    with Ledger.open(database_url=url, redis_url=own_servers.redis_url) as ledger, worker(cli, "relay") as running:

        def caught_up(end: int) -> None:
            eventually(lambda: (main_of(cli)["stream"] or {}).get("position") == end)

        ledger.append_many(events(50))
        caught_up(50)
        assert handed_out(ledger) == list(range(1, 51))
        own_servers.lose_redis()
        ledger.append(event(50))
        own_servers.start()
        caught_up(51)
        assert handed_out(ledger) == [51], "the group goes on where Postgres noted it"

        valkey = own_servers.home / "valkey"
        own_servers.kill_redis()
        subprocess.run(["cp", "-a", valkey, own_servers.home / "older"], check=True)
        own_servers.start()
        ledger.append_many(events(9, 51))
        caught_up(60)
        assert handed_out(ledger) == list(range(52, 61))
        own_servers.kill_redis()
        shutil.rmtree(valkey)
        (own_servers.home / "older").rename(valkey)
        own_servers.start()
        caught_up(60)
        again = handed_out(ledger)
        assert again == sorted(again) and set(again) <= set(range(51, 61)), "at least once"

        with create_redis_connection(own_servers.redis_url) as client:
            client.config_set("maxmemory", "1")
        ledger.append_many(events(10, 60))
        running.said("Redis is out of memory")
        perform("Redis: lost, moved, rolled back, full")
        caught_up(70)
        assert running.stop()[0] == 0
        assert handed_out(ledger) == list(range(61, 71))
    moved = Cli("--database-url", url, "--redis-url", redis_url)
    with Ledger.open(database_url=url, redis_url=redis_url) as ledger, worker(moved, "relay") as running:
        eventually(lambda: main_of(moved)["stream"]["position"] == 70)
        ledger.append(event(70))
        eventually(lambda: main_of(moved)["stream"]["position"] == 71)
        assert handed_out(ledger) == [71]
        assert numbers(list(ledger.follow(after=0, idle=0.5))) == list(range(71))
        assert running.stop()[0] == 0
