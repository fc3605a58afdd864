"""What the tests of views share: entries made by hand, views brought up to date, and their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from ledger_projections import ActorActivity, ResourceHistory, ResourceState, Timeline

from ledger import Entry, Event, Ledger, Projection
from ledger.drivers.pools import Connector
from ledger.drivers.postgres import Transaction
from ledger.projection.worker import Projector

BUILT_IN: tuple[type[Projection], ...] = (Timeline, ResourceState, ResourceHistory, ActorActivity)
START = datetime(2026, 3, 1, 22, tzinfo=UTC)


def entry(position: int = 1, **fields: Any) -> Entry:
    """An entry as another writer might have recorded it: its JSON texts are given, its hashes are not true."""
    given: dict[str, Any] = {
        "ledger": "main",
        "position": position,
        "id": UUID(int=position),
        "recorded_at": START + timedelta(seconds=position),
        "occurred_at": START + timedelta(hours=position),
        "actor": "user:1",
        "actor_type": "user",
        "action": "thing.changed",
        "resource_type": "thing",
        "resource_id": "a",
        "before_json": None,
        "after_json": None,
        "metadata_json": None,
        "salt": bytes(16),
        "body_hash": bytes(32),
        "prev_hash": bytes(32),
        "hash": bytes(32),
    }
    return Entry(**(given | fields))


def some_events(count: int, first: int = 0) -> Iterator[Event]:
    """Events about a few resources by a few actors: created, changed in part, read, deleted."""
    for number in range(first, first + count):
        stage = number % 5
        yield Event(
            actor=f"user:{number % 7}",
            action=f"invoice.{('created', 'sent', 'paid', 'read', 'deleted')[stage]}",
            resource_type="invoice",
            resource_id=f"inv_{number % 11}",
            before=None if stage in (0, 3) else {"total": number, "draft": True},
            after=None if stage in (3, 4) else {"total": number + 0.5, "customer": {"city": f"City {number % 3}"}},
            metadata={"number": number, "agent": "curl/8.5"},
            occurred_at=START + timedelta(minutes=37 * number),
        )


@contextmanager
def installed(admin: psycopg.Connection, *projections: Projection) -> Iterator[Transaction]:
    """The projections' empty tables, in the schema that the views are read from, and what `apply` writes through."""
    admin.execute("set search_path = ledger_views, pg_catalog")
    for projection in projections:
        admin.execute(projection.schema.encode())
    yield Transaction(admin)
    admin.execute("reset search_path")


def apply(projection: Projection, ledger_id: int, entries: Sequence[Entry], tx: Transaction, batch: int) -> None:
    for first in range(0, len(entries), batch):
        projection.apply(ledger_id, entries[first : first + batch], tx)


@contextmanager
def projector(ledger: Ledger, projections: Iterable[Projection] | None = None) -> Iterator[Projector]:
    """A projector of the given projections, else of all built in; installed."""
    servers = Connector(ledger.settings)
    running = Projector(servers, [each() for each in BUILT_IN] if projections is None else list(projections))
    try:
        running.install()
        yield running
    finally:
        running.close()
        servers.close()


def project(ledger: Ledger, projections: Iterable[Projection] | None = None) -> None:
    """Brings the views of all ledgers up to date."""
    with projector(ledger, projections) as running:
        running.catch_up()
        assert not running.failed


def rows(admin: psycopg.Connection, table: str, ledger_id: int | None = None) -> list[str]:
    """All columns of all rows (of one ledger: but ledger_id), as text, sorted."""
    found = admin.execute(
        f"select v::text from ledger_views.{table} as v where ledger_id = coalesce(%s, ledger_id)", (ledger_id,)
    )
    return sorted(row[0] if ledger_id is None else row[0].partition(",")[2] for row in found)


def cut(items: Sequence[Entry], sizes: Iterable[int]) -> Iterator[Sequence[Entry]]:
    """The items in batches of these sizes, again and again."""
    first = 0
    for size in itertools.cycle(sizes):
        if first >= len(items):
            return
        yield items[first : first + size]
        first += size


def leftovers(admin: psycopg.Connection) -> int:
    """Schemas and checkpoints of rebuilds."""
    [(count,)] = admin.execute(
        """
        select (select count(*) from pg_namespace where nspname like 'ledger\\_rebuild\\_%')
            + (select count(*) from ledger.projections where building)
        """
    ).fetchall()
    return int(count)
