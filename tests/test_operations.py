"""docs/operations.md does what it says: every procedure is performed on real servers, with the commands as they stand."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from ledger import Event, Ledger, create_redis_connection, doctor, errors
from ledger.findings import KINDS
from ledger.migrate import migrate, schema_folder
from ledger.note import Verifier
from ledger.settings import Settings
from tests import clusters as own
from tests.clusters import Cluster, Clusters
from tests.procedures import DOCUMENT, Perform, blocks, performed, performs
from tests.support import OwnServers, checked, event, events, numbers, receipt_of
from tests.test_cli_main import AUDITLEDGER, Cli
from tests.test_set_back import eventually
from tests.test_telemetry import worker
from tests.views import rows, some_events
from tests.witnesses import serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def _pattern() -> Iterator[Clusters]:
    with own.clusters() as made:
        yield made


@pytest.fixture
def clusters(_pattern: Clusters) -> Iterator[Clusters]:
    yield _pattern
    _pattern.end()


@pytest.fixture
def perform(request: pytest.FixtureRequest, tmp_path: Path, clusters: Clusters) -> Iterator[Perform]:
    performing = Perform(request.function.headings, tmp_path, clusters)
    yield performing
    assert performing.left() == [], "commands under the test's headings that it did not run"


@pytest.fixture
def primary(clusters: Clusters) -> Cluster:
    """With a migrated database `ledger`."""
    cluster = clusters.new("primary")
    migrate(Settings(database_url=cluster.create()))
    return cluster


def both(first: Cluster, second: Cluster) -> str:
    """A URL that leads to whichever takes writes."""
    return f"postgresql://postgres:secret@127.0.0.1:{first.port},127.0.0.1:{second.port}/ledger" + (
        "?target_session_attrs=read-write"
    )


def handed_out(ledger: Ledger, group: str = "mailer") -> list[int]:
    """What a consumer of the group is given until there is no more; all acknowledged."""
    found = []
    for delivery in ledger.subscribe(group, idle=0.5):
        delivery.ack()
        found.append(delivery.entry.position)
    return found


def main_of(cli: Cli) -> Any:
    """What status says of the ledger."""
    [found] = cli("status", "--json").json["ledgers"]
    return found


# ---------------------------------------------------------------------------------------------------------- the tables


def table_under(heading: str) -> set[str]:
    """What stands in code in the first column of the table under a heading."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    first = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def test_every_error_is_explained() -> None:
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert table_under("What each error means") == classes


def test_every_finding_is_explained() -> None:
    assert table_under("What verify finds") == set(KINDS)


def test_every_check_of_doctor_is_explained() -> None:
    """Its checks are made in doctor.py, by their names or `LEDGER: name`."""
    named = {name for name, *_ in doctor._DURABLE}
    for node in ast.walk(ast.parse(Path(doctor.__file__).read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="Check" | "check"), args=[ast.Constant(value=str(name)), *_]):
                named.add(name)
            case ast.JoinedStr(values=[ast.FormattedValue(value=ast.Attribute(attr="name")), ast.Constant(value=str(name))]):
                named.add(name.removeprefix(": "))
    named |= {"projection", "group"}  # with the name of each after it
    assert table_under("What doctor checks") == named


def test_every_command_of_the_page_is_performed_by_a_test() -> None:
    wanted = {block.heading for block in blocks() if block.language == "sh"}
    assert wanted == set(performed)
    assert {block.language for block in blocks()} == {"sh", "yaml"}


def test_links_within_the_page_lead_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    for file in re.findall(r"\]\(([^#)]+)\)", text):
        assert (DOCUMENT.parent / file).exists(), file


# ---------------------------------------------------------------------------------------------------------- setting up


@performs("Operations", "Set it up", "Sizes")
def test_users_with_no_more_than_they_need(perform: Perform, clusters: Clusters, redis_url: str) -> None:
    cluster = clusters.new("primary")
    admin_url = cluster.create()
    as_user = {user: cluster.url(user=f"{user}:pass") for user in ("app", "worker", "auditor", "dpo", "oncall")}
    perform("Set it up", ADMIN_URL=admin_url, PASSWORD="pass")
    with Ledger.open(database_url=as_user["app"]) as app:
        app.append_many(some_events(30))
        with psycopg.connect(as_user["app"]) as connection:
            assert connection.execute("show idle_in_transaction_session_timeout").fetchall() == [("10s",)]
    perform.env.update(LEDGER_DATABASE_URL=admin_url, LEDGER_REDIS_URL=redis_url)
    ran = perform("Set it up", WORKER_URL=as_user["worker"])
    assert ran.stdout == "Published 30 entries; Projected 30 entries\n"
    with Ledger.open(database_url=as_user["auditor"]) as auditor:
        assert len(checked(auditor)) == 30
        assert auditor.verify().ok
    ran = perform("Operations")
    assert "position 30" in ran.stdout and "checks are well" not in ran.stdout  # it was never verified by the owner
    cli = Cli("--database-url", admin_url, "--redis-url", redis_url)
    assert cli.well("verify", "--json").json["findings"] == []
    Cli("--database-url", as_user["dpo"]).well("erase", "3", "--actor", "user:dpo", "--reason", "4711")
    oncall = Cli("--database-url", as_user["oncall"], "--redis-url", redis_url)
    oncall.well("relay", "--once", "--new-epoch")
    oncall.well("salvage", str(perform.folder / "lost"))
    oncall.well("append", "--actor", "user:oncall", "--action", "audit.restored")
    ran = perform("Sizes")
    assert re.search(r"ledger_views *\| *\d+ \| \d+ kB", ran.stdout), ran.stdout


def test_the_alerts_are_about_metrics_that_there_are(own_servers: OwnServers) -> None:
    [block] = [block for block in blocks() if block.language == "yaml"]
    used = re.findall(r"\bauditledger_[a-z_]+", block.text)
    labels = set(re.findall(r'(auditledger_\w+)\{(\w+)="(\w+)"\}', block.text))
    assert len(set(used)) >= 12
    migrate(Settings(database_url=own_servers.database_url))
    cli = Cli("--database-url", own_servers.database_url, "--redis-url", own_servers.redis_url)
    with Ledger.open(database_url=own_servers.database_url, redis_url=own_servers.redis_url) as ledger:
        ledger.append_many(events(3))
        cli.well("verify")
        with worker(cli, "run", "timeline", "--metrics-port", "0") as running:
            url = running.said(r"Metrics at (http://127\.0\.0\.1:\d+/metrics)")[1]
            eventually(lambda: main_of(cli)["projections"][0]["position"] == 3)
            assert handed_out(ledger) == [1, 2, 3]
            own_servers.kill_redis()
            running.said("trying again")
            own_servers.start()
            shown = subprocess.run(
                [sys.executable, "-c", "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())", url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
    samples = {match[0] for match in re.findall(r"^(auditledger_\w+)(\{.*\})? ", shown, re.MULTILINE)}
    assert set(used) <= samples, set(used) - samples
    for name, label, value in labels:
        assert f'{name}{{{label}="{value}"}}' in shown


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


@performs("Base backups", "From a base backup", "Erasure and backups", "After the database was set back")
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
            assert "DIVERGED" in (ran_ := perform("After the database was set back")).stdout
            assert "erase 5 --actor user:dpo" in ran_.stdout and '"inv_' in ran_.stdout
            ran_ = perform("After the database was set back")
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


@contextmanager
def appender(database_url: str, promises: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that appends, again and again, and notes each receipt that it was handed."""
    environment = os.environ | {"LEDGER_DATABASE_URL": database_url, "PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}"}
    command = [sys.executable, "-m", "tests.parts", "append", "a", str(promises)]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def promised(promises: Path) -> list[tuple[int, str]]:
    """Position and hash of each receipt."""
    lines = promises.read_text().splitlines() if promises.exists() else []
    return [(int(position), digest) for _, position, digest in (line.split() for line in lines)]


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
    with appender(url, promises), worker(cli, "run") as running:
        eventually(lambda: len(promised(promises)) > 20)
        cli.well("checkpoint", "--key", str(key))
        ran = perform("Failover", STANDBY_URL=standby.url())
        assert ran.stdout.startswith("OK, ledger main")
        before = len(promised(promises))
        primary.kill()
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
        perform.borrow("Failover", 3, STANDBY_URL=standby.url())
        assert running.popen.wait(60) == 1, running.lines
        assert "diverged" in running.lines[-1] and "salvage" in running.lines[-1]
        assert {view["position"] for view in main_of(cli)["projections"]} == {100}, "a view holds what was lost"
        assert ledger.append(event(7)).position == 101, "the same Ledger goes on"
        ran = cli("checkpoint", "--key", str(key))
        assert ran.code == 1 and ran.error.startswith("truncated")

        perform.env.update(LEDGER_DATABASE_URL=url, LEDGER_REDIS_URL=redis_url)
        perform.borrow("After the database was set back", 0)
        perform.borrow("After the database was set back", 1)
        entries = checked(ledger)
        back = {entry.id: entry.position for entry in entries[101:]}
        assert [back[receipt.id] for receipt in lost] == list(range(102, 122))
        ran = cli("checkpoint", "--key", str(key))
        assert ran.code == 1 and ran.error.startswith("rewritten")
        public = {"KEYS": str(tmp_path), "PUBLISHED": str(tmp_path / "public-2")}
        perform("Signing again", WHO="user:oncall", WHY="failover of 2026-11-22; 101 to 120 recorded again", **public)
        assert (tmp_path / "public-2/checkpoints/122").exists()
        with worker(cli, "run") as running:
            eventually(lambda: {view["position"] for view in main_of(cli)["projections"]} == {122})
            assert handed_out(ledger) == list(range(101, 123))
            assert running.stop()[0] == 0
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


# -------------------------------------------------------------------------------------------------------- appends wait


@performs("Appends wait")
def test_whoever_holds_the_tail_is_found_and_ended(perform: Perform, primary: Cluster) -> None:
    url = primary.url()
    cli = Cli("--database-url", url)
    perform.env.update(LEDGER_DATABASE_URL=url, ADMIN_URL=url)
    settings = Settings(database_url=url, lock_timeout=0.5)
    said = Event("user:1", "invoice.sent")
    with Ledger(settings) as ledger, closing(psycopg.connect(url)) as holder:
        ledger.append(event(0))
        ledger.append(event(1), connection=holder)
        with pytest.raises(errors.TailBusy):
            ledger.append(said)
        time.sleep(1.1)
        assert f"TAIL HELD, appends wait:  pid {holder.info.backend_pid}" in perform("Appends wait").stdout
        perform("Appends wait", PID=str(main_of(cli)["held_by"]["pid"]))
        assert ledger.append(event(2)).position == 2

    with Ledger(settings) as ledger, psycopg.connect(url, autocommit=True) as holder:
        holder.execute("begin")
        ledger.append(event(3), connection=holder)
        holder.execute("prepare transaction 'of a coordinator'")
        eventually(lambda: main_of(cli)["held_by"] is not None)
        perform("Appends wait", NAME=main_of(cli)["held_by"]["prepared"])
        assert ledger.append(event(4)).position == 3

    with Ledger(settings) as ledger, psycopg.connect(url, autocommit=True) as admin, ThreadPoolExecutor(1) as executor:
        ledger.append(event(5))
        admin.execute("set synchronous_commit = local")
        admin.execute("alter system set synchronous_standby_names = '*'")
        admin.execute("select pg_reload_conf()")
        eventually(lambda: admin.execute("show synchronous_standby_names").fetchall() == [("*",)])
        waiting = executor.submit(ledger.append, event(6))
        eventually(lambda: "waits for a synchronous standby" in cli.well("status").out)
        assert not waiting.done()
        perform("Appends wait")
        assert waiting.result(20).position == 5
        assert numbers(checked(ledger)) == [0, 2, 4, 5, 6]


# ------------------------------------------------------------------------------------------------------------- upgrade


@performs("Upgrade")
def test_a_newer_package_migrates_while_older_clients_append(
    perform: Perform, primary: Cluster, redis_url: str, tmp_path: Path
) -> None:
    """The newer package is this one with one migration more."""
    url, promises = primary.url(), tmp_path / "promises"
    older = Cli("--database-url", url, "--redis-url", redis_url)
    newer = _newer_package(tmp_path / "newer")
    with appender(url, promises), worker(older, "run") as running:
        eventually(lambda: len(promised(promises)) > 20)
        perform.env.update(ADMIN_URL=url, PATH=f"{newer}:{Path(AUDITLEDGER).parent}:{os.environ['PATH']}")
        ran = perform("Upgrade")
        assert ran.stdout.count("9001_more.sql") >= 2
        before = len(promised(promises))
        eventually(lambda: len(promised(promises)) > before + 50)
        with appender(url, tmp_path / "restarted"):  # of the older release
            eventually(lambda: len(promised(tmp_path / "restarted")) > 5)
        assert running.stop()[0] == 0, running.lines
    with Ledger.open(database_url=url) as ledger:
        there = {entry.position: entry.hash.hex() for entry in checked(ledger)}
    for position, digest in promised(promises) + promised(tmp_path / "restarted"):
        assert there[position] == digest
    done = subprocess.run(
        [newer / "auditledger", "--database-url", url, "--redis-url", redis_url, "run", "--once"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _newer_package(folder: Path) -> Path:
    """A folder with a command `auditledger` of a package that knows a migration more."""
    for part in ("ledger", "projections", "tools"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(schema_folder(), folder / "schema")
    (folder / "schema/9001_more.sql").write_text(
        "create table ledger.more (ledger_id int primary key);\n"
        "alter table ledger.tails add column more bigint not null default 0;\n"
    )
    subprocess.run([sys.executable, folder / "tools/journal.py"], cwd=folder, check=True, capture_output=True)
    command = folder / "auditledger"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(folder)!r}, {str(folder / 'projections')!r}]\n"
        "from ledger.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return folder
