"""kill -9 of every process under load, a lost Redis, a crashed Postgres: nothing is lost or recorded twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, Plan, Query
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream import wire
from ledger.stream.relay import Relay
from tests.support.crashes import Parts, check_everything, wait_until_promised
from tests.support.helpers import OwnServers


@pytest.fixture
def parts(settings: Settings, tmp_path: Path) -> Iterator[Parts]:
    notes = tmp_path / "notes"
    notes.mkdir()
    running = Parts(settings, notes)
    try:
        yield running
    finally:
        running.stop()


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
