"""Unreachable servers and wrong settings: a one-line error without a password, nothing recorded."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from ledger import AsyncLedger, Ledger
from ledger.effects import Plan, Query
from ledger.errors import InvalidSetting, LedgerError, Unavailable
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.testing import other_database
from tests.support.api import Api, Opener
from tests.support.cli import run
from tests.support.helpers import event

SECRET = "s3cr3t-w0rd"


def with_netloc(url: str, netloc: str) -> str:
    return urlsplit(url)._replace(netloc=netloc).geturl()


def only_line(error: BaseException, *secrets: str) -> str:
    """The message: one line, and neither it nor what caused it holds a secret, as a log of the traceback would show."""
    current: BaseException | None = error
    while current is not None:
        assert not any(secret in str(current) or secret in repr(current) for secret in secrets)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    assert "\n" not in str(error)
    return str(error)


def test_a_wrong_password_is_said_and_not_shown(migrated_url: str, opener: Opener) -> None:
    parts = urlsplit(migrated_url)
    url = with_netloc(migrated_url, f"{parts.username}:{SECRET}@{parts.hostname}:{parts.port}")
    with pytest.raises(Unavailable) as failed:
        opener(database_url=url).append(event())
    message = only_line(failed.value, SECRET)
    assert message.startswith("Postgres cannot be reached: ")
    assert "password authentication failed" in message


def test_a_refused_port_is_said(migrated_url: str, opener: Opener) -> None:
    url = with_netloc(migrated_url, f"someone:{SECRET}@127.0.0.1:1")
    api = opener(database_url=url)
    for call in (lambda: api.append(event()), api.read, api.tail, lambda: api.append_many([event()])):
        with pytest.raises(Unavailable) as failed:
            call()
        message = only_line(failed.value, SECRET)
        assert message.startswith("Postgres cannot be reached: ")
        assert "Connection refused" in message


def test_a_host_that_does_not_exist_is_said(migrated_url: str, opener: Opener) -> None:
    url = with_netloc(migrated_url, f"someone:{SECRET}@no-such-host.invalid")
    with pytest.raises(Unavailable, match=r"^Postgres cannot be reached: .*no-such-host") as failed:
        opener(database_url=url).tail()
    only_line(failed.value, SECRET)


def test_a_missing_database_is_said(migrated_url: str, opener: Opener) -> None:
    password = urlsplit(migrated_url).password or SECRET
    with pytest.raises(Unavailable) as failed:
        opener(database_url=other_database(migrated_url, "no_such_database")).append(event())
    assert 'database "no_such_database" does not exist' in only_line(failed.value, password)


def test_a_database_that_was_dropped_is_said(api: Api, admin: psycopg.Connection, migrated_url: str) -> None:
    api.append(event())
    admin.execute("drop table ledger.audit_logs, ledger.tails cascade")
    with pytest.raises(LedgerError, match=r"run 'auditledger migrate'") as failed:
        api.append(event())
    only_line(failed.value, urlsplit(migrated_url).password or SECRET)


def test_migrating_what_cannot_be_reached_is_said(migrated_url: str) -> None:
    with pytest.raises(Unavailable, match=r"^Postgres cannot be reached: .*Connection refused") as failed:
        migrate(Settings(database_url=with_netloc(migrated_url, f"someone:{SECRET}@127.0.0.1:1")))
    only_line(failed.value, SECRET)


def test_no_url_is_an_error_and_not_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "^no database is set: give database_url or LEDGER_DATABASE_URL "
    with pytest.raises(InvalidSetting, match=message):
        Ledger.open()
    with pytest.raises(InvalidSetting, match=message):
        AsyncLedger.open(redis_url="redis://127.0.0.1:1/0")
    monkeypatch.setenv("LEDGER_DATABASE_URL", "")
    with pytest.raises(InvalidSetting, match=message):
        Ledger.open()
    with pytest.raises(InvalidSetting, match="no database is set"):
        migrate(Settings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"database_url": f"mysql://a:{SECRET}@h/d"}, "the database URL must begin with postgresql://"),
        ({"database_url": f"a:{SECRET}@h/d"}, "the database URL must begin with postgresql://"),
        ({"database_url": f"postgresql://a:{SECRET}@h:port/d"}, "the database URL is malformed: its host or port"),
        ({"database_url": f"postgresql://a:{SECRET}@[h/d"}, "the database URL is malformed: its host or port"),
        (
            {"database_url": "postgresql://h/d", "redis_url": f"http://:{SECRET}@h"},
            "the Redis URL must begin with redis://",
        ),
        ({"database_url": "postgresql://h/d", "name": "Main"}, "not a ledger name: 'Main'"),
        ({"database_url": "postgresql://h/d", "name": "main\n"}, r"not a ledger name: 'main\\n'"),
    ],
)
def test_a_malformed_argument_is_refused_at_once(arguments: dict[str, str], message: str) -> None:
    for kind in (Ledger, AsyncLedger):
        with pytest.raises(InvalidSetting, match=f"^{message}") as failed:
            kind.open(**arguments)
        only_line(failed.value, SECRET)


def test_a_url_may_name_several_hosts(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libpq has it: whichever answers, or, after a failover, whichever takes writes."""
    user, _, rest = migrated_url.removeprefix("postgresql://").rpartition("@")
    several = f"postgresql://{user}@127.0.0.1:1,[::1]:2,{rest}?target_session_attrs=read-write"
    monkeypatch.setenv("LEDGER_DATABASE_URL", several)
    for _ in range(2):
        with Ledger.open() as ledger:
            ledger.append(event())
    assert run("status", "--json").json["ledgers"][0]["position"] == 2
    for wrong in (":port", ":99999"):
        with pytest.raises(InvalidSetting, match=r"^the database URL is malformed: its") as failed:
            Ledger.open(database_url=f"postgresql://a:{SECRET}@h{wrong},h:1/d")
        only_line(failed.value, SECRET)


@pytest.mark.parametrize("query", [f"?password={SECRET}&nonsense=1", f"?options={SECRET}%", f"?host=%zz{SECRET}"])
def test_a_url_that_libpq_cannot_read_is_refused(query: str) -> None:
    with Ledger.open(database_url=f"postgresql://u:{SECRET}@127.0.0.1:1/d{query}") as ledger:
        with pytest.raises(InvalidSetting, match=r"^the database URL cannot be read: check its form$") as failed:
            ledger.append(event())
        only_line(failed.value, SECRET)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LEDGER_POOL_MAX_SIZE", "many", "LEDGER_POOL_MAX_SIZE must be a number, not 'many'"),
        ("LEDGER_POOL_MAX_SIZE", "0", "LEDGER_POOL_MAX_SIZE must be at least 1, not '0'"),
        ("LEDGER_POOL_MAX_IDLE", "-1", "LEDGER_POOL_MAX_IDLE must be at least 0, not '-1'"),
        ("LEDGER_CONNECT_TIMEOUT", "nan", "LEDGER_CONNECT_TIMEOUT must be at least 1, not 'nan'"),
        ("LEDGER_STREAM_KEEP", "inf", "LEDGER_STREAM_KEEP must be at most 1,000,000,000,000, not 'inf'"),
        ("LEDGER_NAME", "no name", "not a ledger name: 'no name'"),
        ("LEDGER_REDIS_URL", f"http://:{SECRET}@h", "the Redis URL must begin with redis://"),
    ],
)
def test_a_malformed_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting, match=f"^{message}") as failed:
        Ledger.open(database_url="postgresql://127.0.0.1:1/d")
    only_line(failed.value, SECRET)


def test_settings_come_from_arguments_then_the_environment_then_the_defaults(
    monkeypatch: pytest.MonkeyPatch, migrated_url: str
) -> None:
    defaults = Settings.load(environment={})
    assert (defaults.name, defaults.pool_max_size, defaults.pool_max_idle, defaults.connect_timeout) == (
        "main",
        20,
        30,
        5,
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", migrated_url)
    with Ledger.open() as ledger:
        assert ledger.append(event()).position == 1
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://127.0.0.1:1/d")
    with Ledger.open(database_url=migrated_url) as ledger:
        assert ledger.append(event()).position == 2


def test_the_options_and_names_of_a_url_stay(migrated_url: str) -> None:
    with Ledger.open(database_url=f"{migrated_url}?options=-c%20statement_timeout%3D54321") as ledger:
        [row] = ledger.run(_shown())
    assert row == ("54321ms", "UTC")


def _shown() -> Plan[list[Any]]:
    rows: list[Any] = yield Query("select current_setting('statement_timeout'), current_setting('timezone')")
    return rows
