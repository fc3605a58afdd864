"""A database that is set back to a copy of itself."""

from __future__ import annotations

import time

import psycopg

from ledger import Ledger, testing


class Backup:
    """A copy of the ledger's database, to be put back in its place."""

    def __init__(self, ledger: Ledger, servers: testing.TestServers, name: str = "backup") -> None:
        self.live = (ledger.settings.database_url or "").rpartition("/")[2]
        self.copy = f"{self.live}_{name}"
        self.admin = psycopg.connect(servers.database_url, autocommit=True)
        self._alone()
        self.admin.execute(f"create database {self.copy} template {self.live}".encode())

    def restore(self) -> None:
        self.admin.execute(f"drop database {self.live} with (force)".encode())
        self.admin.execute(f"alter database {self.copy} rename to {self.live}".encode())

    def _alone(self) -> None:
        """Nobody may be connected to a database that is copied."""
        self.admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (self.live,))
        deadline = time.monotonic() + 20
        while self.admin.execute("select from pg_stat_activity where datname = %s", (self.live,)).rowcount:
            assert time.monotonic() < deadline
            time.sleep(0.02)
