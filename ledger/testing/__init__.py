"""For tests of applications: servers, pytest fixtures, and a ledger in memory.

The environment selects the servers, in this order:

    LEDGER_TEST_DATABASE_URL and LEDGER_TEST_REDIS_URL
        Your own servers. The database user must be a superuser; Redis databases are flushed.
    LEDGER_TEST_SERVERS=docker
        Containers of postgres:17 and redis:7. Needs testcontainers and Docker.
    default
        The embedded Postgres and Valkey, from the extra `embedded`.

    with servers() as pair, database(pair.database_url) as url:
        migrate(Settings.load(database_url=url))
        with Ledger.open(database_url=url, redis_url=redis_database(pair.redis_url, 0)) as ledger: ...

The pytest fixtures (fixtures.py) and the ledgers in memory (recorder.py) are names of this module too, loaded on first
use, so that the servers alone need no pytest.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from ledger import embedded
from ledger.drivers import forks
from ledger.errors import InvalidSetting

_HOMES = {
    "AsyncRecorder": "ledger.testing.recorder",
    "Recorder": "ledger.testing.recorder",
    "ledger": "ledger.testing.fixtures",
    "ledger_connection": "ledger.testing.fixtures",
    "ledger_database": "ledger.testing.fixtures",
    "ledger_recorder": "ledger.testing.fixtures",
    "ledger_servers": "ledger.testing.fixtures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Includes the fixtures, which pytest looks up here."""
    return sorted({*globals(), *_HOMES})


REDIS_DATABASES = 16
"""Logical databases of a Redis with the default configuration."""


@dataclass(frozen=True, slots=True)
class TestServers:
    """The URLs of both servers. They may contain passwords and are not part of the repr."""

    __test__ = False  # pytest takes classes called Test… for tests

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@contextmanager
def servers(home: Path | None = None) -> Iterator[TestServers]:
    """Both servers while the block runs, selected by the environment as described above.

    home: folder of the embedded servers, which is kept; by default a temporary one. Raises InvalidSetting, Unavailable.
    """
    here = forks.process()
    if (own := given()) is not None:
        yield own
    elif wants_docker():
        with docker() as containers:
            yield containers
    else:
        folder = home or Path(tempfile.mkdtemp(prefix="auditledger-"))
        try:
            yield start_embedded(folder)
        finally:
            if forks.process() is here:  # a forked child must not stop its parent's servers
                embedded.stop(folder)
                if home is None:
                    shutil.rmtree(folder, ignore_errors=True)


def given() -> TestServers | None:
    """The servers named in the environment, or None. Raises InvalidSetting if only one of the two is named."""
    urls = [os.environ.get(f"LEDGER_TEST_{which}_URL") or "" for which in ("DATABASE", "REDIS")]
    if any(urls) and not all(urls):
        raise InvalidSetting("set both LEDGER_TEST_DATABASE_URL and LEDGER_TEST_REDIS_URL, or neither")
    return TestServers(*urls) if all(urls) else None


def wants_docker() -> bool:
    """Whether LEDGER_TEST_SERVERS selects Docker. Raises InvalidSetting for an unknown value."""
    wanted = os.environ.get("LEDGER_TEST_SERVERS") or "embedded"
    if wanted not in ("docker", "embedded"):
        raise InvalidSetting(f"LEDGER_TEST_SERVERS must be 'docker' or 'embedded', not {wanted!r}")
    return wanted == "docker"


@contextmanager
def docker() -> Iterator[TestServers]:
    """Containers of both servers through testcontainers, removed at the end."""
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - only if selected
    from testcontainers.community.redis import RedisContainer  # noqa: PLC0415

    with PostgresContainer("postgres:17", driver=None) as postgres, RedisContainer("redis:7") as redis:
        pair = TestServers(
            database_url=postgres.get_connection_url(),
            redis_url=f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(redis.port)}/0",
        )
        yield pair


def start_embedded(home: Path) -> TestServers:
    """Starts the embedded servers in `home`. The caller stops them, with embedded.stop."""
    pair = embedded.start(home)
    return TestServers(pair.database_url, pair.redis_url)


@contextmanager
def database(url: str, *, template: str = "template1") -> Iterator[str]:
    """The URL of a new database on the server of `url`. It is dropped at the end, despite open connections.

    template: the database to copy, which must have no connections.
    """
    here = forks.process()
    name = f"auditledger_{secrets.token_hex(6)}"
    _administer(url, sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield other_database(url, name)
    finally:
        if forks.process() is here:
            _administer(url, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def other_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def redis_database(url: str, offset: int) -> str:
    """The URL of the logical database `offset` places after that of `url`, for parallel tests."""
    number = int(urlsplit(url).path.strip("/") or 0) + offset
    if number >= REDIS_DATABASES:
        raise InvalidSetting(f"Redis has {REDIS_DATABASES} logical databases: run fewer tests in parallel")
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def _administer(url: str, *statements: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
