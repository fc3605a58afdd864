"""relay, project, run, replay and status."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Ledger, create_redis_connection
from ledger.projection.base import view_positions
from tests.support.cli import Cli, cli_of, ended, process
from tests.support.helpers import events
from tests.support.projections import FAILING

VIEWS = ["actor_activity", "resource_history", "resource_state", "timeline"]


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger)


def status(cli: Cli, ledger: str = "main") -> Any:
    return next(each for each in cli.well("status", "--json").json["ledgers"] if each["ledger"] == ledger)


def stream_length(ledger: Ledger, name: str = "main") -> int:
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        return int(redis.xlen(f"ledger:{{{name}}}:entries"))


def test_once(cli: Cli, ledger: Ledger) -> None:
    ledger.append_many(events(1200))
    assert cli.well("relay", "--once", "--json").json == {"published": 1200}
    assert cli.well("relay", "--once").out == "Published 0 entries\n"
    assert stream_length(ledger) == 1200
    assert cli.well("project", "timeline", "--once", "--json").json == {"projected": 1200}
    assert [view["name"] for view in status(cli)["projections"]] == ["timeline"]
    ledger.append_many(events(3))
    assert cli.well("run", "--once", "--json").json == {"sealed": 0, "published": 3, "projected": 1203}
    found = status(cli)
    assert [(view["name"], view["position"], view["lag"]) for view in found["projections"]] == [
        (name, 1203, 0) for name in VIEWS
    ]
    assert (found["position"], found["stream"]["position"], found["stream"]["lag"]) == (1203, 1203, 0)


def test_all_ledgers_are_served_unless_one_is_named(cli: Cli, ledger: Ledger) -> None:
    for name in ("second", "third"):
        cli.well("create", name)
        cli.well("append", "--actor", "a", "--action", "b", "--ledger", name)
    cli.well("run", "--once", "--ledger", "second")
    assert [stream_length(ledger, name) for name in ("second", "third")] == [1, 0]
    assert (status(cli, "third")["stream"]["epoch"], status(cli, "third")["stream"]["lag"]) == (0, 1)
    cli.well("run", "--once")
    assert [stream_length(ledger, name) for name in ("second", "third")] == [1, 1]
    assert cli("relay", "--once", "--ledger", "none").code == 2
    assert "name the ledger" in cli("relay", "--once", "--new-epoch").error


def test_without_redis(ledger: Ledger) -> None:
    ledger.append_many(events(5))
    alone = cli_of(ledger, redis=False)
    for command in ("relay", "run"):
        ran = alone(command, "--once")
        assert ran.code == 2 and "needs Redis" in ran.error
    assert alone.well("project", "--once", "--json").json == {"projected": 5}
    found = alone.well("status", "--json").json
    assert (found["redis"], found["ledgers"][0]["stream"]) == ("not set", None)
    assert "Redis is not set" in alone.well("status").out


def test_status_is_honest_when_redis_is_away(ledger: Ledger) -> None:
    url = ledger.settings.database_url or ""
    cli = Cli("--database-url", url, "--redis-url", "redis://:s3cret@127.0.0.1:1/0")
    ran = cli("status", "--json")
    assert ran.code == 3 and ran.json["redis"].startswith("Redis cannot be reached")
    assert ran.json["ledgers"][0]["stream"] is None
    ran = cli("status")
    assert ran.code == 3 and "Redis is unreachable" in ran.out and "s3cret" not in ran.out
    for command in ("relay", "run"):
        ran = cli(command, "--once")
        assert ran.code == 3 and "Redis cannot be reached" in ran.error
    assert cli.well("project", "--once", "--json").json == {"projected": 0}


def test_status_shows_lag_and_the_last_verification(cli: Cli, ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(2))
    cli.well("run", "--once")
    cli.well("verify")
    ledger.append_many(events(3))
    time.sleep(0.1)
    found = status(cli)
    assert found["verified"]["ok"] and found["verified"]["last"] == 2
    assert {view["lag"] for view in found["projections"]} == {found["stream"]["lag"]} == {3}
    assert all(0.1 <= view["lag_seconds"] < 60 for view in found["projections"])
    text = cli.well("status").out
    assert "Ledger main: position 5" in text and "3 behind" in text and "OK, 1 to 2; 3 entries since" in text


def test_sigterm_ends_run_soon_and_well(cli: Cli, ledger: Ledger) -> None:
    ledger.append_many(events(50))
    with process(*cli.urls, "run") as popen:
        wait_until_built(ledger)
        ledger.wait_for(50, "timeline", timeout=30)
        ledger.append_many(events(50))
        ledger.wait_for(100, "timeline", timeout=30)
        began = time.monotonic()
        popen.send_signal(signal.SIGTERM)
        ran = ended(popen)
        assert time.monotonic() - began < 2.5
    assert (ran.code, ran.out) == (0, "")
    lines = ran.err.splitlines()
    assert "Sealing, relaying, projecting all ledgers" in lines[0] and lines[-1].endswith("Stopped")
    assert stream_length(ledger) == 100
    assert {view["lag"] for view in status(cli)["projections"]} == {0}


def wait_until_built(ledger: Ledger) -> None:
    end = time.monotonic() + 30
    while ledger.ref.ledger_id not in ledger.run(view_positions("timeline")):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_projection_of_ones_own(
    cli: Cli, ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_views.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    ledger.append_many(events(4))
    assert cli.well("project", "own_views:Counting", "timeline", "--once", "--json").json == {"projected": 4}
    assert admin.execute("select count(*) from ledger_views.counting").fetchone() == (4,)
    assert cli.well("replay", "own_views:Counting", "--json").json == {"projection": "counting", "entries": 4}
    cli.well("append", "--actor", "a", "--action", "bad.action")
    ran = cli("project", "own_views:Counting", "timeline", "--once")
    assert ran.code == 70
    assert ran.err.splitlines()[-1].startswith("error: projection 'counting' failed at entry 5 of ledger 'main'")
    lag = {view["name"]: view["lag"] for view in status(cli)["projections"]}
    assert lag == {"counting": 1, "timeline": 0}
    for name in ("own_views:None", "nowhere:Counting", "json:dumps", "nonsense", ":"):
        ran = cli("project", name, "--once")
        assert ran.code == 2 and ran.error


def test_replay(cli: Cli, ledger: Ledger) -> None:
    ledger.append_many(events(7))
    cli.well("project", "--once")
    assert [each["entries"] for each in cli.well("replay", "--all", "--json").jsons] == [7] * 4
    assert cli.well("replay", "timeline").out == "Rebuilt timeline from 7 entries\n"
    assert len(cli.well("query", "--json").jsons) == 7
