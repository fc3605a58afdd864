"""Migrations: each applied once, in order, or refused if a file, the journal or the database was tampered with."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import Ledger
from ledger.errors import LedgerError, MigrationTampered, SchemaMismatch, Unavailable, UsageError
from ledger.migrate.migrate import load_migrations, migrate, schema_folder
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from tests.support.appending import migrate_in_process
from tests.support.cli import Cli
from tests.support.helpers import OwnServers, checked, event, processes
from tests.support.views import project

FILES = [migration.file for migration in load_migrations()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the schema, to tamper with."""
    return Path(shutil.copytree(schema_folder(), tmp_path / "schema"))


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url)


def journal(folder: Path) -> list[dict[str, str]]:
    lines = json.loads((folder / "journal.json").read_text())
    assert isinstance(lines, list)
    return lines


def write_journal(folder: Path, lines: list[dict[str, str]], *, relink: bool = False) -> None:
    """relink: with the right hash of the line before in each, as `make journal` would."""
    previous = "0" * 64
    for line in lines if relink else []:
        line["sha256"] = hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest()
        line["previous"] = previous
        previous = hashlib.sha256(json.dumps(line, separators=(",", ":")).encode()).hexdigest()
    (folder / "journal.json").write_text(json.dumps(lines))


def add(folder: Path, name: str, sql: str) -> None:
    """One more migration, with a right journal."""
    (folder / name).write_text(sql)
    write_journal(folder, [*journal(folder), {"file": name, "sha256": "", "previous": ""}], relink=True)


def relations(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select nspname, relname from pg_class c join pg_namespace n on n.oid = relnamespace"
            " where nspname like 'ledger%' or nspname = 'public' order by 1, 2"
        ).fetchall()


def test_a_dry_run_says_what_it_would_do_and_does_nothing(settings: Settings, database_url: str) -> None:
    assert migrate(settings, dry_run=True) == FILES
    assert relations(database_url) == []
    assert migrate(settings) == FILES
    assert migrate(settings, dry_run=True) == []


def test_twice_is_nothing_and_keeps_what_is_there(settings: Settings, database_url: str) -> None:
    assert migrate(settings) == FILES
    with Ledger.open(database_url=database_url) as ledger:
        ledger.append(event(0))
        before = relations(database_url)
        assert migrate(settings) == []
        assert relations(database_url) == before
        assert len(checked(ledger)) == 1


def test_eight_processes_at_once_migrate_once(settings: Settings, database_url: str) -> None:
    with processes(8) as executor:
        done = list(executor.map(migrate_in_process, [database_url] * 8, timeout=60))
    assert sorted(done) == [[]] * 7 + [FILES]
    with Ledger.open(database_url=database_url) as ledger:
        assert ledger.append(event(0)).position == 1


def edit_file(folder: Path) -> None:
    file = folder / FILES[1]
    file.write_bytes(file.read_bytes() + b"-- harmless\n")


def remove_file(folder: Path) -> None:
    (folder / FILES[1]).unlink()


def add_stranger(folder: Path) -> None:
    (folder / "9999_stranger.sql").write_text("select 1;")


def edit_line(folder: Path) -> None:
    edit_file(folder)
    lines = journal(folder)
    lines[1]["sha256"] = hashlib.sha256((folder / FILES[1]).read_bytes()).hexdigest()
    write_journal(folder, lines)


def remove_line(folder: Path) -> None:
    remove_file(folder)
    lines = journal(folder)
    write_journal(folder, [lines[0], *lines[2:]])


def reorder(folder: Path) -> None:
    lines = journal(folder)
    write_journal(folder, [lines[1], lines[0], *lines[2:]])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (edit_file, f"^{FILES[1]} was edited: its hash is not the one in journal.json"),
        (remove_file, f"^{FILES[1]} is in journal.json, but the file is missing"),
        (add_stranger, "^not in journal.json: 9999_stranger.sql"),
        (edit_line, rf"^journal.json: the line of {FILES[2]} does not continue the previous line"),
        (remove_line, rf"^journal.json: the line of {FILES[2]} does not continue the previous line"),
        (reorder, rf"^journal.json: the line of {FILES[1]} does not continue the previous line"),
    ],
)
def test_a_tampered_folder_is_refused_before_anything_is_done(
    settings: Settings, database_url: str, folder: Path, tamper: Callable[[Path], None], message: str
) -> None:
    tamper(folder)
    for dry_run in (True, False):
        with pytest.raises(MigrationTampered, match=message):
            migrate(settings, folder=folder, dry_run=dry_run)
    assert relations(database_url) == []


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[1]", '[{"file": "0001_tables.sql"}]'])
def test_a_journal_that_is_missing_or_damaged_is_refused(folder: Path, text: str | None) -> None:
    (folder / "journal.json").unlink()
    if text is not None:
        (folder / "journal.json").write_text(text)
    with pytest.raises(MigrationTampered, match="journal"):
        load_migrations(folder)


def test_a_history_rewritten_with_a_right_journal_is_refused_by_the_database(settings: Settings, folder: Path) -> None:
    migrate(settings)
    edit_file(folder)
    write_journal(folder, journal(folder), relink=True)
    message = rf"^the database was migrated with {FILES[1]} \(SHA-256 \w{{12}}…\), this package has {FILES[1]} "
    for dry_run in (True, False):
        with pytest.raises(MigrationTampered, match=message):
            migrate(settings, folder=folder, dry_run=dry_run)


def test_a_newer_package_brings_the_database_up(settings: Settings, folder: Path) -> None:
    migrate(settings)
    add(folder, "9998_more.sql", "create table ledger.more (id int);")
    assert migrate(settings, folder=folder, dry_run=True) == ["9998_more.sql"]
    assert migrate(settings, folder=folder) == ["9998_more.sql"]
    assert migrate(settings, folder=folder) == migrate(settings) == []


def test_a_failing_migration_leaves_nothing_half_done(settings: Settings, database_url: str, folder: Path) -> None:
    add(folder, "9998_broken.sql", "create table ledger.half (id int); select 1/0; create table ledger.other (id int);")
    with pytest.raises(LedgerError, match="division by zero"):
        migrate(settings, folder=folder)
    assert not {("ledger", "half"), ("ledger", "other")} & set(relations(database_url))
    assert migrate(settings) == []  # those before it are whole
    (folder / "9998_broken.sql").unlink()
    write_journal(folder, journal(folder)[:-1])
    add(folder, "9998_mended.sql", "create table ledger.half (id int);")
    assert migrate(settings, folder=folder) == ["9998_mended.sql"]
    assert ("ledger", "half") in relations(database_url)


def test_a_database_that_is_not_migrated_is_refused_with_what_to_do(database_url: str) -> None:
    with Ledger.open(database_url=database_url) as ledger:
        for call in (ledger.tail, lambda: ledger.append(event()), lambda: list(ledger.read())):
            with pytest.raises(SchemaMismatch, match=r"^the database has no ledger schema: run 'auditledger migrate'$"):
                call()


def test_an_older_database_is_refused_with_what_to_do(database_url: str, settings: Settings, folder: Path) -> None:
    (folder / FILES[-1]).unlink()
    write_journal(folder, journal(folder)[:-1])
    assert migrate(settings, folder=folder) == FILES[:-1]
    with Ledger.open(database_url=database_url) as ledger:
        with pytest.raises(SchemaMismatch, match=f"^the database lacks {FILES[-1]}: run 'auditledger migrate'$"):
            ledger.append(event())
        assert migrate(settings) == FILES[-1:]
        assert ledger.append(event()).position == 1


def test_a_database_of_another_encoding_is_refused(admin: psycopg.Connection, migrated_url: str) -> None:
    admin.execute("drop database if exists auditledger_latin with (force)")
    admin.execute(
        "create database auditledger_latin encoding 'LATIN1' locale_provider libc locale 'C' template template0"
    )
    try:
        url = migrated_url.rpartition("/")[0] + "/auditledger_latin"
        with pytest.raises(SchemaMismatch, match=r"^the database's encoding is LATIN1: create one with UTF8"):
            migrate(Settings(database_url=url))
        assert relations(url) == []
    finally:
        admin.execute("drop database auditledger_latin with (force)")


def other(url: str, *, user: str = "", database: str = "") -> str:
    """The same server as another user, whose password is `secret`, or another database."""
    parts = urlsplit(url)
    netloc = f"{user}:secret@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
    return parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path).geturl()


def test_by_one_who_may_create_roles_but_is_no_superuser(own_servers: OwnServers) -> None:
    """As managed servers have it. It goes on doing everything, until roles are taken from it."""
    superuser = own_servers.database_url
    with psycopg.connect(superuser, autocommit=True) as admin:
        admin.execute("create role first login createrole password 'secret'")
        admin.execute("create role second login password 'secret'")
        for name in ("first", "second"):
            admin.execute(f"create database {name} owner {name}".encode())
    first = Settings(database_url=other(superuser, user="first", database="first"))
    assert migrate(first) == FILES
    assert migrate(first) == []
    with Ledger(first) as ledger:
        ledger.append(event(0))
        project(ledger)
        rebuild(first, Timeline())
        ledger.erase(1, "user:1", "asked to")
        assert len(checked(ledger)) == 2
        assert ledger.verify().findings == []  # it was lent ledger_owner, and has given it back
    cli = Cli("--database-url", first.database_url or "")
    cli.well("revoke", "ledger_eraser", "first")
    cli.well("create", "further")
    cli.well("revoke", "ledger_admin", "first")
    assert cli("create", "another").code == 2

    second = Settings(database_url=other(superuser, user="second", database="second"))
    with pytest.raises(
        UsageError, match=r"As a superuser run: grant ledger_owner, .* to second with admin option"
    ) as error:
        migrate(second)
    with psycopg.connect(other(superuser, database="second"), autocommit=True) as admin:
        admin.execute(str(error.value).partition("As a superuser run: ")[2].partition(" (")[0].encode())
    assert migrate(second) == FILES[FILES.index("0005_roles.sql") :]
    with Ledger(second) as ledger:
        ledger.append(event(0))
        assert ledger.verify().findings == []


def test_what_was_there_before_the_roles_is_handed_over(settings: Settings, database_url: str, folder: Path) -> None:
    """Entries, views and a rebuild that was given up."""
    lines = journal(folder)
    for line in lines[4:]:
        (folder / line["file"]).unlink()
    write_journal(folder, lines[:4])
    migrate(settings, folder=folder)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("set search_path = ledger_views, pg_catalog")
        admin.execute(Timeline.schema.encode())
        admin.execute("create schema ledger_rebuild_timeline")
        admin.execute("create table ledger_rebuild_timeline.timeline (ledger_id int)")
        admin.execute(
            "insert into ledger.projections (ledger_id, name, version) values (1, 'timeline', %s)", (Timeline.version,)
        )
        migrate(settings)
        owners = admin.execute(
            "select distinct schemaname ^@ 'ledger_', tableowner, rowsecurity from pg_tables"
            " where schemaname ^@ 'ledger' and tablename in ('audit_logs', 'tails', 'timeline') order by 1, 3"
        ).fetchall()
    assert owners == [
        (False, "ledger_owner", False), (False, "ledger_owner", True), (True, "ledger_projector", True),
    ]  # fmt: skip
    with Ledger(settings) as ledger:
        ledger.append(event(0))
        project(ledger)
        rebuild(settings, Timeline())
        assert ledger.verify().findings == []


def test_appends_go_on_while_a_migration_waits_for_a_long_read(
    settings: Settings, database_url: str, folder: Path
) -> None:
    """Whoever waits for a table's lock makes all that come after wait: a dump, or verify, would stop appends."""
    migrate(settings)
    add(folder, "9998_more.sql", "alter table ledger.tails add column more bigint not null default 0;")
    with (
        Ledger(Settings(database_url=database_url, lock_timeout=4)) as ledger,
        psycopg.connect(database_url) as reader,
        ThreadPoolExecutor(1) as executor,
    ):
        ledger.append(event(0))
        reader.execute("select from ledger.tails")  # as a dump does, for as long as it takes
        migrating = executor.submit(migrate, settings, folder=folder)
        try:
            begun = time.monotonic()
            count = 0
            while time.monotonic() - begun < 6:
                ledger.append(event(0))
                count += 1
            assert not migrating.done() and count > 10
        finally:
            reader.rollback()
        assert migrating.result(60) == ["9998_more.sql"]
        ledger.append(event(0))
        assert len(checked(ledger)) == count + 2


def test_a_migration_gives_up_and_says_who_is_in_its_way(
    settings: Settings, database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.migrate.migrate.TRIES", 2)
    migrate(settings)
    add(folder, "9998_more.sql", "alter table ledger.tails add column more bigint not null default 0;")
    with psycopg.connect(database_url, application_name="nightly dump") as reader:
        reader.execute("select from ledger.tails")
        said = rf"^9998_more.sql was not applied: .* pid {reader.info.backend_pid} \(nightly dump, since "
        with pytest.raises(Unavailable, match=said):
            migrate(settings, folder=folder)
        assert migrate(settings, folder=folder, dry_run=True) == ["9998_more.sql"]
    assert migrate(settings, folder=folder) == ["9998_more.sql"]
