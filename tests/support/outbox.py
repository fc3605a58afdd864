"""The outbox of a test's ledgers: events put into it, and sealers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg

from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.settings import Settings

RECORD = "select ledger.record(%s, actor => 'user:1', action => 'a.b', after => json_build_object('number', n))"
RECORD_SOME = f"{RECORD} from generate_series(%s::int, %s) as n"


def record(connection: psycopg.Connection, count: int, first: int = 0, name: str = "main") -> None:
    """In one statement, with ids of the outbox's own."""
    connection.execute(RECORD_SOME, (name, first, first + count - 1))


def waiting(connection: psycopg.Connection) -> int:
    [(count,)] = connection.execute("select count(*) from ledger.outbox").fetchall()
    return int(count)


@contextmanager
def sealing(settings: Settings, names: list[str] | None = None) -> Iterator[Sealer]:
    """A sealer to be called."""
    with closing(Connector(settings)) as connector:
        yield Sealer(connector, names)


@contextmanager
def running(settings: Settings) -> Iterator[Sealer]:
    """A sealer at work, which must end when it is told to."""
    stop = threading.Event()
    with sealing(settings) as made, ThreadPoolExecutor(1) as executor:
        work = executor.submit(made.run, stop)
        try:
            yield made
        finally:
            stop.set()
        work.result(30)
