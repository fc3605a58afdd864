"""The outbox in backups, and what is seen of it by the command line and the metrics."""

from __future__ import annotations

import shlex
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledger import Entry, Ledger, testing
from tests.support.backup import Backup
from tests.support.cli import Cli, cli_of
from tests.support.helpers import checked, event, eventually, numbers
from tests.support.outbox import record, sealing, waiting
from tests.support.worker import worker


@contextmanager
def backed_up(ledger: Ledger, servers: testing.TestServers) -> Iterator[None]:
    """Backs the ledger's database up, and restores it at the end."""
    backup = Backup(ledger, servers)
    with closing(backup.admin):
        yield
        backup.restore()


def test_a_restored_backup(ledger: Ledger, admin: psycopg.Connection, servers: testing.TestServers) -> None:
    """What was sealed since waits again, and is sealed anew; what was recorded since is gone."""
    with sealing(ledger.settings) as once:
        record(admin, 2)
        once.seal()
        record(admin, 3, 2)
        with backed_up(ledger, servers):
            once.seal()
            before = _read(ledger)
            with Ledger(ledger.settings) as other:
                other.record(event(5))
            once.seal()
    with sealing(ledger.settings) as once, Ledger(ledger.settings) as restored:
        assert once.seal() == 3
        after = checked(restored)
        assert [entry.id for entry in after] == [entry.id for entry in before]
        assert [entry.hash for entry in after[:2]] == [entry.hash for entry in before[:2]]
        assert after[2].hash != before[2].hash
        assert restored.verify().ok


def _read(ledger: Ledger) -> list[Entry]:
    with Ledger(ledger.settings) as other:
        return list(other.read())


@pytest.mark.parametrize("sealed_first", [True, False])
def test_salvage_and_the_outbox(
    ledger: Ledger, admin: psycopg.Connection, servers: testing.TestServers, tmp_path: Path, sealed_first: bool
) -> None:
    """What the stream has, and waits in the restored outbox too, is appended once."""
    cli = cli_of(ledger)
    record(admin, 2)
    cli.well("seal", "--once")
    with admin.transaction():
        record(admin, 3, 2)
        admin.execute(
            "select ledger.record('main', 'user:1', 'a.b', 'thing', 't', '[1, {\"b\": 2}]', '{\"number\":5}', '{}',"
            " id => gen_random_uuid(), occurred_at => '2026-11-29 12:00Z')"
        )
    with backed_up(ledger, servers):
        cli.well("seal", "--once")
        cli.well("relay", "--once")
    salvaged = cli.well("salvage", str(tmp_path / "lost"))
    cli.well("relay", "--once", "--new-epoch")
    again = [shlex.split(each, comments=True)[1:] for each in salvaged.out.splitlines()]
    steps = [["seal", "--once"], *filter(None, again), ["seal", "--once"]]
    for step in steps if sealed_first else steps[1:]:
        cli.well(*step)
    with Ledger(ledger.settings) as restored, psycopg.connect(ledger.settings.database_url or "") as connection:
        assert numbers(checked(restored)) == list(range(6))
        assert connection.execute("select from ledger.rejected").rowcount == waiting(connection) == 0
        assert restored.verify().ok


# --------------------------------------------------------------------------------------------------- what is seen of it


def test_the_command_line(ledger: Ledger, admin: psycopg.Connection) -> None:
    cli = cli_of(ledger)
    record(admin, 2)
    assert _outbox(cli)["waiting"] == 2
    assert 0 < _outbox(cli)["seconds"] < 60
    assert "outbox" in cli.well("status").out
    assert cli.well("seal", "--once", "--json").json == {"sealed": 2}
    assert "0" in cli.well("seal", "--once").out
    assert _outbox(cli) == {"waiting": 0, "seconds": 0.0, "rejected": 0}
    record(admin, 1)
    ran = cli.well("run", "--once", "--json").json
    assert (ran["sealed"], ran["published"]) == (1, 3)
    assert [check["level"] for check in _doctor(cli)] == ["ok"]

    id_ = ledger.record(event())
    ledger.record(event(1, id=id_))
    assert cli.well("seal", "--once", "--json").json == {"sealed": 2}
    assert _outbox(cli) == {"waiting": 0, "seconds": 0.0, "rejected": 1}
    assert "1 recorded event SET ASIDE, cannot be appended" in cli.well("status").out
    [told, _] = _doctor(cli)
    assert told["level"] == "danger"
    assert "select * from ledger.rejected" in told["advice"]
    admin.execute(
        "insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action)"
        " values (1, gen_random_uuid(), false, now() - interval '1 hour', 'user:1', 'user', 'a.b')"
    )
    assert "1 events wait to be sealed, for 36" in _doctor(cli)[1]["found"]
    assert _doctor(cli)[1]["level"] == "warning"


def test_metrics(ledger: Ledger, admin: psycopg.Connection) -> None:
    id_ = ledger.record(event())
    ledger.record(event(1, id=id_))
    with worker(cli_of(ledger), "seal", "--metrics-port", "0") as sealing_:
        url = sealing_.said(r"Metrics at (http://127\.0\.0\.1:\d+/metrics)")[1]
        wanted = {"outbox_waiting": 0, "outbox_seconds": 0, "outbox_rejected": 1, "sealed_events_total": 1}
        eventually(lambda: wanted.items() <= _scraped(url).items())
        assert sealing_.stop()[0] == 0


def _outbox(cli: Cli) -> dict[str, float]:
    [outbox] = [each["outbox"] for each in cli.well("status", "--json").json["ledgers"]]
    assert isinstance(outbox, dict)
    return outbox


def _doctor(cli: Cli) -> list[dict[str, str]]:
    return [check for check in cli("doctor", "--json").json["checks"] if check["name"] == "main: outbox"]


def _scraped(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=20) as reply:  # noqa: S310 - our own server
        families = list(text_string_to_metric_families(reply.read().decode()))
    return {each.name.removeprefix("auditledger_"): each.value for family in families for each in family.samples}
