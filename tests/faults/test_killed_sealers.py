"""kill -9 of applications that record, of three sealers and of Postgres: each committed event is sealed once, in order.

Every recorder counts in rows, and records each number in the transaction that counted. So a row's entries are its
numbers from 1 to the last that was committed, in this order: nothing lost, doubled, misordered, or of a rollback.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.settings import Settings
from tests.support.crashes import Parts, kill_a_backend, wait_until_up
from tests.support.helpers import OwnServers, checked
from tests.support.parts import COUNTERS

SECONDS = float(os.environ.get("SECONDS_OF_KILLS", "6"))
"""SECONDS_OF_KILLS=600 for ten minutes."""


@pytest.fixture
def parts(settings: Settings, tmp_path: Path) -> Iterator[Parts]:
    with psycopg.connect(settings.database_url or "", autocommit=True) as admin:
        admin.execute("create table counters (counter int primary key, number int not null)")
        admin.execute("insert into counters select counter, 0 from generate_series(0, %s) as counter", (COUNTERS - 1,))
    commands = {f"recorder {n}": ["record"] for n in range(2)} | {f"sealer {n}": ["seal"] for n in range(3)}
    running = Parts(settings, tmp_path, commands=commands)
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_every_committed_event_is_sealed_once_in_order(
    settings: Settings, parts: Parts, own_servers: OwnServers
) -> None:
    chance = random.Random(5)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.expovariate(1 / 0.1))
        if chance.random() < 0.3:
            kill_a_backend(own_servers.home, chance)
            wait_until_up(settings)
        else:
            name = chance.choice(list(parts.commands))
            parts.kill(name)
            parts.start(name)
    _wait_until_all_count(settings)
    parts.stop()
    with closing(Connector(settings)) as connector:
        sealer = Sealer(connector)
        sealer.seal()
        assert not sealer.stopped
    with psycopg.connect(settings.database_url or "") as admin, Ledger(settings) as ledger:
        counted: dict[str, int] = dict(admin.execute("select counter::text, number from counters").fetchall())
        assert admin.execute("select count(*) from ledger.outbox").fetchall() == [(0,)]
        assert admin.execute("select count(*) from ledger.rejected").fetchall() == [(0,)]
        sealed: dict[str, list[int]] = {counter: [] for counter in counted}
        for entry in checked(ledger):
            sealed[entry.resource_id or ""] += entry.after
        report = ledger.verify()
        assert report.ok, report.findings
    assert sealed == {counter: list(range(1, number + 1)) for counter, number in counted.items()}
    assert all(counted.values())


def _wait_until_all_count(settings: Settings) -> None:
    deadline = time.monotonic() + 60
    with psycopg.connect(settings.database_url or "", autocommit=True) as admin:
        while admin.execute("select from counters where number = 0").rowcount:
            assert time.monotonic() < deadline, "the recorders do not come to count"
            time.sleep(0.05)
