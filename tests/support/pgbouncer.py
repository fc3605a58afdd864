"""A real PgBouncer before the run's Postgres: Debian's package with its default settings.

Only what a test must change is changed: the databases, who may log in, the pool's mode and size, and where it listens
and writes.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

DEFAULTS = Path("/etc/pgbouncer/pgbouncer.ini")
INSTALL = "needs PgBouncer: apt-get install -y pgbouncer"


class PgBouncer:
    """One that runs. The URLs of Postgres that it was made with lead to it by `url`."""

    def __init__(self, folder: Path, port: int, program: str) -> None:
        self.folder, self.port, self._program = folder, port, program
        self.start()

    def start(self) -> None:
        """Returns once it listens."""
        options: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam("nobody")
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        self.process = subprocess.Popen(
            [self._program, "-q", str(self.folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **options,
        )
        _wait(self)

    def kill(self) -> None:
        """SIGKILL: its clients and its servers' connections see theirs end."""
        self.process.kill()
        self.process.wait()
        (self.folder / "pgbouncer.pid").unlink(missing_ok=True)

    def url(self, database_url: str) -> str:
        """The same database and user, by way of the pooler."""
        return re.sub(r"@[^/@]+/", f"@127.0.0.1:{self.port}/", database_url)

    def tell(self, command: str) -> list[tuple[Any, ...]]:
        """On its console, which speaks the simple protocol alone."""
        console = f"host=127.0.0.1 port={self.port} user=console password=console dbname=pgbouncer"
        with psycopg.connect(console, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            cursor = connection.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        return (self.folder / "pgbouncer.log").read_text(errors="replace")


def installed() -> str | None:
    """Where the program is."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pgbouncer(*urls: str, pool_mode: str = "transaction", pool_size: int = 2, **changed: object) -> Iterator[PgBouncer]:
    """Runs one for these users of one Postgres. pool_size: connections of each user to each database."""
    program = installed()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    known = [conninfo_to_dict(url) for url in urls]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="auditledger-pgbouncer-", dir="/tmp"))
    settings = {
        "logfile": folder / "pgbouncer.log",
        "pidfile": folder / "pgbouncer.pid",
        "unix_socket_dir": "",
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "auth_file": folder / "userlist.txt",
        "admin_users": "console",
        "pool_mode": pool_mode,
        "default_pool_size": pool_size,
    }
    text = DEFAULTS.read_text() if DEFAULTS.exists() else "[databases]\n[pgbouncer]\nauth_type = md5\n"
    for name, value in (settings | changed).items():
        text = re.sub(rf"(?m)^{name} *=.*\n", "", text)
        text = text.replace("[pgbouncer]\n", f"[pgbouncer]\n{name} = {value}\n", 1)
    where = f"host={known[0]['host']} port={known[0].get('port', 5432)}"
    text = text.replace("[databases]\n", f"[databases]\n* = {where}\n", 1)
    users = {str(each["user"]): str(each["password"]) for each in known} | {"console": "console"}
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "userlist.txt").write_text("".join(f'"{user}" "{password}"\n' for user, password in users.items()))
    try:
        running = PgBouncer(folder, port, program)
        try:
            yield running
        finally:
            running.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(running: PgBouncer) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", running.port)) == 0:
                return
        assert running.process.poll() is None and time.monotonic() < deadline, "PgBouncer does not start"
        time.sleep(0.05)
