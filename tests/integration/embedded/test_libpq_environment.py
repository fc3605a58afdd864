"""The embedded servers under any libpq environment."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from ledger import AsyncLedger, Ledger, embedded
from ledger.drivers.connections import connect, conninfo
from ledger.errors import InvalidSetting, LedgerError
from ledger.settings import Settings
from tests.support.cli import run
from tests.support.helpers import OwnServers, checked, event

ENVIRONMENTS: list[dict[str, str]] = [
    {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere"},
    {"PGHOSTADDR": "192.0.2.1"},
    {"PGREQUIREAUTH": "md5"},
    {"PGCHANNELBINDING": "require"},
    {"PGSERVICE": "nosuch"},
    {"PGSERVICE": "nosuch", "PGSERVICEFILE": "/nowhere", "PGSYSCONFDIR": "/nowhere"},
    {"PGOPTIONS": "-c search_path=nowhere -c default_transaction_isolation=serializable"},
    {"PGTZ": "Europe/Amsterdam", "PGDATESTYLE": "German", "PGGEQO": "off"},
    {"PGCLIENTENCODING": "LATIN1"},
    {"PGTARGETSESSIONATTRS": "standby", "PGLOADBALANCEHOSTS": "random"},
    {"PGSSLNEGOTIATION": "direct", "PGGSSENCMODE": "require"},
    {"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "none", "PGPASSWORD": "no"},
    {"PGPASSFILE": "/nowhere", "PGAPPNAME": "shop", "PGCONNECT_TIMEOUT": "1", "PGREQUIREPEER": "nobody"},
    {"PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "latest"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids="+".join)
def test_any_environment(own_servers: OwnServers, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    own_servers.stop()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Ledger.open(home=own_servers.home) as ledger:
        assert ledger.append(event(0, actor="user:é")).position == 1
        assert ledger.append_many([event(1), event(2)]).count == 2

    async def append() -> None:
        async with AsyncLedger.open(home=own_servers.home) as other:
            assert (await other.append(event(3))).position == 4

    asyncio.run(append())
    ran = run("--home", str(own_servers.home), "verify")
    assert ran.code == 0, ran
    for name in environment:
        monkeypatch.delenv(name)
    with Ledger.open(home=own_servers.home) as ledger:
        assert [entry.actor for entry in checked(ledger)] == ["user:é", "user:42", "user:42", "user:42"]
    assert embedded.running(own_servers.home) is not None


def test_nonsense_that_libpq_sends_is_said_at_once(own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Nowhere/At_All")
    with pytest.raises(InvalidSetting, match=r'^invalid PGTZ or PGDATESTYLE .*invalid value for parameter "TimeZone"'):
        Ledger.open(home=own_servers.home)


def test_elsewhere_the_environment_fills_in_what_the_url_leaves_out(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libpq documents it: PGAPPNAME, PGOPTIONS and the like are the user's own."""
    monkeypatch.setenv("PGAPPNAME", "shop")
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    showing = (
        "select current_setting('application_name'), current_setting('work_mem'), current_setting('client_encoding')"
    )
    for url, name in ((migrated_url, "shop"), (f"{migrated_url}?application_name=billing", "billing")):
        connection = connect(Settings(database_url=url))
        assert connection.execute(showing.encode()).fetchall() == [(name, "5MB", "UTF8")]
        connection.close()
    monkeypatch.delenv("PGAPPNAME")
    assert psycopg.conninfo.conninfo_to_dict(conninfo(Settings(database_url=migrated_url))).get("options") is None
    connection = connect(Settings(database_url=migrated_url))
    assert connection.info.parameter_status("application_name") == "auditledger"
    connection.close()


@pytest.mark.parametrize(
    "form",
    [
        "host={host} port={port} user={user} password='{password}' dbname={dbname}",
        "postgresql://{user}:{password}@/{dbname}?host={host}&port={port}",
        "postgresql://{user}:{password}@127.0.0.1:1,{host}:{port}/{dbname}",
        "postgres://{user}:{password}@{host}:{port}/%{first:x}{rest}",
        "service=mine password={password}",
    ],
)
def test_whatever_libpq_takes_is_taken(
    migrated_url: str, form: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(migrated_url)
    name = str(parts["dbname"])
    (file := __import__("pathlib").Path(str(tmp_path)) / "services").write_text(
        f"[mine]\nhost={parts['host']}\nport={parts['port']}\nuser={parts['user']}\ndbname={name}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    url = form.format(**parts, first=ord(name[0]), rest=name[1:])
    with Ledger(Settings.load(database_url=url, environment={})) as ledger:
        assert ledger.append(event(0)).position == 1


@pytest.mark.parametrize("url", ["mysql://u:s3cret@h/d", "s3cret", "postgresql://u:s3cret@h:port/d", "host=h s3cret"])
def test_whatever_libpq_does_not_take_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LedgerError, match=r"^the database URL") as failed:
        Settings.load(database_url=url, environment={})
    assert "s3cret" not in str(failed.value)
