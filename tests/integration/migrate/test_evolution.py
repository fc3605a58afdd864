"""Clients and schemas of different versions: an older client with a newer database, and the reverse."""

from __future__ import annotations

import io
import os
import select
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from ledger.drivers.run import drive
from ledger.errors import SchemaMismatch
from ledger.migrate.migrate import check_schema, load_migrations, migrate, schema_folder
from ledger.settings import Settings
from tests.support.cli import Cli, cli_of
from tests.support.helpers import checked, event, events
from tests.support.views import project
from tools import journal

ROOT = Path(__file__).parents[3]
RELEASED = ("48ccab2",)
"""Commits of code that is in use, the oldest first. Each must work with the newest schema until that says `needs`."""
FILES = [migration.file for migration in load_migrations()]
TIMEOUT_SECONDS = 60

MORE = """
create table ledger.more (ledger_id int primary key);
alter table ledger.tails add column more bigint not null default 0;
alter table ledger.projections add column more text;
create index audit_logs_by_more on ledger.audit_logs (ledger_id, occurred_at);
"""
REPLACED = """
create or replace function ledger.grow_tile() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return new;
end
$$;
"""


def newer(to: Path, **migrations: str) -> Path:
    """A schema with these migrations after the newest one. Their names begin with a letter instead of a number."""
    folder = Path(shutil.copytree(schema_folder(), to))
    for number, (name, sql) in enumerate(migrations.items(), 9001):
        (folder / f"{number}_{name}.sql").write_text(sql)
    journal.record(folder)
    return folder


def older(to: Path, count: int) -> Path:
    """The first migrations, without the newest `count`."""
    folder = Path(shutil.copytree(schema_folder(), to))
    for file in FILES[-count:]:
        (folder / file).unlink()
    (folder / "journal.json").unlink()
    journal.record(folder)
    return folder


# ------------------------------------------------------------------------------------------ older client, newer schema


def test_an_older_client_goes_on_with_a_newer_schema(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    """This code is the older client; the ledger was open before, and another is opened after."""
    ledger.append_many(events(3))
    assert migrate(ledger.settings, folder=newer(tmp_path / "schema", more=MORE)) == ["9001_more.sql"]
    cli = cli_of(ledger)
    ledger.append(event(3))
    with Ledger(ledger.settings) as opened:
        opened.append_many(events(5, 4))
        with admin.transaction():
            opened.append(event(9), connection=admin)
        opened.erase(2, "user:dpo", "asked to")
        project(opened)
        assert opened.verify().findings == []
        assert len(checked(opened)) == 11
    assert cli.well("run", "--once", "--json").json["published"] == 11
    assert cli.well("query", "--json", "--limit", "100").out.count("\n") == 11
    assert cli.well("replay", "--all") and cli.well("verify") and cli.well("export", str(tmp_path / "bundle"))
    assert cli.well("migrate", "--json").json == {"applied": [], "pending": []}
    [found] = [check for check in cli.well("doctor", "--json").json["checks"] if check["name"] == "schema"]
    assert found["level"] == "warning" and "9001_more.sql" in found["found"]


def test_what_an_older_verify_cannot_judge_it_says(ledger: Ledger, tmp_path: Path) -> None:
    """It fails, as for any other function: only a package that knows the migration can tell."""
    ledger.append_many(events(3))
    migrate(ledger.settings, folder=newer(tmp_path / "schema", replaced=REPLACED))
    report = ledger.verify()
    assert (report.ok, report.entries) == (False, 3)
    assert [finding.kind for finding in report.findings] == ["unprotected"] * 2
    assert "function ledger.grow_tile() is not the one of the schema" in report.findings[0].detail
    assert "this package does not know 9001_replaced.sql, which may be why" in report.findings[1].detail
    assert any("9001_replaced.sql" in detail for detail in cli_of(ledger).well("status", "--json").json["unprotected"])


def test_a_migration_that_older_clients_cannot_work_with_stops_them(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path
) -> None:
    """All of them but those that know the migration which it says they need."""
    needs = {"drop.needs_9001": "alter table ledger.tails drop column more;"}
    folder = newer(tmp_path / "schema", more=MORE, **needs)
    assert migrate(ledger.settings, folder=folder) == ["9001_more.sql", "9002_drop.needs_9001.sql"]
    too_new = (
        r"^the database is too new for this package \(it has 9002_drop.needs_9001.sql, "
        rf"the package's last is {FILES[-1]}\): upgrade auditledger$"
    )
    with Ledger(ledger.settings) as opened, pytest.raises(SchemaMismatch, match=too_new):
        opened.append(event())
    with pytest.raises(SchemaMismatch, match=too_new):
        migrate(ledger.settings)
    assert admin.execute("select count(*) from ledger.audit_logs").fetchone() == (0,)
    known = load_migrations(folder)
    assert drive(check_schema(known[:-1]), admin) == ["9002_drop.needs_9001.sql"]
    assert drive(check_schema(known), admin) == []


# ------------------------------------------------------------------------------------------ newer client, older schema

COMMANDS = [
    ("append", "--actor", "a", "--action", "b"), ("import", "-"), ("create", "other"), ("tail",), ("relay", "--once"),
    ("project", "--once"), ("run", "--once"), ("query",), ("history", "a:b"), ("state", "a:b"), ("activity",),
    ("replay", "--all"), ("verify",), ("status",), ("grant", "ledger_writer", "somebody"),
]  # fmt: skip


@pytest.fixture
def behind(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """A database that lacks the newest migration."""
    settings = Settings(database_url=database_url, redis_url=redis_url)
    assert migrate(settings, folder=older(tmp_path / "older", 1)) == FILES[:-1]
    return settings


def test_a_newer_client_says_migrate_before_it_does_anything(behind: Settings) -> None:
    cli = Cli("--database-url", behind.database_url or "", "--redis-url", behind.redis_url or "")
    for command in COMMANDS:
        ran = cli(*command, stdin=b'{"actor": "a", "action": "b"}\n')
        assert ran.code == 2, command
        assert f"the database lacks {FILES[-1]}: run 'auditledger migrate'" in ran.error, command
    with psycopg.connect(behind.database_url or "") as connection:
        rows = connection.execute("select (select count(*) from ledger.audit_logs), count(*) from ledger.ledgers")
        assert rows.fetchone() == (0, 1)
    assert migrate(behind) == FILES[-1:]
    assert cli.well("append", "--actor", "a", "--action", "b", "--json").json["position"] == 1


# -------------------------------------------------------------------------------------------------------- in history

OLDER_CLIENT = """
import select, sys
from ledger import Event, Ledger

with Ledger.open(database_url=sys.argv[1]) as ledger:
    while not select.select([sys.stdin], [], [], 0)[0]:
        receipt = ledger.append(Event(actor="older", action="thing.done", after={"of": "an older client"}))
        print(receipt.position, receipt.hash.hex(), flush=True)
"""
MIGRATE = "import sys; from ledger.cli import main; sys.exit(main(['--database-url', sys.argv[1], 'migrate']))"


@pytest.fixture(params=RELEASED)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The code at a commit."""
    git = ["git", "-C", str(ROOT), "archive", request.param, "ledger", "projections", "schema"]
    if shutil.which("git") is None or (archive := subprocess.run(git, capture_output=True, check=False)).returncode:
        pytest.skip(f"needs git, and a clone that goes back to commit {request.param}")
    folder = tmp_path / str(request.param)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@contextmanager
def running(code: Path, script: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process of that code."""
    path = os.pathsep.join([str(code), str(code / "projections")])
    with subprocess.Popen(
        [sys.executable, "-c", script, url], cwd=code, env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def positions(process: subprocess.Popen[str], until: int) -> Iterator[tuple[int, str]]:
    """Position and hash of what the process appended, up to the first entry at that position or after it."""
    assert process.stdout is not None
    position = 0
    while position < until:
        assert select.select([process.stdout], [], [], TIMEOUT_SECONDS)[0], "the older client hangs"
        line = process.stdout.readline()
        assert line, "the older client ended"
        position, hash_ = int(line.split()[0]), line.split()[1]
        yield position, hash_


def test_released_code_appends_while_the_schema_moves_on(released: Path, database_url: str) -> None:
    """Its process is never stopped; the newest client appends beside it. Nothing is lost, nothing is unsound."""
    with running(released, MIGRATE, database_url) as process:
        assert process.wait(TIMEOUT_SECONDS) == 0
    with running(released, OLDER_CLIENT, database_url) as process:
        said = list(positions(process, until=1))
        migrate(Settings(database_url=database_url))
        with Ledger.open(database_url=database_url) as ledger:
            own = [ledger.append(event(number)) for number in range(50)]
            _, last = ledger.append_many(events(50, 50))
            said += positions(process, until=last.position + 20)
            process.stdin.close()  # type: ignore[union-attr]
            said += [(int(line.split()[0]), line.split()[1]) for line in process.stdout or ()]
            assert process.wait(TIMEOUT_SECONDS) == 0
            recorded = {entry.position: entry for entry in checked(ledger)}
            assert all(recorded[position].hash.hex() == hash_ for position, hash_ in said)
            assert all(recorded[receipt.position].hash == receipt.hash for receipt in [*own, last])
            assert len(recorded) == len(said) + 100
            assert ledger.verify().findings == []
