"""A Postgres whose commits wait for a synchronous standby that answers late: the tests' proxy stands between the two.

The standby is pg_receivewal, which writes and syncs what it is sent and says so, as a standby's WAL receiver does.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.clusters import clusters_folder
from tests.support.proxy import Proxy

ONE_WAY = 0.001
"""Seconds that WAL takes to the standby, and its answer back."""
_START_SECONDS = 30.0


@contextmanager
def delayed(scratch: Path) -> Iterator[Settings]:
    """A fresh database with an empty ledger `main`, on such a server. scratch: where the standby writes."""
    with ExitStack() as stack:
        primary = stack.enter_context(clusters_folder()).new("primary")
        settings = Settings(database_url=primary.create())
        migrate(settings)
        proxy = stack.enter_context(Proxy.to(primary.url()))
        received = scratch / "received"
        received.mkdir()
        receiver = subprocess.Popen(
            [
                primary.tools / "pg_receivewal",
                *("--dbname", proxy.url(primary.url("")), "--directory", received, "--synchronous", "--no-loop"),
            ]
        )
        stack.callback(receiver.wait)
        stack.callback(receiver.kill)
        with psycopg.connect(primary.url(), autocommit=True) as admin:
            _wait(admin, "select from pg_stat_replication")
            admin.execute("alter system set synchronous_standby_names = '*'")
            admin.execute("select pg_reload_conf()")
            _wait(admin, "select from pg_stat_replication where sync_state = 'sync'")
        proxy.delay(ONE_WAY, ONE_WAY)
        yield settings


def _wait(admin: psycopg.Connection, holds: str) -> None:
    """Until the query has a row."""
    end = time.monotonic() + _START_SECONDS
    while not admin.execute(holds.encode()).fetchall():
        if time.monotonic() > end:
            raise TimeoutError(f"the standby did not come: {holds}")
        time.sleep(0.02)
