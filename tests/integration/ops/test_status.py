"""status with servers killed or stopped, a held tail lock, and a diverged stream or view."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from ledger import Ledger, TailBusy, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.stream.relay import Relay
from ledger.testing import other_database
from tests.support.cli import Cli, cli_of
from tests.support.helpers import OwnServers, event, events, eventually
from tests.support.processes import pid_of, stopped

SOON = 12.0
"""Seconds in which status must have answered; the machine may be busy."""


@pytest.fixture
def own_cli(own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """On servers to mistreat, with 5 entries published and projected in `main`."""
    monkeypatch.setenv("LEDGER_CONNECT_TIMEOUT", "2")
    migrate(Settings(database_url=own_servers.database_url))
    with Ledger.open(database_url=own_servers.database_url) as ledger:
        ledger.append_many(events(5))
    cli = Cli("--database-url", own_servers.database_url, "--redis-url", own_servers.redis_url)
    cli.well("run", "timeline", "--once")
    return cli


def away(cli: Cli) -> Any:
    """What status says, which is that something is away, soon."""
    began = time.monotonic()
    ran = cli("status", "--json")
    assert time.monotonic() - began < SOON
    assert ran.code == 3
    return ran.json


def test_a_killed_postgres(own_cli: Cli, own_servers: OwnServers) -> None:
    own_servers.kill_postgres()
    found = away(own_cli)
    assert found["postgres"].startswith("Postgres cannot be reached") and found["redis"] == "ok"
    [main] = found["ledgers"]
    assert main["ledger"] == "main" and (main["stream"]["position"], main["stream"]["lag"]) == (5, None)
    unknown = ("position", "hash", "recorded_at", "held_by", "projections", "subscriptions", "verified")
    assert {main[key] for key in unknown} == {None} and found["unprotected"] is None
    ran = own_cli("status")
    assert ran.code == 3 and "Postgres is unreachable: " in ran.out and "at 1-5  lag unknown" in ran.out
    assert "Postgres cannot be reached" not in ran.out  # the label says so already
    assert own_cli("status", "--json", "--ledger", "main").json["ledgers"] == [main]
    own_servers.start()
    found = own_cli.well("status", "--json").json
    assert (found["postgres"], found["ledgers"][0]["position"], found["unprotected"]) == ("ok", 5, [])


def test_a_killed_redis(own_cli: Cli, own_servers: OwnServers) -> None:
    own_servers.kill_redis()
    found = away(own_cli)
    assert found["postgres"] == "ok" and found["redis"].startswith("Redis cannot be reached")
    [main] = found["ledgers"]
    assert (main["position"], main["stream"], main["projections"][0]["lag"]) == (5, None, 0)


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_a_server_that_hangs(own_cli: Cli, own_servers: OwnServers, server: str) -> None:
    other = {"postgres": "redis", "redis": "postgres"}[server]
    with stopped(pid_of(own_servers.home, server)):
        found = away(own_cli)
    assert found[other] == "ok" and found[server].startswith(f"{server.capitalize()} cannot be reached")
    assert own_cli.well("status", "--json").json[server] == "ok"


def test_both_away(own_cli: Cli, own_servers: OwnServers) -> None:
    own_servers.kill_postgres()
    own_servers.kill_redis()
    found = away(own_cli)
    assert found["ledgers"] == [] and found["postgres"] != "ok" != found["redis"]
    ran = own_cli("status")
    assert ran.code == 3 and "Postgres is unreachable" in ran.out and "Redis is unreachable" in ran.out


def test_who_holds_the_tail_is_named(ledger: Ledger) -> None:
    cli = cli_of(ledger)
    ledger.append(event(0))
    assert cli.well("status", "--json").json["ledgers"][0]["held_by"] is None
    with psycopg.connect(ledger.settings.database_url or "", application_name="shop") as holder:
        ledger.append(event(1), connection=holder)
        psycopg.ClientCursor(holder).execute("select %s, 42", ["s3cret 'text'"])
        time.sleep(1.1)
        with ThreadPoolExecutor(3) as executor, Ledger(ledger.settings) as one, Ledger(ledger.settings) as two:
            # One takes the row as it finds it, two stand in line for it.
            waiters = [executor.submit(each.append, event(2)) for each in (ledger, one, two)]
            eventually(lambda: _waiting(cli) == 3)
            held = cli.well("status", "--json").json["ledgers"][0]["held_by"]
            text = cli.well("status").out
            holder.rollback()
            for waiter in waiters:
                waiter.result()
        pid, user = holder.info.backend_pid, holder.info.user
    assert (held["pid"], held["user"], held["application"]) == (pid, user, "shop")
    assert (held["state"], held["last_ran"], held["prepared"]) == ("idle in transaction", "select ?, ?", None)
    assert 1 < held["seconds"] < 60 and held["since"].endswith("Z") and held["waiting"] == 3
    assert f"TAIL HELD, appends wait:  pid {pid}, user {user}, application shop" in text
    assert "last ran: select ?, ?" in text and "s3cret" not in text
    assert cli.well("status", "--json").json["ledgers"][0]["held_by"] is None


def _waiting(cli: Cli) -> int:
    held = cli.well("status", "--json").json["ledgers"][0]["held_by"]
    return int(held["waiting"])


def test_a_prepared_transaction_that_holds_the_tail_is_named(
    own_cli: Cli, own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(own_servers.database_url, autocommit=True) as admin:
        admin.execute("alter system set max_prepared_transactions = 2")
    own_servers.restart()
    with psycopg.connect(own_servers.database_url) as holder:
        holder.execute("update ledger.tails set fence = fence + 1")
        holder.execute("prepare transaction 'forgotten'")
    time.sleep(1.1)
    monkeypatch.setenv("LEDGER_LOCK_TIMEOUT", "0.2")
    with Ledger.open(database_url=own_servers.database_url) as ledger, pytest.raises(TailBusy):
        ledger.append(event(0))
    held = own_cli.well("status", "--json").json["ledgers"][0]["held_by"]
    assert (held["pid"], held["prepared"], held["last_ran"]) == (None, "forgotten", None)
    assert held["seconds"] > 1 and held["user"]
    assert "prepared transaction 'forgotten'" in own_cli.well("status").out


def test_a_user_who_may_see_little(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(3))
    cli_of(ledger).well("relay", "--once")
    admin.execute("create role glimpse login password 'glimpse'")
    try:
        admin.execute("select ledger.grant_role('ledger_writer', 'glimpse', null)")
        url = ledger.settings.database_url or ""
        info = psycopg.conninfo.conninfo_to_dict(url)
        own = f"postgresql://glimpse:glimpse@{info['host']}:{info['port']}/{info['dbname']}"
        cli = Cli("--database-url", own, "--redis-url", ledger.settings.redis_url or "")
        with psycopg.connect(url, application_name="shop") as holder:
            pid = holder.info.backend_pid
            holder.execute("update ledger.tails set fence = fence + 1 where 's3cret' <> ''")
            found = cli.well("status", "--json").json
            text = cli.well("status").out
        [main] = found["ledgers"]
        assert {"projections", "subscriptions", "verified"} <= set(found["hidden"])
        assert (main["position"], main["projections"], main["verified"]) == (3, None, None)
        assert (main["stream"]["position"], main["stream"]["lag"], main["stream"]["diverged"]) == (3, 0, None)
        assert (main["held_by"]["pid"], main["held_by"]["application"]) == (pid, "shop")
        assert (main["held_by"]["since"], main["held_by"]["last_ran"]) == (None, None)
        assert "may not see" in text and "s3cret" not in text and "never" not in text
    finally:
        admin.execute("drop owned by glimpse")
        admin.execute("drop role glimpse")


def test_a_stream_of_other_entries_is_diverged(ledger: Ledger, redis_url: str) -> None:
    cli = cli_of(ledger)
    ledger.append_many(events(3))
    cli.well("relay", "--once")
    assert cli.well("status", "--json").json["ledgers"][0]["stream"]["diverged"] is False
    with create_redis_connection(redis_url) as redis:
        redis.delete("ledger:{main}:entries")
        redis.xadd("ledger:{main}:entries", {"envelope": "{}", "body": "", "hash": "00" * 32}, id="1-3")
    assert cli.well("status", "--json").json["ledgers"][0]["stream"]["diverged"] is True
    assert "DIVERGED" in cli.well("status").out


def test_nothing_seems_to_be_ahead_of_the_ledger_while_it_grows(ledger: Ledger) -> None:
    """What was appended, published and applied between two looks of status is no divergence."""
    cli = cli_of(ledger)
    settings = ledger.settings
    stop = threading.Event()

    def grow() -> None:
        with closing(Connector(settings)) as servers:
            relay = Relay(servers)
            while not stop.is_set():
                ledger.append(event(0))
                relay.publish()

    with ThreadPoolExecutor(1) as executor:
        growing = executor.submit(grow)
        try:
            for _ in range(40):
                found = cli.well("status", "--json").json["ledgers"][0]
                assert found["stream"]["diverged"] is False and found["stream"]["lag"] >= 0
        finally:
            stop.set()
            growing.result()
    assert found["position"] > 40


def test_a_lag_whose_time_is_not_known_and_a_view_that_is_ahead(ledger: Ledger, admin: psycopg.Connection) -> None:
    cli = cli_of(ledger)
    ledger.append_many(events(2))
    cli.well("project", "timeline", "resource_state", "--once")
    ledger.append_many(events(2, 2))
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    admin.execute("delete from ledger.audit_logs where position = 3")
    admin.execute("alter table ledger.audit_logs enable always trigger append_only")
    admin.execute("alter table ledger.projections disable trigger all")
    admin.execute("update ledger.projections set position = 9 where name = 'resource_state'")
    found = cli.well("status", "--json").json
    views = {view["name"]: view for view in found["ledgers"][0]["projections"]}
    assert (views["timeline"]["lag"], views["timeline"]["lag_seconds"]) == (2, None)
    assert (views["resource_state"]["lag"], views["resource_state"]["ahead"]) == (0, True)
    text = cli.well("status").out
    assert "2 behind, age unknown" in text and "AHEAD of the ledger" in text


def test_what_is_unprotected_is_shown(ledger: Ledger, admin: psycopg.Connection) -> None:
    cli = cli_of(ledger)
    assert cli.well("status", "--json").json["unprotected"] == []
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    assert cli.well("status", "--json").json["unprotected"] == [
        "trigger append_only on ledger.audit_logs is not the one of the schema: enabled is never, not ALWAYS"
    ]
    assert "UNPROTECTED:  trigger append_only" in cli.well("status").out


def test_a_database_without_the_schema_is_wrong_use(ledger: Ledger) -> None:
    url = other_database(ledger.settings.database_url or "", "postgres")
    ran = Cli("--database-url", url)("status")
    assert ran.code == 2 and "auditledger migrate" in ran.error
