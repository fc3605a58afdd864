"""Real servers for tests, never a fake: yours, Docker's, or the embedded pair.

What the environment says decides, in this order:

    LEDGER_TEST_DATABASE_URL and LEDGER_TEST_REDIS_URL
        Servers of yours. The first is a superuser's; Redis databases are flushed.
    LEDGER_TEST_SERVERS=docker
        Containers of postgres:17 and redis:7. Needs testcontainers and Docker.
    nothing
        The embedded Postgres and Valkey, from the extra `embedded`.

    with servers() as pair, database(pair.database_url) as url:
        migrate(Settings.load(database_url=url))
        with Ledger.open(database_url=url, redis_url=redis_database(pair.redis_url, 0)) as ledger: ...

The fixtures of pytest (fixtures.py) and the ledgers in memory (recorder.py) can be had from here too. They are loaded
when first asked for: who only wants servers needs no pytest.
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
    """With the fixtures, because pytest looks for those of a plugin here."""
    return sorted({*globals(), *_HOMES})


REDIS_DATABASES = 16
"""Logical databases of a Redis that was not told otherwise."""


@dataclass(frozen=True, slots=True)
class TestServers:
    """Where both servers answer. The URLs may hold passwords, so they are kept out of the repr."""

    __test__ = False  # pytest takes classes called Test… for tests

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@contextmanager
def servers(home: Path | None = None) -> Iterator[TestServers]:
    """Both servers, for as long as the block runs; see above for which.

    home: the embedded pair's folder, which stays; by default a temporary one, which is removed.
    Raises InvalidSetting and Unavailable where they cannot be had.
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
            if forks.process() is here:  # a child of a fork that leaves the block takes nothing from its parent
                embedded.stop(folder)
                if home is None:
                    shutil.rmtree(folder, ignore_errors=True)


def given() -> TestServers | None:
    """The servers that the environment names. Raises InvalidSetting where it names one of the two."""
    urls = [os.environ.get(f"LEDGER_TEST_{which}_URL") or "" for which in ("DATABASE", "REDIS")]
    if any(urls) and not all(urls):
        raise InvalidSetting("set both LEDGER_TEST_DATABASE_URL and LEDGER_TEST_REDIS_URL, or neither")
    return TestServers(*urls) if all(urls) else None


def wants_docker() -> bool:
    """Does LEDGER_TEST_SERVERS ask for Docker? Raises InvalidSetting where it asks for what there is not."""
    wanted = os.environ.get("LEDGER_TEST_SERVERS") or "embedded"
    if wanted not in ("docker", "embedded"):
        raise InvalidSetting(f"LEDGER_TEST_SERVERS must be 'docker' or 'embedded', not {wanted!r}")
    return wanted == "docker"


@contextmanager
def docker() -> Iterator[TestServers]:
    """Containers of both servers through testcontainers, removed at the end."""
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - only where it is asked for
    from testcontainers.community.redis import RedisContainer  # noqa: PLC0415

    with PostgresContainer("postgres:17", driver=None) as postgres, RedisContainer("redis:7") as redis:
        pair = TestServers(
            database_url=postgres.get_connection_url(),
            redis_url=f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(redis.port)}/0",
        )
        yield pair


def start_embedded(home: Path) -> TestServers:
    """The embedded pair in `home`. Whoever calls it stops it."""
    pair = embedded.start(home)
    return TestServers(pair.database_url, pair.redis_url)


@contextmanager
def database(url: str, *, template: str = "template1") -> Iterator[str]:
    """A fresh database on the server of `url`, dropped at the end whoever is still connected to it; its URL.

    template: the database that it is a copy of; no one may be connected to that one meanwhile.
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
    """The URL of the logical database `offset` places after the one of `url`, for tests that run beside each other."""
    number = int(urlsplit(url).path.strip("/") or 0) + offset
    if number >= REDIS_DATABASES:
        raise InvalidSetting(f"Redis has {REDIS_DATABASES} logical databases: run fewer tests beside each other")
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def _administer(url: str, *statements: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
