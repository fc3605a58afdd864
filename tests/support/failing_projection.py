"""A projection that fails as it is told, and what its tests look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import psycopg

from ledger import Entry, Event, Ledger, Projection, Writes
from ledger.drivers.pools import Connector
from ledger.projection.rebuild import rebuild
from ledger.projection.retries import unskip
from ledger.projection.worker import Projector
from tests.support.views import rows

SECRET = "jane.doe@example.org"


class Picky(Projection):
    """Positions and actors, one row an entry. bad: raises the error for an entry that it is to fail at."""

    name = "picky"
    version = 1
    tables: ClassVar[tuple[str, ...]] = ("picky",)
    schema = "create table picky (ledger_id int, position bigint, note text, primary key (ledger_id, position))"

    def __init__(self, bad: Callable[[Entry], Exception | None] | None = None) -> None:
        self.bad = bad or (lambda entry: None)
        self.tried: list[int] = []

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        for entry in entries:
            error = self.bad(entry)
            if error is not None:
                self.tried.append(entry.position)
                raise error
            tx.execute("insert into picky values (%s, %s, %s)", (ledger_id, entry.position, entry.action))


def poisoned(entry: Entry) -> Exception | None:
    """What a mapping from a body often raises: it quotes it."""
    return ValueError(f"no such customer: {entry.after['mail']}") if entry.action == "poison" else None


POISON = Event("user:1", "poison", "person", "p", after={"mail": SECRET})


def positions(admin: psycopg.Connection, name: str = "picky") -> list[int]:
    return [at for (at,) in admin.execute(f"select position from ledger_views.{name} order by 1")]


def standstill(admin: psycopg.Connection, name: str = "picky") -> tuple[int, int | None, str | None, int | None]:
    """Its position, the entry at which it is blocked, why, and the attempts."""
    [row] = admin.execute(
        "select position, failed_position, failed_error, failed_tries from ledger.projections"
        " where name = %s and not building and ledger_id = 1",
        (name,),
    ).fetchall()
    return row


def retry(ledger: Ledger, projection: Projection, position: int) -> int:
    servers = Connector(ledger.settings)
    try:
        return unskip(servers, projection, ledger.ref, position, "user:1", "mended")
    finally:
        servers.close()


def live_is_a_replay(ledger: Ledger, admin: psycopg.Connection, projection: Projection) -> None:
    live = rows(admin, projection.name)
    rebuild(ledger.settings, projection)
    assert rows(admin, projection.name) == live


@contextmanager
def working(ledger: Ledger, *projections: Projection, skip_after: int | None = None) -> Iterator[Projector]:
    """A worker that runs in a thread."""
    servers, stop = Connector(ledger.settings), threading.Event()
    running = Projector(servers, projections, skip_after=skip_after)
    running.install()
    thread = threading.Thread(target=running.run, args=(stop,))
    thread.start()
    try:
        yield running
    finally:
        stop.set()
        thread.join()
        running.close()
        servers.close()
