"""The run's own Postgres and Valkey: the embedded pair in a temporary home, as durable as it comes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from ledger import create_redis_connection, embedded, testing
from ledger.migrate.migrate import migrate
from ledger.settings import Settings

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""What must hold of Postgres before anything is measured."""
SHARED_BUFFERS = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 4 // 1024**2}MB"
"""A quarter of the memory, as Postgres' documentation advises; the default (128 MB) is for small machines."""
_RECORDED = (*DURABLE, "wal_sync_method", "shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_level")


class NotDurable(Exception):
    """The servers would lose what they acknowledged: nothing measured on them would mean anything."""


@dataclass(frozen=True)
class BenchServers:
    """home: where they and everything else of the run lives. postgres, valkey: what they are, for the report."""

    home: Path
    database_url: str
    redis_url: str
    template: str
    postgres: dict[str, str]
    valkey: dict[str, str]

    @contextmanager
    def database(self) -> Iterator[Settings]:
        """A fresh database with the schema and an empty ledger `main`; the stream's Redis is emptied too."""
        with create_redis_connection(self.redis_url) as client:
            client.flushdb()
        with testing.database(self.database_url, template=self.template) as url:
            yield Settings(database_url=url, redis_url=self.redis_url)

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """A fresh database without a schema, for peers; its URL."""
        with testing.database(self.database_url) as url:
            yield url

    def checkpoint(self) -> None:
        """So that none falls into what is measured because of what was measured before."""
        checkpoint(self.database_url)


@contextmanager
def started() -> Iterator[BenchServers]:
    """Starts both, asserts that they are durable; stops and removes them at the end. Raises NotDurable."""
    home = Path(tempfile.mkdtemp(prefix="auditledger-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(embedded.stop, home / "servers")
        pair = embedded.start(home / "servers")
        with psycopg.connect(pair.database_url, autocommit=True) as connection:
            connection.execute(f"alter system set shared_buffers = '{SHARED_BUFFERS}'")
        embedded.stop(home / "servers")
        pair = embedded.start(home / "servers")
        template = stack.enter_context(testing.database(pair.database_url))
        migrate(Settings(database_url=template))
        yield BenchServers(
            home,
            pair.database_url,
            pair.redis_url,
            template.rpartition("/")[2],
            _postgres(pair.database_url),
            _valkey(pair.redis_url),
        )


def checkpoint(url: str) -> None:
    """A checkpoint of the server of this URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("checkpoint")


def database_url(settings: Settings) -> str:
    """Its URL, which the bench always has."""
    if settings.database_url is None:
        raise ValueError("no database")
    return settings.database_url


def fsync_milliseconds(folder: Path, times: int = 50) -> float:
    """How long this disk takes to write and sync 8 KiB, the least that a durable commit costs. In milliseconds."""
    file = folder / "fsync"
    with file.open("wb", buffering=0) as out:
        out.write(bytes(8192))
        began = time.perf_counter()
        for _ in range(times):
            out.seek(0)
            out.write(os.urandom(8192))
            os.fsync(out.fileno())
        seconds = time.perf_counter() - began
    file.unlink()
    return seconds / times * 1000


def _postgres(url: str) -> dict[str, str]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("select name, setting from pg_settings where name = any(%s)", ([*_RECORDED],))
        found: dict[str, str] = dict(rows.fetchall())
        [(version,)] = connection.execute("show server_version")
    for name, wanted in DURABLE.items():
        if found[name] != wanted:
            raise NotDurable(f"{name} is {found[name]}, not {wanted}")
    return {"version": version} | {name: found[name] for name in _RECORDED}


def _valkey(url: str) -> dict[str, str]:
    with create_redis_connection(url) as client:
        info: Any = client.info("server")
        settings: Any = client.config_get("append*")
    version = info.get("valkey_version") or info["redis_version"]
    return {"version": str(version)} | {name: str(settings[name]) for name in ("appendonly", "appendfsync")}
