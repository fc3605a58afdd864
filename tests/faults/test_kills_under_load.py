"""Postgres killed again and again at random moments, while several append and others read: nothing shown is lost.

A kill of one backend has Postgres end all and recover, without what it had not written. Its own writer of WAL, which
would do that five times a second, is made to do it every ten seconds, and a flush takes 20 ms, as on a slow disk: what
was committed and not flushed is lost.
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

from ledger.settings import Settings
from tests.support.crashes import Parts, check_everything, kill_a_backend, wait_until_promised, wait_until_up
from tests.support.helpers import OwnServers

KILLS = int(os.environ.get("KILLS", "25"))
"""KILLS=3000 for a night's run."""
READERS = ("read", "follow")


@pytest.fixture
def parts(settings: Settings, tmp_path: Path) -> Iterator[Parts]:
    notes = tmp_path / "notes"
    notes.mkdir()
    with closing(psycopg.connect(settings.database_url or "", autocommit=True)) as admin:
        admin.execute("alter system set wal_writer_delay = '10s'")
        admin.execute("alter system set commit_delay = 20000")  # microseconds
        admin.execute("alter system set commit_siblings = 0")
        admin.execute("select pg_reload_conf()")
    running = Parts(settings, notes, READERS)
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.timeout(120 + KILLS)
def test_nothing_that_was_shown_is_lost(settings: Settings, parts: Parts, own_servers: OwnServers) -> None:
    chance = random.Random(11)
    wait_until_promised(parts, 10)
    for number in range(KILLS):
        time.sleep(chance.expovariate(1 / 0.03))
        kill_a_backend(own_servers.home, chance)
        wait_until_up(settings)
        if number % 10 == 0:
            wait_until_promised(parts, 1)
    wait_until_promised(parts, 5)
    parts.stop()
    recorded = {(entry.position, entry.hash.hex()) for entry in check_everything(settings, parts)}
    for reader in READERS:
        shown = (parts.notes / reader).read_text().splitlines(keepends=True)
        seen = {(int(position), hash_) for position, hash_ in map(str.split, shown[:-1])} - {(0, "00" * 32)}
        assert seen, f"{reader} was shown nothing"
        assert not seen - recorded, f"{reader} was shown what is not there"
