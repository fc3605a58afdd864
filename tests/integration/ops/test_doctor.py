"""doctor reports each fault, made on a real server, with advice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger import Ledger, create_redis_connection
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.testing import other_database
from tests.support.cli import Cli, cli_of
from tests.support.helpers import OwnServers, event, events


def checks(cli: Cli, code: int = 0) -> dict[str, Any]:
    """By name, the worst of each."""
    ran = cli("doctor", "--json")
    assert ran.code == code, ran
    assert ran.json["ok"] == (code == 0)
    order = ("ok", "unknown", "warning", "danger")
    found = sorted(ran.json["checks"], key=lambda check: order.index(check["level"]))
    assert all(check["advice"] for check in found if check["level"] in ("warning", "danger"))
    return {check["name"]: check for check in found}


def level(cli: Cli, name: str, code: int = 0) -> str:
    return str(checks(cli, code)[name]["level"])


@pytest.fixture
def own_cli(own_servers: OwnServers) -> Iterator[Cli]:
    migrate(Settings(database_url=own_servers.database_url))
    yield Cli("--database-url", own_servers.database_url, "--redis-url", own_servers.redis_url)


def test_all_is_well(own_cli: Cli, own_servers: OwnServers) -> None:
    with Ledger.open(database_url=own_servers.database_url) as ledger:
        ledger.append_many(events(3))
    own_cli.well("run", "--once")
    own_cli.well("verify")
    found = checks(own_cli)
    assert {check["level"] for check in found.values()} == {"ok"}
    names = {"postgres", "fsync", "full_page_writes", "synchronous_commit", "clock", "schema", "redis", "appendonly"}
    assert names | {"maxmemory-policy", "protections", "main: tail", "main: stream", "main: verified"} <= set(found)
    assert {f"main: projection {name}" for name in ("timeline", "resource_state")} <= set(found)
    assert f"All {len(found)} checks passed" in own_cli.well("doctor").out


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_setting_that_endangers_durability(own_cli: Cli, own_servers: OwnServers, setting: str) -> None:
    with psycopg.connect(own_servers.database_url, autocommit=True) as admin:
        admin.execute(f"alter system set {setting} = off")
        admin.execute("select pg_reload_conf()")
        found = checks(own_cli, 1)
        assert (found[setting]["level"], found[setting]["found"]) == ("danger", "off")
        assert f"alter system set {setting} = on" in found[setting]["advice"]
        admin.execute(f"alter system set {setting} = on")
        admin.execute("select pg_reload_conf()")
        assert level(own_cli, setting) == "ok"


def test_a_setting_of_the_role_that_appends(ledger: Ledger, admin: psycopg.Connection) -> None:
    [(name,)] = admin.execute("select current_database()").fetchall()
    admin.execute("create role careless")
    try:
        admin.execute(f'alter role careless in database "{name}" set synchronous_commit to off')
        found = checks(cli_of(ledger, redis=False), 1)["synchronous_commit"]
    finally:
        admin.execute("drop role careless")
    assert found["found"] == f"off for role careless in database {name}"
    assert f"alter role careless in database {name} reset synchronous_commit" in found["advice"]
    assert level(cli_of(ledger, redis=False), "synchronous_commit") == "ok"


def test_redis_that_forgets(own_cli: Cli, own_servers: OwnServers) -> None:
    with create_redis_connection(own_servers.redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        assert level(own_cli, "maxmemory-policy", 1) == "danger"
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("appendonly", "no")
        found = checks(own_cli, 1)
        assert (found["maxmemory-policy"]["level"], found["appendonly"]["level"]) == ("ok", "danger")
        redis.config_set("appendonly", "yes")
    assert level(own_cli, "appendonly") == "ok"


def test_protections_that_are_off(ledger: Ledger, admin: psycopg.Connection) -> None:
    cli = cli_of(ledger, redis=False)
    assert level(cli, "protections") == "ok"
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    assert "append_only" in checks(cli, 1)["protections"]["found"]
    ran = cli("doctor")
    assert ran.code == 1 and "DANGER" in ran.out and "-> find out who changed it" in ran.out


@pytest.mark.parametrize(("seconds", "wanted"), [(0.5, "ok"), (-3, "warning"), (3, "warning"), (60, "danger")])
def test_clocks_that_differ(ledger: Ledger, admin: psycopg.Connection, seconds: float, wanted: str) -> None:
    """To this database's statements its clock is off."""
    [(name,)] = admin.execute("select current_database()").fetchall()
    admin.execute("create schema off")
    admin.execute(
        "create function off.clock_timestamp() returns timestamptz language sql volatile as"
        f" $$ select pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$"
    )
    admin.execute(f'alter database "{name}" set search_path = off, pg_catalog')
    found = checks(cli_of(ledger, redis=False), 1)["clock"]  # such a search_path is a danger of its own
    assert found["level"] == wanted
    said = re.match(r"this host is ([0-9.]+) s (behind|ahead of) the database", found["found"])
    assert said is not None and abs(float(said[1]) - abs(seconds)) < 0.3
    assert said[2] == ("behind" if seconds > 0 else "ahead of")


def test_lag_and_a_stream_that_diverged(own_cli: Cli, own_servers: OwnServers) -> None:
    cli = own_cli
    with Ledger.open(database_url=own_servers.database_url) as ledger:
        ledger.append_many(events(2))
        cli.well("run", "timeline", "--once")
        ledger.append(event(2))
    found = checks(cli)
    assert found["main: stream"]["level"] == found["main: projection timeline"]["level"] == "ok"
    with psycopg.connect(own_servers.database_url, autocommit=True) as admin:
        admin.execute("alter table ledger.audit_logs disable trigger append_only")
        admin.execute(
            "update ledger.audit_logs set recorded_at = recorded_at - interval '2 minutes' where position = 3"
        )
        admin.execute("alter table ledger.audit_logs enable always trigger append_only")
    found = checks(cli, 1)  # with that the entry does not hold any more
    assert found["main: entries"]["level"] == "danger"
    assert found["main: stream"]["level"] == found["main: projection timeline"]["level"] == "warning"
    assert found["main: stream"]["found"].startswith("1 behind, for 12")
    with create_redis_connection(own_servers.redis_url) as redis:
        redis.xadd("ledger:{main}:entries", {"envelope": "{}", "body": "", "hash": "00" * 32}, id="1-9")
    assert level(cli, "main: stream", 1) == "danger"


def test_a_verification_with_findings(ledger: Ledger, admin: psycopg.Connection) -> None:
    cli = cli_of(ledger, redis=False)
    ledger.append(event(0))
    assert level(cli, "main: verified") == "warning"
    cli.well("verify")
    assert level(cli, "main: verified") == "ok"
    # The trigger sets the time.
    admin.execute(
        "alter table ledger.verifications disable trigger place;"
        "update ledger.verifications set verified_at = verified_at - interval '8 days';"
        "alter table ledger.verifications enable always trigger place"
    )
    assert level(cli, "main: verified") == "warning"
    admin.execute("update ledger.verifications set findings = 2")
    assert level(cli, "main: verified", 1) == "danger"


def test_what_a_user_may_not_see_is_unknown(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(event(0))
    info = psycopg.conninfo.conninfo_to_dict(ledger.settings.database_url or "")
    admin.execute("create role peep login password 'peep'")
    try:
        admin.execute("select ledger.grant_role('ledger_writer', 'peep', null)")
        found = checks(Cli("--database-url", f"postgresql://peep:peep@{info['host']}:{info['port']}/{info['dbname']}"))
    finally:
        admin.execute("drop owned by peep")
        admin.execute("drop role peep")
    assert {"projections", "verified"} <= {name for name, check in found.items() if check["level"] == "unknown"}
    assert found["main: tail"]["level"] == found["fsync"]["level"] == "ok" and "main: verified" not in found


def test_a_held_tail(ledger: Ledger) -> None:
    cli = cli_of(ledger, redis=False)
    ledger.append(event(0))
    with psycopg.connect(ledger.settings.database_url or "") as holder:
        pid = holder.info.backend_pid
        holder.execute("update ledger.tails set fence = fence + 1")
        holder.execute("select pg_sleep(1.1)")
        found = checks(cli)["main: tail"]
    assert (found["level"], found["found"]) == ("warning", f"held by pid {pid}: appends wait")
    assert f"pg_terminate_backend({pid})" in found["advice"]


def test_a_schema_that_is_not_there(ledger: Ledger) -> None:
    url = other_database(ledger.settings.database_url or "", "postgres")
    found = checks(Cli("--database-url", url), 1)
    assert found["schema"]["level"] == "danger" and "auditledger migrate" in found["schema"]["found"]


def test_servers_that_are_away(own_cli: Cli, own_servers: OwnServers) -> None:
    own_servers.kill_postgres()
    assert {"redis", "appendonly"} <= set(checks(own_cli, 3))
    ran = own_cli("doctor")
    assert ran.code == 3 and "Postgres is unreachable" in ran.out and "checks passed" not in ran.out
    own_servers.kill_redis()
    assert checks(own_cli, 3) == {}
    own_servers.start()
    own_servers.kill_redis()
    found = checks(own_cli, 3)
    assert "fsync" in found and "redis" not in found
