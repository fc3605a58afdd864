"""The workers' metrics, spans and structured logs; and their stop on a signal."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledger import Ledger
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.cli import Cli, cli_of, run
from tests.support.helpers import OwnServers, checked, event, events, eventually
from tests.support.processes import pid_of, stopped
from tests.support.projections import FAILING
from tests.support.worker import WITHIN, worker

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def own_cli(own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("LEDGER_CONNECT_TIMEOUT", "2")
    migrate(Settings(database_url=own_servers.database_url))
    return Cli("--database-url", own_servers.database_url, "--redis-url", own_servers.redis_url)


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=20) as reply:  # noqa: S310 - our own server
        text = reply.read().decode()
    return {
        (sample.name.removeprefix("auditledger_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until(url: str, key: tuple[str, tuple[str, ...]], value: float) -> Samples:
    end = time.monotonic() + WITHIN
    while (found := scrape(url)).get(key) != value:
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def failures(found: Samples) -> float:
    return sum(value for (name, _), value in found.items() if name == "failures_total")


# ------------------------------------------------------------------------------------------------------------ metrics


def test_metrics_tell_the_truth_also_while_servers_are_away(own_cli: Cli, own_servers: OwnServers) -> None:
    with Ledger.open(database_url=own_servers.database_url) as ledger:
        ledger.append_many(events(7))
    with worker(own_cli, "run", "timeline", "resource_state", "--metrics-port", "0") as running:
        url = running.said(r"Metrics at (http://127\.0\.0\.1:\d+/metrics)")[1]
        found = until(url, ("projection_position", ("main", "timeline")), 7)
        found = until(url, ("projection_lag_entries", ("main", "resource_state")), 0)
        assert found["up", ("postgres",)] == found["up", ("redis",)] == 1
        assert found["tail_position", ("main",)] == found["stream_position", ("main",)] == 7
        assert found["stream_lag_entries", ("main",)] == found["stream_lag_seconds", ("main",)] == 0
        assert found["published_entries_total", ("main",)] == 7
        assert found["projected_entries_total", ("main", "timeline")] == 7
        assert found["stream_diverged", ("main",)] == found["unprotected", ()] == 0
        assert failures(found) == 0, running.lines

        own_servers.kill_redis()
        found = until(url, ("up", ("redis",)), 0)
        assert found["tail_position", ("main",)] == 7 and ("stream_position", ("main",)) not in found
        own_servers.kill_postgres()
        until(url, ("up", ("postgres",)), 0)  # it may have died in the middle of this look, which tells what it saw
        eventually(lambda: not any(name.startswith(("tail_", "stream_", "projection_")) for name, _ in scrape(url)))
        found = scrape(url)
        assert found["up", ("postgres",)] == 0
        assert found["published_entries_total", ("main",)] == 7
        eventually(lambda: failures(scrape(url)) >= 1)  # servers that are soon back are waited for without one
        own_servers.start()
        with Ledger.open(database_url=own_servers.database_url) as ledger:
            ledger.append_many(events(5))
        found = until(url, ("stream_position", ("main",)), 12)
        found = until(url, ("projected_entries_total", ("main", "timeline")), 12)
        assert failures(found) >= 1
        assert running.stop()[0] == 0


def test_a_metrics_port_that_cannot_be_had(ledger: Ledger) -> None:
    cli = cli_of(ledger)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = cli("project", "--once", "--metrics-port", str(port))
    assert ran.code == 2 and f"metrics cannot be served at 127.0.0.1:{port}" in ran.err
    for wrong in ("x", "65536", "host:", ":1", "::1:5"):
        assert cli("project", "--once", "--metrics-port", wrong).code == 2
    assert cli("project", "--once", "--metrics-port", "localhost:0").code == 0


# -------------------------------------------------------------------------------------------------------------- spans

SPANS = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ledger.cli import main
kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
assert main(sys.argv[1:]) == 0
print(json.dumps([[span.name, dict(span.attributes)] for span in kept.get_finished_spans()]))
"""
WITHOUT = """
import sys
sys.modules["opentelemetry"] = sys.modules["prometheus_client"] = None
from ledger.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_span_for_each_batch(ledger: Ledger) -> None:
    ledger.append_many(events(600))
    cli = cli_of(ledger)
    ran = python(SPANS, *cli.urls, "run", "timeline", "--once")
    assert ran.returncode == 0, ran.stderr
    spans = [(name, attributes) for name, attributes in json.loads(ran.stdout.splitlines()[-1])]
    published = [attributes for name, attributes in spans if name == "ledger.publish"]
    assert [each["ledger.last"] for each in published] == [500, 600]
    assert [each["ledger.entries"] for each in published] == [500, 100]
    projected = [attributes for name, attributes in spans if name == "ledger.project"]
    assert sum(each["ledger.entries"] for each in projected) == 600 and projected[-1]["ledger.last"] == 600
    assert {each["ledger.name"] for each in published + projected} == {"main"}


def test_a_span_for_each_commit_of_appends(ledger: Ledger) -> None:
    cli = cli_of(ledger)
    ran = python(SPANS, *cli.urls, "append", "--actor", "user:1", "--action", "invoice.sent")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [["ledger.append", {"ledger.name": "main", "ledger.callers": 1}]]


def test_without_the_extras(ledger: Ledger) -> None:
    ledger.append_many(events(3))
    cli = cli_of(ledger)
    ran = python(WITHOUT, *cli.urls, "run", "--once")
    assert (ran.returncode, ran.stdout) == (0, "Sealed 0 entries; Published 3 entries; Projected 3 entries\n"), (
        ran.stderr
    )
    ran = python(WITHOUT, *cli.urls, "run", "--once", "--metrics-port", "0")
    assert ran.returncode == 2 and "pip install 'auditledger[metrics]'" in ran.stderr


# --------------------------------------------------------------------------------------------------------------- logs


def test_structured_logs(ledger: Ledger) -> None:
    ledger.append_many(events(3))
    cli = cli_of(ledger)
    with worker(cli, "run", "--log-format", "json") as running:
        running.said("Sealing, relaying, projecting")
        assert running.stop()[0] == 0
    logged = [json.loads(line) for line in running.lines]
    assert [(each["level"], each["message"]) for each in logged][-1] == ("info", "Stopped")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each["time"]) for each in logged)
    assert {each["logger"] for each in logged} == {"ledger"}


def test_structured_errors(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing_views.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    ledger.append(event(0, action="bad.action"))
    cli = cli_of(ledger)
    ran = cli("project", "failing_views:Counting", "--once", "--log-format", "json")
    said, last = [json.loads(line) for line in ran.err.splitlines()]
    assert ran.code == 70 and (said["level"], said["projection"], said["position"]) == ("error", "counting", 1)
    assert (last["level"], last["message"].partition(" failed at ")[0]) == ("error", "projection 'counting'")
    assert all("ValueError in apply, failing_views.py:" in line["message"] for line in (said, last))
    assert "cannot count" not in ran.err
    url = ledger.settings.database_url or ""
    nowhere = ("--database-url", url, "--redis-url", "redis://:s3cret@127.0.0.1:1/0")
    ran = run(*nowhere, "relay", "--log-format", "json")
    assert ran.code == 3 and json.loads(ran.err)["message"].startswith("Redis cannot be reached")
    assert "s3cret" not in ran.err
    assert run(*nowhere, "relay").err.startswith("error: Redis cannot be reached")
    assert run("relay", "--log-format", "xml").code == 2


# --------------------------------------------------------------------------------------------------------------- stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_finishes_the_batch_in_hand(ledger: Ledger, number: int) -> None:
    ledger.append_many(events(30_000))
    cli = cli_of(ledger)
    with worker(cli, "run", "timeline", "resource_history") as running:
        running.said("Sealing, relaying, projecting")
        time.sleep(0.3)
        code, took = running.stop(number)
    assert code == 0 and took < 4, running.lines
    assert running.lines[-1].endswith("Stopped\n"), running.lines
    state = cli.well("status", "--json").json["ledgers"][0]
    assert state["stream"]["diverged"] is False
    assert 0 < state["stream"]["position"] < 30_000
    cli.well("run", "timeline", "resource_history", "--once")
    assert len(checked(ledger)) == 30_000
    assert {view["lag"] for view in cli.well("status", "--json").json["ledgers"][0]["projections"]} == {0}


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_a_stop_while_a_server_hangs(own_cli: Cli, own_servers: OwnServers, server: str) -> None:
    with Ledger.open(database_url=own_servers.database_url) as ledger:
        ledger.append_many(events(10))
    with worker(own_cli, "run", "timeline") as running:
        running.said("Sealing, relaying, projecting")
        time.sleep(1)
        backends = []
        if server == "postgres":  # the server's processes that work for us hang with it
            import psycopg

            with psycopg.connect(own_servers.database_url) as admin:
                rows = admin.execute("select pid from pg_stat_activity where application_name = 'auditledger'")
                backends = [pid for (pid,) in rows]
        with stopped(pid_of(own_servers.home, server), *backends):
            time.sleep(1)
            code, took = running.stop()
        assert code == 0 and took < 6, running.lines
        assert "given up" in running.lines[-1], running.lines
    own_cli.well("run", "timeline", "--once")


def test_a_stop_while_both_servers_are_away(own_cli: Cli, own_servers: OwnServers) -> None:
    with worker(own_cli, "run", "timeline") as running:
        running.said("Sealing, relaying, projecting")
        own_servers.kill_redis()
        own_servers.kill_postgres()
        running.said("trying again")
        code, took = running.stop()
    assert code == 0 and took < 4 and "Stopped" in running.lines[-1], running.lines
