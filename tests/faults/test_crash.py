"""kill -9 of every process under load, a lost Redis, a crashed Postgres: nothing is lost or recorded twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from ledger import Entry, Ledger, Plan, Query
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.migrate.migrate import migrate
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream import wire
from ledger.stream.relay import Relay
from tests.support.helpers import OwnServers, checked
from tests.support.outcome import check_stream

ROOT = Path(__file__).parents[2]
VIEWS = ("timeline", "resource_state", "resource_history", "actor_activity")


class Parts:
    """Appenders, a relay and a projector as processes; whoever dies by our hand is started again."""

    def __init__(self, settings: Settings, notes: Path, readers: Sequence[str] = ()) -> None:
        self._environment = os.environ | {
            "LEDGER_DATABASE_URL": str(settings.database_url),
            "LEDGER_REDIS_URL": str(settings.redis_url),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}",
        }
        self.notes = notes
        self.commands = {
            "a": ["append", "a", str(notes / "a")],
            "b": ["append", "b", str(notes / "b")],
            "relay": ["relay"],
            "project": ["project"],
            **{name: [name, str(notes / name)] for name in readers},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        with (self.notes / f"{name}.stderr").open("ab") as stderr:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.support.parts", *self.commands[name]],
                cwd=ROOT,
                env=self._environment,
                stderr=stderr,
            )

    def kill(self, name: str) -> None:
        process = self.processes[name]
        assert process.poll() is None, f"{name} ended by itself: {(self.notes / f'{name}.stderr').read_text()}"
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def promised(self) -> dict[str, list[list[str]]]:
        """What each appender was handed out: number, position, hash. A torn last line was not yet noted."""
        return {
            part: [
                line.split() for line in (self.notes / part).read_text().splitlines(keepends=True) if line[-1] == "\n"
            ]
            for part in ("a", "b")
        }


@pytest.fixture
def parts(settings: Settings, tmp_path: Path) -> Iterator[Parts]:
    notes = tmp_path / "notes"
    notes.mkdir()
    running = Parts(settings, notes)
    try:
        yield running
    finally:
        running.stop()


def wait_until_promised(parts: Parts, more: int) -> None:
    """Until both appenders have been handed out `more` receipts: work goes on after what was done to it."""
    before = {part: len(notes) for part, notes in _promised(parts).items()}
    end = time.monotonic() + 60
    while any(len(notes) < before[part] + more for part, notes in _promised(parts).items()):
        for name, process in parts.processes.items():
            assert process.poll() is None, f"{name} ended: {(parts.notes / f'{name}.stderr').read_text()}"
        assert time.monotonic() < end, "the appenders stand still"
        time.sleep(0.05)


def _promised(parts: Parts) -> dict[str, list[list[str]]]:
    for part in ("a", "b"):
        (parts.notes / part).touch()
    return parts.promised()


def check_everything(settings: Settings, parts: Parts) -> list[Entry]:
    """The whole-ledger check: chain, receipts, stream, views."""
    with Ledger.open(database_url=settings.database_url, redis_url=settings.redis_url) as ledger:
        report = ledger.verify()
        assert report.ok, report.findings
        entries = checked(ledger)
        by_position = {entry.position: entry for entry in entries}
        assert len({entry.id for entry in entries}) == len(entries), "something was recorded twice"
        for part, notes in parts.promised().items():
            assert [int(number) for number, _, _ in notes] == list(range(len(notes)))
            for _, position, hash_hex in notes:
                assert by_position[int(position)].hash.hex() == hash_hex, f"a false receipt of {part}"
        servers = Connector(settings)
        Relay(servers).publish()
        check_stream(settings, entries)
        projector = Projector(servers, find_projections())
        projector.install()
        projector.catch_up()
        assert not projector.failed
        projector.close()
        check_views(ledger, settings)
        servers.close()
    return entries


def check_views(ledger: Ledger, settings: Settings) -> None:
    """Every view as it is equals a fresh replay of itself."""
    live = {view: ledger.run(_rows(view)) for view in VIEWS}
    assert all(live.values())
    for projection in find_projections():
        rebuild(settings, projection)
    for view, rows in live.items():
        assert ledger.run(_rows(view)) == rows, f"{view} differs from its replay"


def _rows(view: str):  # type: ignore[no-untyped-def]
    rows = yield Query(f"select {view}::text from ledger_views.{view} order by 1")
    return rows


def test_killing_every_part_again_and_again(settings: Settings, parts: Parts) -> None:
    chance = random.Random(7)
    wait_until_promised(parts, 10)
    for _ in range(12):
        name = chance.choice(list(parts.commands))
        time.sleep(chance.uniform(0.05, 0.4))
        parts.kill(name)
        parts.start(name)
    wait_until_promised(parts, 10)
    parts.stop()
    assert len(check_everything(settings, parts)) >= 40


def test_losing_everything_in_redis(settings: Settings, parts: Parts) -> None:
    for _ in range(3):
        wait_until_promised(parts, 10)
        with create_redis_connection(str(settings.redis_url)) as client:
            client.flushall()
    wait_until_promised(parts, 10)
    parts.stop()
    check_everything(settings, parts)


def test_crashes_of_both_servers(settings: Settings, parts: Parts, own_servers: OwnServers) -> None:
    for crash in (own_servers.kill_postgres, own_servers.kill_redis, own_servers.restart):
        wait_until_promised(parts, 10)
        crash()
        own_servers.start()
    wait_until_promised(parts, 10)
    parts.stop()
    check_everything(settings, parts)


def test_a_relay_and_a_projector_beside_a_backup_of_the_database(
    settings: Settings, own_servers: OwnServers, tmp_path: Path
) -> None:
    """A stream that is ahead of its database is never continued, and says what to do."""
    from ledger.errors import StreamDiverged
    from ledger.stream.relay import open_epoch

    with Ledger.open(database_url=settings.database_url, redis_url=settings.redis_url) as ledger:
        servers = Connector(settings)
        ledger.append_many(_said(range(5)))
        Relay(servers).publish()
        projector = Projector(servers, find_projections(["timeline"]))
        projector.install()
        projector.catch_up()
        # What a restored backup looks like: the same ledger with another entry 4 and no entry 5.
        with psycopg.connect(str(settings.database_url), autocommit=True) as admin:
            admin.execute("alter table ledger.audit_logs disable trigger all")
            admin.execute("alter table ledger.tails disable trigger all")
            admin.execute("delete from ledger.audit_logs where position > 3")
            admin.execute(
                "update ledger.tails set (position, hash, recorded_at) ="
                " (select position, hash, recorded_at from ledger.audit_logs where position = 3)"
            )
            admin.execute("alter table ledger.audit_logs enable always trigger append_only")
            admin.execute("alter table ledger.audit_logs enable always trigger move_tail")
            admin.execute("alter table ledger.audit_logs enable always trigger granted_ledger")
            admin.execute("alter table ledger.audit_logs enable always trigger only_bodies")
            admin.execute("alter table ledger.audit_logs enable always trigger own_actions")
            admin.execute("alter table ledger.tails enable always trigger append_only")
            admin.execute("alter table ledger.tails enable always trigger moved_by_entries")
        with pytest.raises(StreamDiverged, match="--new-epoch"):
            Relay(servers).publish()
        with pytest.raises(StreamDiverged, match="auditledger replay"):
            projector.catch_up()
        for projection in find_projections(["timeline"]):
            assert rebuild(settings, projection) == 3
        assert [row for (row,) in ledger.run(_positions())] == [1, 2, 3]
        ledger.append_many(_said(range(10, 14)))
        with pytest.raises(StreamDiverged, match="not the ledger's"):
            Relay(servers).publish()
        with pytest.raises(StreamDiverged):
            list(ledger.follow(after=9, idle=0))
        servers.run(open_epoch(ledger.ref))
        Relay(servers).publish()
        Relay(servers).trim()
        with create_redis_connection(str(settings.redis_url)) as client:
            ids = [id_.decode() for id_, _ in client.xrange(wire.key("main"))]
        assert ids == [f"2-{position}" for position in range(1, 8)]
        assert [entry.position for entry in ledger.follow(after=0, idle=0.2)] == list(range(1, 8))
        projector.close()
        servers.close()


def _positions() -> Plan[list[tuple[int]]]:
    rows: list[tuple[int]] = yield Query("select position from ledger_views.timeline order by position")
    return rows


def _said(numbers: range):  # type: ignore[no-untyped-def]
    from tests.support.parts import said

    return [said("x", number) for number in numbers]


@pytest.fixture
def settings(own_servers: OwnServers) -> Settings:
    settings = Settings(database_url=own_servers.database_url, redis_url=own_servers.redis_url)
    migrate(settings)
    return settings
