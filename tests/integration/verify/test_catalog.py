"""verify compares the whole catalog with the migrations, and reports what bypasses the protections."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, testing
from ledger.drivers.run import drive
from ledger.migrate import migrate
from ledger.settings import Settings
from ledger.verify import catalog, database, protections
from tests.support.catalog_cases import INFORMATION, OF_THE_SCHEMA, OUTSIDE, VIEWS
from tests.support.cli import Cli
from tests.support.clusters import DEBIAN, Cluster, clusters_folder
from tests.support.helpers import events
from tests.support.logins import logins
from tests.support.views import project
from tools.catalog import made

SCHEMA = Path(__file__).parents[3] / "schema"
CASES = [*OF_THE_SCHEMA, *VIEWS, *OUTSIDE]


def test_the_snapshot_is_what_the_migrations_make(servers: testing.TestServers) -> None:
    """If this fails: run `make journal`."""
    text = made(SCHEMA, servers.database_url)
    assert (SCHEMA / catalog.FILE).read_text() == text
    sources = sum(file.stat().st_size for file in SCHEMA.glob("*.sql"))
    assert len(text.encode()) < sources


@pytest.fixture(scope="module")
def url(servers: testing.TestServers, template: str) -> Iterator[str]:
    """With entries and read views; every test leaves it as it was."""
    with testing.database(servers.database_url, template=template) as url:
        fill(url)
        yield url


def fill(url: str) -> None:
    with Ledger.open(database_url=url) as ledger:
        ledger.append_many(events(3))
        project(ledger)


@pytest.fixture(scope="module")
def user(url: str) -> Iterator[str]:
    """The name of a login without roles."""
    with logins(url) as login:
        login()
        yield login.made[0]


def found(connection: psycopg.Connection, statement: str, user: str) -> tuple[list[str], list[str]]:
    """What is said of it, as findings and beside them, in the transaction that does it, which is then rolled back."""
    with connection.transaction(force_rollback=True):
        if "owner to {user}" in statement:
            connection.execute(f"grant create on schema public, ledger, ledger_views to {user}")
        connection.execute(statement.replace("{user}", user).encode())
        if "owner to {user}" in statement:
            connection.execute(f"revoke create on schema public, ledger, ledger_views from {user}")
        findings = drive(protections.check(), connection)
        assert {(each.position, each.kind) for each in findings} <= {(None, "unprotected")}
        return [each.detail for each in findings], drive(protections.privileged(), connection)


@pytest.fixture(scope="module")
def superuser(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set allow_system_table_mods = on")
        yield connection


@pytest.mark.parametrize(("statement", "detail"), CASES)
def test_each_kind_of_tampering_is_named(superuser: psycopg.Connection, user: str, statement: str, detail: str) -> None:
    details, _ = found(superuser, statement, user)
    assert any(detail.replace("{user}", user) in each for each in details), details


@pytest.mark.parametrize(("statement", "said"), INFORMATION)
def test_what_is_no_finding_is_said(superuser: psycopg.Connection, user: str, statement: str, said: str) -> None:
    details, privileged = found(superuser, statement, user)
    assert details == []
    assert any(said.replace("{user}", user) in each for each in privileged), privileged


HARMLESS = [
    "create view public.mine with (security_invoker) as table ledger_views.timeline",
    "create function public.mine() returns setof ledger.entries language sql begin atomic table ledger.entries; end",
    "create function public.audit_logs() returns int language sql security definer as 'select 1 as ledger'",
    "alter table ledger.audit_logs set (autovacuum_vacuum_scale_factor = 0.01)",
    "create index mine on ledger_views.timeline (actor)",
    "comment on table ledger.tails is 'mine'",
    "grant select on ledger_views.timeline to {user}",
    "grant ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin to {user}",
    "alter role {user} set search_path = public",
    "cluster ledger.tails using tails_pkey",
    "analyze ledger.audit_logs",
]


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_is_harmless_is_no_finding(superuser: psycopg.Connection, user: str, statement: str) -> None:
    assert found(superuser, statement, user)[0] == []


SETTINGS = (
    "quote_all_identifiers = on",
    "datestyle = 'SQL, DMY'",
    "timezone = 'Asia/Kolkata'",
    "intervalstyle = 'iso_8601'",
    "bytea_output = escape",
    "extra_float_digits = -3",
    "standard_conforming_strings = off",
)


def test_an_untouched_database_has_no_findings_for_any_reader(url: str) -> None:
    """The settings of database and user, which change how definitions are printed, do not matter."""
    with logins(url) as login, psycopg.connect(url, autocommit=True) as admin:
        for role in ("ledger_reader", "ledger_projector"):
            settings = Settings(database_url=login(role))
            for setting in SETTINGS:
                admin.execute(f"alter role {login.made[-1]} set {setting}")
            report = database.verify(settings)
            assert (report.ok, report.findings, report.entries) == (True, [], 3)
            assert any(said.endswith(" is a superuser") for said in report.privileged)


def test_who_is_beyond_privileges_is_printed(url: str) -> None:
    """And changes neither verdict nor exit code."""
    cli = Cli("--database-url", url)
    ran = cli.well("verify")
    assert " is a superuser" in ran.err and ran.out.startswith("OK, ledger main")
    assert any(said.endswith(" is a superuser") for said in cli.well("verify", "--json").json["privileged"])


def _other_servers() -> list[Path]:
    return [folder for folder in DEBIAN if (folder / "initdb").exists()]


@pytest.fixture(scope="module", params=_other_servers(), ids=lambda folder: f"postgresql-{folder.parent.name}")
def other(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server of another version, of those that are installed here."""
    with clusters_folder(request.param) as made:
        yield made.new("other")


def test_another_version_of_postgres(other: Cluster) -> None:
    """Untouched, restored from a dump and twice so; and every kind of tampering."""
    url, tools = other.create(), other.tools
    migrate.migrate(Settings(database_url=url))
    fill(url)
    for source, target in (("ledger", "restored"), ("restored", "again")):
        copy = other.create(target)
        dump = subprocess.run([tools / "pg_dump", other.url(source)], capture_output=True, check=True)
        subprocess.run([tools / "psql", "-qX", copy], input=dump.stdout, capture_output=True, check=True)
    with logins(url) as login, psycopg.connect(url, autocommit=True) as connection:
        for each in (url, other.url("restored"), other.url("again"), login("ledger_reader")):
            report = database.verify(Settings(database_url=each))
            assert (report.findings, report.entries) == ([], 3)
        login()
        user = login.made[-1]
        connection.execute("set allow_system_table_mods = on")
        for statement, detail in CASES:
            details, _ = found(connection, statement, user)
            assert any(detail.replace("{user}", user) in each for each in details), (statement, details)
        for statement in (*HARMLESS, *(statement for statement, _ in INFORMATION)):
            assert found(connection, statement, user)[0] == [], statement
