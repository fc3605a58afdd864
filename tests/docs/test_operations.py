"""The commands of docs/operations.md, run on real servers. Backups and failovers: test_recovery.py."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import psycopg
import pytest

from ledger import Event, Ledger, errors
from ledger.format.findings import KINDS
from ledger.migrate.migrate import migrate, schema_folder
from ledger.ops import doctor_ledgers, doctor_servers
from ledger.settings import Settings
from tests.support.cli import AUDITLEDGER, Cli, cli_of
from tests.support.clusters import Cluster, Clusters
from tests.support.helpers import OwnServers, checked, event, events, eventually, handed_out, numbers
from tests.support.procedures import DOCUMENT, ROOT, Perform, appender, blocks, main_of, performed, performs, promised
from tests.support.projections import OWN
from tests.support.signed_checkpoints import Superuser
from tests.support.views import some_events
from tests.support.worker import worker
from tools import catalog

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
    """Checks are created with their name, with `LEDGER: name`, or with `LEDGER: name` in a variable."""
    named = {name for name, *_ in doctor_servers.DURABLE}
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (doctor_servers, doctor_ledgers)]
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        match node:
            case ast.Call(func=ast.Name(id="Check" | "check"), args=[ast.Constant(value=str(name)), *_]):
                named.add(name)
            case ast.JoinedStr(
                values=[ast.FormattedValue(value=ast.Attribute(attr="name")), ast.Constant(value=str(name))]
            ):
                named.add(name.removeprefix(": "))
    named |= {"projection", "group"}  # with the name of each after it
    assert table_under("What doctor checks") == named


def test_every_command_of_the_page_is_performed_by_a_test() -> None:
    assert {block.heading for block in blocks() if block.language == "sh"} == performed()
    assert {block.language for block in blocks()} == {"sh", "yaml"}


def test_links_within_the_page_lead_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
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
        app.record_many(some_events(30))
        with psycopg.connect(as_user["app"]) as connection:
            assert connection.execute("show idle_in_transaction_session_timeout").fetchall() == [("10s",)]
    perform.env.update(LEDGER_DATABASE_URL=admin_url, LEDGER_REDIS_URL=redis_url)
    ran = perform("Set it up", WORKER_URL=as_user["worker"])
    assert ran.stdout == "Sealed 30 entries; Published 30 entries; Projected 30 entries\n"
    with Ledger.open(database_url=as_user["auditor"]) as auditor:
        assert len(checked(auditor)) == 30
        assert auditor.verify().ok
    ran = perform("Operations")
    assert "position 30" in ran.stdout and "checks passed" not in ran.stdout  # it was never verified by the owner
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
            eventually(lambda: [each["position"] for each in main_of(cli)["projections"]] == [3])
            assert handed_out(ledger) == [1, 2, 3]
            own_servers.kill_redis()
            running.said("trying again")
            own_servers.start()
            with urlopen(url, timeout=20) as reply:  # noqa: S310 - our own server
                shown = reply.read().decode()
    samples = {match[0] for match in re.findall(r"^(auditledger_\w+)(\{.*\})? ", shown, re.MULTILINE)}
    assert set(used) <= samples, set(used) - samples
    for name, label, value in labels:
        assert f'{name}{{{label}="{value}"}}' in shown


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

    patient = Settings(database_url=url, lock_timeout=0.5, answer_timeout=60)
    with Ledger(patient) as ledger, psycopg.connect(url, autocommit=True) as admin, ThreadPoolExecutor(1) as executor:
        ledger.append(event(5))
        admin.execute("set synchronous_commit = local")
        admin.execute("alter system set synchronous_standby_names = '*'")
        admin.execute("select pg_reload_conf()")
        eventually(lambda: admin.execute("show synchronous_standby_names").fetchall() == [("*",)])
        time.sleep(2)  # until the checkpointer has read it too, no commit waits
        waiting = executor.submit(ledger.append, event(6))
        eventually(lambda: "waits for a synchronous standby" in cli.well("status").out)
        assert not waiting.done()
        perform("Appends wait")
        assert waiting.result(20).position == 5
        assert numbers(checked(ledger)) == [0, 2, 4, 5, 6]


# ------------------------------------------------------------------------------------------------------ poison entries


@performs("Blocked projections")
def test_a_projection_that_stands_still(perform: Perform, ledger: Ledger) -> None:
    """One of tests/integration/cli/test_skip.py, which cannot count a certain entry until a file is there."""
    (perform.folder / "my_views.py").write_text(OWN)
    cli = cli_of(ledger)
    perform.env.update(LEDGER_DATABASE_URL=cli.urls[1], LEDGER_REDIS_URL=cli.urls[3])
    ledger.append_many([event(0), Event("user:1", "bad.action"), event(1)])
    what = {"PROJECTION": "my_views:Counting", "VIEW": "counting", "POSITION": "2", "WHO": "user:oncall", "WHY": "12"}
    cli.well("relay", "--once")
    perform.env.update(what)
    assert "what is None?" in perform("Blocked projections").stderr
    assert main_of(cli)["projections"][0]["standstill"]["position"] == 2
    assert "BLOCKED:  at entry 2" in cli.well("status").out
    perform("Blocked projections")
    with worker(cli, "project", "my_views:Counting", cwd=perform.folder):
        eventually(lambda: main_of(cli)["projections"][0]["position"] == 4)
    (perform.folder / "mended").touch()
    assert "Rebuilt counting with entry 2" in perform("Blocked projections").stdout
    assert main_of(cli)["projections"][0]["skipped"] == 0
    cli.well("relay", "--once")
    for _ in range(2):
        for delivery in ledger.subscribe("mailer", after=0, claim_after=0.1, max_tries=1, idle=0.6):
            if delivery.entry.position != 2:
                delivery.ack()
    assert main_of(cli)["subscriptions"][0]["parked"] == 1
    perform("Blocked projections", GROUP="mailer")
    assert handed_out(ledger) == [2]


# ------------------------------------------------------------------------------------------ an entry that does not hold


@performs("An entry that fails verification")
def test_an_entry_that_does_not_hold(perform: Perform, ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(4))
    Superuser(admin).run(
        "update ledger.audit_logs set actor = 'user:1' where position = 2",
        "update ledger.audit_logs set after = '1' where position = 4",
    )
    cli = cli_of(ledger)
    cli("relay", "--once")
    perform.env.update(LEDGER_DATABASE_URL=cli.urls[1], LEDGER_REDIS_URL=cli.urls[3], LEDGER="main", POSITION="2")
    shown = perform("An entry that fails verification").stdout
    assert "ENTRY 2 FAILS VERIFICATION" in shown and "hash_mismatch" in shown
    perform.env.update(WHO="user:oncall", WHY="12", CHANGED="4")
    cli.well("quarantine", "4", "--actor", "user:oncall", "--reason", "12")
    assert "quarantined by user:oncall" in perform("An entry that fails verification").stdout
    perform("An entry that fails verification")
    assert main_of(cli)["stopped"] == []


# ------------------------------------------------------------------------------------------------------------- upgrade


@performs("Upgrade")
def test_a_newer_package_migrates_while_older_clients_append(
    perform: Perform, primary: Cluster, redis_url: str, tmp_path: Path
) -> None:
    """The newer package is this one with one migration more."""
    url, promises = primary.url(), tmp_path / "promises"
    older = Cli("--database-url", url, "--redis-url", redis_url)
    newer = _newer_package(tmp_path / "newer", primary)
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


def _newer_package(folder: Path, server: Cluster) -> Path:
    """A folder with a command `auditledger` of a package that knows a migration more. server: makes its catalog."""
    for part in ("ledger", "projections", "tools"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(schema_folder(), folder / "schema")
    (folder / "schema/9001_more.sql").write_text(
        "create table ledger.more (ledger_id int primary key);\n"
        "alter table ledger.tails add column more bigint not null default 0;\n"
    )
    subprocess.run([sys.executable, folder / "tools/journal.py"], cwd=folder, check=True, capture_output=True)
    catalog.record(folder / "schema", server.url("postgres"))
    command = folder / "auditledger"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(folder)!r}, {str(folder / 'projections')!r}]\n"
        "from ledger.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return folder


# ----------------------------------------------------------------------------------------------- logical replication


def _replicating(clusters: Clusters, name: str) -> Cluster:
    cluster = clusters.new(name)
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as admin:
        admin.execute("alter system set wal_level = logical")
    cluster.stop()
    cluster.start()
    return cluster


@performs("A copy by logical replication")
def test_a_copy_by_logical_replication(perform: Perform, clusters: Clusters) -> None:
    """It stops while the triggers are ALWAYS, which doctor says; then it follows, erasures included, and takes over."""
    heading = "A copy by logical replication"
    old, new = _replicating(clusters, "old"), _replicating(clusters, "new")
    migrate(Settings(database_url=old.create()))
    migrate(Settings(database_url=new.create("other")))  # makes the roles
    copy = new.create()
    with Ledger.open(database_url=old.url()) as ledger:
        ledger.append_many(some_events(20))
        ledger.hold(("invoice", "inv_1"), "user:1", "a lawsuit")
        ledger.erase(3, "user:1", "asked to")
        source = f"host=127.0.0.1 port={old.port} user=postgres password=secret dbname=ledger"
        perform(heading, ADMIN_URL=old.url(), NEW_ADMIN_URL=copy, SOURCE=source)
        assert "publication ledger_move sends" in _said(old.url(), "replication")
        with psycopg.connect(copy, autocommit=True) as at_copy:

            def follows() -> bool:
                query = "select position from ledger.tails"
                return at_copy.execute(query).fetchall() == [(ledger.tail().position,)]

            eventually(follows)
            at_copy.execute("alter table ledger.tails enable always trigger moved_by_entries")
            assert "triggers refuse its rows" in _said(copy, "replication")
            ledger.append_many(some_events(5))
            eventually(lambda: "UPDATE on ledger.tails is refused" in new.log())
            assert not follows()
            at_copy.execute("alter table ledger.tails enable trigger moved_by_entries")
            eventually(follows)
            assert "triggers let it" in _said(copy, "replication")
        ledger.release(("invoice", "inv_1"), "user:1", "it is over")
        ledger.erase(5, "user:1", "asked to")
        perform(heading)
        with Ledger.open(database_url=copy) as moved:
            assert checked(moved) == checked(ledger)
            moved.append(event())
            assert moved.verify().findings == []


def _said(url: str, check: str) -> str:
    checks = Cli("--database-url", url)("doctor", "--json").json["checks"]
    return " ".join(each["found"] for each in checks if each["name"] == check)
