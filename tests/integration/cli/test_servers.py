"""Servers that are unreachable, wrong or of another version; and the embedded servers as the default."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ledger import Ledger, embedded
from tests.support.cli import Cli, cli_of, run
from tests.support.helpers import OwnServers

TAIL = ("tail", "--json")


@pytest.mark.parametrize(
    ("urls", "code", "says"),
    [
        (["--database-url", "postgresql://me:s3cret@127.0.0.1:1/x"], 3, "Postgres cannot be reached"),
        (["--database-url", "postgresql://me:s3cret@127.0.0.1:port/x"], 2, "host or port cannot be read"),
        (["--database-url", "postgresql://me:s3cret@[::1/x"], 2, "malformed"),
        (["--database-url", "postgresql://me:s3cret@h/x?nonsense=1"], 2, "cannot be read"),
        (["--database-url", "mysql://me:s3cret@h/x"], 2, "must begin with postgresql://"),
        (["--database-url", "host=h.invalid password=s3cret"], 3, "Postgres cannot be reached"),
        (["--database-url", "host=h paswrod=s3cret"], 2, "a key is misspelt"),
        (["--database-url", "postgresql+psycopg://me:s3cret@h/x"], 2, "names a driver"),
        (["--redis-url", "redis:/:s3cret@h", "--database-url", "postgresql://h/x"], 2, "must begin with redis://"),
        (["--redis-url", "redis://:s3cret@127.0.0.1:1"], 2, "but no database"),
        (["--redis-url", "http://:s3cret@h", "--database-url", "postgresql://h/x"], 2, "must begin with redis://"),
        (["--home", "here", "--database-url", "postgresql://me:s3cret@h/x"], 2, "not both"),
        (["--database-url", "postgresql://h/x", "--ledger", "No"], 2, "not a ledger name"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_urls_that_lead_nowhere(
    urls: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*urls, "status")  # to which a server that is away is a result
    shown = says.replace("cannot be reached", "is unreachable")
    assert ran.code == code and shown in ran.out + ran.err and "s3cret" not in ran.out + ran.err
    for command in (TAIL, ("append", "--actor", "a", "--action", "b"), ("verify",), ("migrate",)):
        ran = run(*urls, *command)
        assert ran.code == code and not ran.out
        assert says in ran.error and "s3cret" not in ran.err
    assert not list(tmp_path.iterdir())


def test_settings_from_the_environment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.settings.database_url or "")
    assert run("append", "--actor", "a", "--action", "b").code == 0
    monkeypatch.setenv("LEDGER_NAME", "second")
    assert run("create", "second").code == 0
    assert run("append", "--actor", "a", "--action", "b", "--json").json["position"] == 1
    monkeypatch.setenv("LEDGER_POOL_MAX_SIZE", "many")
    ran = run(*TAIL)
    assert ran.code == 2 and "LEDGER_POOL_MAX_SIZE" in ran.error


def test_wrong_password_and_missing_database(own_servers: OwnServers) -> None:
    url = urlsplit(own_servers.database_url)
    wrong = url._replace(netloc=f"{url.username}:s3cret@{url.hostname}:{url.port}").geturl()
    ran = run("--database-url", wrong, *TAIL)
    assert ran.code == 3 and "password authentication failed" in ran.error and "s3cret" not in ran.err
    ran = run("--database-url", url._replace(path="/nowhere").geturl(), *TAIL)
    assert ran.code == 3 and 'database "nowhere" does not exist' in ran.error
    assert (url.password or "") not in ran.err
    redis = urlsplit(own_servers.redis_url)
    wrong = redis._replace(netloc=f":s3cret@{redis.hostname}:{redis.port}").geturl()
    urls = ("--database-url", own_servers.database_url, "--redis-url", wrong)
    assert run(*urls, "migrate").code == 0
    ran = run(*urls, "relay", "--once")
    assert ran.code == 3 and "s3cret" not in ran.err


def test_migrate(database_url: str) -> None:
    cli = Cli("--database-url", database_url)
    ran = cli(*TAIL)
    assert ran.code == 2 and "has no ledger schema: run 'auditledger migrate'" in ran.error
    pending = cli.well("migrate", "--dry-run", "--json").json["pending"]
    assert pending and all(file.endswith(".sql") for file in pending)
    assert cli(*TAIL).code == 2
    assert cli.well("migrate").out.splitlines() == [f"applied  {file}" for file in pending]
    assert cli.well("migrate", "--json").json == {"applied": [], "pending": []}
    assert cli.well("migrate").out == "The schema is up to date.\n"
    assert cli.well(*TAIL).out == ""


def test_a_schema_of_another_version(ledger: Ledger, admin: psycopg.Connection) -> None:
    commands = (
        TAIL, ("append", "--actor", "a", "--action", "b"), ("verify",), ("status",), ("run", "--once"), ("create", "x"),
    )  # fmt: skip
    cli = cli_of(ledger)
    admin.execute("insert into ledger.migrations (file, sha256) values ('9999_later.needs_9998.sql', 'x')")
    for command in commands:
        ran = cli(*command)
        assert ran.code == 2 and "too new for this package" in ran.error, command
    assert cli("migrate").code == 2
    admin.execute("delete from ledger.migrations where file ^@ '9999_'")
    admin.execute("delete from ledger.migrations where file = (select max(file) from ledger.migrations)")
    for command in commands:
        ran = cli(*command)
        assert ran.code == 2 and "run 'auditledger migrate'" in ran.error, command
    admin.execute("update ledger.migrations set sha256 = 'x' where file = (select min(file) from ledger.migrations)")
    for command in (*commands, ("migrate",)):
        assert cli(*command).code == 1, command
    assert ledger.settings.database_url
    assert admin.execute("select count(*) from ledger.audit_logs").fetchone() == (0,)


def test_without_urls_the_embedded_pair_is_started_and_it_says_so(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = own_servers.home
    embedded.stop(home)
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("LEDGER_HOME", home.name)
    ran = run("append", "--actor", "a", "--action", "b", "--json")
    assert ran.code == 0, ran
    assert ran.err == f"No database is set: starting the embedded Postgres and Valkey in {home}\n"
    assert ran.json["position"] == 1
    ran = run("run", "--once", "--json")
    assert (ran.code, ran.json) == (0, {"sealed": 0, "published": 1, "projected": 1})
    assert ran.err.startswith("No database is set: using the embedded Postgres and Valkey in ")
    assert run("--home", str(home), "query", "--json").json["position"] == 1
    up = run("up", "--json").json
    assert list(up) == ["database_url", "redis_url"]
    assert run("up").out.splitlines() == [
        f"export LEDGER_DATABASE_URL='{up['database_url']}'", f"export LEDGER_REDIS_URL='{up['redis_url']}'",
    ]  # fmt: skip
    assert run("--database-url", up["database_url"], *TAIL).json["position"] == 1
    assert run("down", "--json").json == {"stopped": True}
    assert run("down").out == f"No servers were running in {home}\n"
    assert embedded.running(home) is None
