"""Postgres servers of a test's own that can be backed up, followed, promoted and killed, and the tools for that.

From the wheel of the extra `embedded`, else Debian's. As root, servers and whatever touches their files run as the
account that embedded servers have; the tools are called by their plain names, as an operator calls them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.embedded.host import Account, account_for
from ledger.embedded.servers import Postgres
from ledger.errors import InvalidSetting

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
NEEDED = ("initdb", "pg_ctl", "pg_basebackup", "pg_dump", "pg_dumpall", "pg_restore", "psql")
SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '16MB'
max_wal_size = '128MB'
min_wal_size = '32MB'
max_prepared_transactions = 5
wal_level = replica
wal_keep_size = '64MB'
"""


class Clusters:
    """A folder of clusters, all of them copies of one that was made once."""

    def __init__(self, folder: Path, tools: Path | None = None) -> None:
        self.folder = folder
        self.account = account_for(folder, folder)
        self.tools = tools or _tools(self.account)
        self.made: list[Cluster] = []
        if self.account is not None:
            os.chown(folder, self.account.uid, self.account.gid)
        (folder / "password").write_text("secret")
        (folder / "password").chmod(0o644)
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--wal-segsize=1"]
        self.run("initdb", f"--pgdata={folder / 'pattern'}", *options, "--encoding=UTF8", "--locale=C", "--no-sync")
        with (folder / "pattern/postgresql.conf").open("a") as file:
            file.write(SETTINGS)

    def run(self, *command: str | Path) -> None:
        """A program of Postgres, as the account that servers run as."""
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **self.options())
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def options(self) -> dict[str, Any]:
        """Arguments for subprocess: as the account that servers run as, with the tools of this Postgres."""
        path = f"{self.tools}:{os.environ['PATH']}"
        options: dict[str, Any] = {"cwd": self.folder, "env": {"PATH": path, "LC_ALL": "C"}, "umask": 0o077}
        if self.account is not None:
            options |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return options

    def new(self, name: str) -> Cluster:
        """A running cluster, empty."""
        subprocess.run(["cp", "-a", self.folder / "pattern", self.folder / name], check=True)
        cluster = self.known(name)
        cluster.start()
        return cluster

    def known(self, name: str) -> Cluster:
        """A cluster whose folder somebody else fills, such as pg_basebackup."""
        cluster = Cluster(self, name)
        self.made.append(cluster)
        return cluster

    def end(self) -> None:
        """Stops what runs and removes it."""
        for cluster in self.made:
            cluster.kill()
            shutil.rmtree(cluster.folder, ignore_errors=True)
        self.made.clear()


class Cluster:
    """One server. Its port stays, so that its URL does."""

    def __init__(self, clusters: Clusters, name: str) -> None:
        self._clusters = clusters
        self.folder = clusters.folder / name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def tools(self) -> Path:
        """The folder of its programs."""
        return self._clusters.tools

    def url(self, database: str = "ledger", user: str = "postgres:secret") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it, and waits until one can connect."""
        options = ["-l", f"{self.folder}.log", "-o", f"-p {self.port}", "-t", "60"]
        self._clusters.run("pg_ctl", "start", "-s", "-w", "-D", self.folder, *options)

    def stop(self) -> None:
        self._clusters.run("pg_ctl", "stop", "-s", "-w", "-m", "fast", "-D", self.folder)

    def pid(self) -> int:
        """Of the postmaster. Raises FileNotFoundError where it does not run."""
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """As a crash of its host does it; nothing where it does not run."""
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = self.pid()
            # Its processes are of one group; the postmaster alone would leave them running for a while.
            os.killpg(pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
                time.sleep(0.02)

    def create(self, database: str = "ledger") -> str:
        """An empty database; its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            admin.execute(f"create database {database}".encode())
        return self.url(database)

    def log(self) -> str:
        return Path(f"{self.folder}.log").read_text(errors="replace")


def _tools(account: Account | None) -> Path:
    """The folder of Postgres' programs."""
    try:
        return Postgres.wheel.executable_by(account).parent
    except InvalidSetting:
        for folder in DEBIAN:
            if all((folder / name).exists() for name in NEEDED):
                return folder
    pytest.skip("needs Postgres' programs: install the extra `embedded`, or Debian's postgresql")


@contextmanager
def clusters_folder(tools: Path | None = None) -> Iterator[Clusters]:
    """A folder of clusters that the servers' account may enter, removed at the end. tools: Postgres' programs."""
    folder = Path(tempfile.mkdtemp(prefix="auditledger-clusters-", dir="/tmp"))
    try:
        made = Clusters(folder, tools)
        try:
            yield made
        finally:
            made.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
