"""Other ways from PyPI to keep events, at their defaults, given the same events. Each says what it does not do.

They are asked for by name when they are needed: without the extra `bench` they are left out.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import msgspec

from bench.measure import Bench
from ledger import Event

EVENTSOURCING = "eventsourcing"
UMADB = "umadb"
NOTES = {
    EVENTSOURCING: "PostgresApplicationRecorder in its default, safe mode (a table lock and NOTIFY; not "
    "`enable_db_functions`), on the same Postgres. No hash chain, no proof; its ids have gaps after rollbacks; two "
    "indexes where the ledger has five. Larger batches go to it in thousands: one of 10,000 was seen to hang.",
    UMADB: "the server of its wheel at its defaults, with a file of its own beside Postgres, through its Rust client. "
    "No hash chain, no proof, no SQL; not in the application's transaction, nor in its backups.",
}
_RESOURCES = UUID("6f1f2c4e-8d0a-4a58-9a3e-5b1f6f3c7d21")
_START_SECONDS = 20.0
_MOST = 1000
"""Events in one insert of eventsourcing: one of 10,000 (6 MB) was seen to hang for ever in psycopg's pipeline mode."""
_PAGE = 1000
"""Events that are read at a time, as by the ledger."""


def missing(bench: Bench, name: str) -> str | None:
    """Why a peer is not measured; None where it is."""
    if not bench.peers:
        return "peers were not asked for"
    if find_spec(name) is None:
        return f"{name} is not installed (extra `bench`)"
    return None


class Eventsourcing:
    """One application recorder; fit for threads, like a Ledger."""

    def __init__(self, database_url: str) -> None:
        factory = import_module("eventsourcing.persistence").InfrastructureFactory
        environment = import_module("eventsourcing.utils").Environment
        self._stored: Any = import_module("eventsourcing.persistence").StoredEvent
        url = urlsplit(database_url)
        self._factory = factory.construct(
            environment(
                "bench",
                {
                    "PERSISTENCE_MODULE": "eventsourcing.postgres",
                    "POSTGRES_DBNAME": url.path.strip("/"),
                    "POSTGRES_HOST": url.hostname,
                    "POSTGRES_PORT": str(url.port),
                    "POSTGRES_USER": url.username,
                    "POSTGRES_PASSWORD": url.password,
                },
            )
        )
        self._recorder = self._factory.application_recorder()
        self._version = 0

    def close(self) -> None:
        self._factory.close()

    def prepared(self, events: Sequence[Event]) -> list[tuple[UUID, int, Event]]:
        """Events with what its application would have at hand: the aggregate's id and version."""
        found = []
        for event in events:
            self._version += 1
            found.append((uuid5(_RESOURCES, f"{event.resource_type}:{event.resource_id}"), self._version, event))
        return found

    def append(self, prepared: Sequence[tuple[UUID, int, Event]]) -> None:
        """One durable commit for each 1,000; the encoding is in the measurement, as it is for the ledger."""
        encode = msgspec.json.encode
        for first in range(0, len(prepared), _MOST):
            self._recorder.insert_events(
                [
                    self._stored(id_, version, event.action, encode(event))
                    for id_, version, event in prepared[first : first + _MOST]
                ]
            )

    def read(self) -> int:
        """All events as its Notifications; how many."""
        count, start = 0, 1
        while found := self._recorder.select_notifications(start, _PAGE):
            count += len(found)
            start = found[-1].id + 1
        return count

    def count(self) -> int:
        """The newest id: without rollbacks it has no gaps."""
        return self._recorder.max_notification_id() or 0


class Umadb:
    """A client of a server. Its appends wait for the server's fsync."""

    def __init__(self, url: str) -> None:
        module = import_module("umadb")
        self._event: Any = module.Event
        self._client: Any = module.Client(url)

    def append(self, events: Sequence[Event]) -> None:
        """One atomic append, with tags for what the ledger has indexes for."""
        encode, make = msgspec.json.encode, self._event
        self._client.append(
            [
                make(
                    event.action,
                    encode(event),
                    [f"actor:{event.actor}", f"resource:{event.resource_type}:{event.resource_id}"],
                )
                for event in events
            ]
        )

    def read(self) -> int:
        return sum(1 for _ in self._client.read())

    def count(self) -> int:
        return self._client.head() or 0


@contextmanager
def eventsourcing(bench: Bench) -> Iterator[Eventsourcing | None]:
    """On an empty database; None where it cannot be had."""
    if reason := missing(bench, EVENTSOURCING):
        bench.skipped[EVENTSOURCING] = reason
        yield None
        return
    with bench.servers.empty_database() as url:
        peer = Eventsourcing(url)
        try:
            yield peer
        finally:
            peer.close()


@contextmanager
def umadb(bench: Bench) -> Iterator[str | None]:
    """An empty server's URL; None where it cannot be had."""
    if reason := missing(bench, UMADB):
        bench.skipped[UMADB] = reason
        yield None
        return
    folder = bench.scratch / "umadb"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    script = "import sys, umadb; umadb.run_server_from_args(sys.argv)"
    command = [sys.executable, "-c", script, "--listen", address, "--db-path", str(folder)]
    with (bench.scratch / "umadb.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(f"http://{address}", server)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            Umadb(url).count()
        except Exception:  # whatever its client raises until the server listens
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
