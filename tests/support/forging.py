"""Entries that no writer of ours makes, put in by a superuser with true hashes and links: what they say is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg

from ledger.events import GENESIS
from ledger.format.canonical import digest
from ledger.format.findings import Record
from ledger.format.rules import Columns
from ledger.format.times import POSTGRES_EPOCH, microseconds

INFINITY = 2**63 - 1
"""As Postgres stores the time `infinity`; `-infinity` is one less than its negative."""


class Time(NamedTuple):
    """text: as SQL reads it. stored: microseconds since 2000-01-01 UTC."""

    text: str
    stored: int


def forged(position: int = 1, prev: bytes = GENESIS, ledger: str = "main", **columns: Any) -> Columns:
    """A row that is sound but for these columns, with the hashes that belong to it."""
    sound = Columns(
        position=position,
        id=uuid4().bytes,
        recorded=850_000_000_000_000,
        occurred=850_000_000_000_000,
        actor="user:42",
        actor_type="user",
        action="invoice.updated",
        resource_type=None,
        resource_id=None,
        before=None,
        after=b'{"number":1}',
        metadata=None,
        salt=bytes(range(16)),
        body_hash=bytes(32),
        prev_hash=prev,
        hash=bytes(32),
    )
    record = Record(*sound._replace(**columns))
    body = record.body()
    if "body_hash" not in columns and body is not None:
        record = record._replace(body_hash=digest(body))
    envelope = record.envelope(ledger)
    return record if envelope is None else record._replace(hash=digest(envelope))


def insert(connection: psycopg.Connection, row: Columns, times: Sequence[Time | None] = (None, None)) -> None:
    """Into ledger 1, as it is. times: recorded_at and occurred_at where they are none that Python has."""
    values: dict[str, Any] = row._asdict()
    for column, time in zip(("recorded", "occurred"), times or (None, None), strict=True):
        values[column] = time_text(values[column]) if time is None else time.text
    for column in ("before", "after", "metadata"):
        values[column] = None if values[column] is None else values[column].decode()
    connection.execute(
        "insert into ledger.audit_logs values (1, %(position)s, %(id)s, %(recorded)s, %(occurred)s, %(actor)s,"
        " %(actor_type)s, %(action)s, %(resource_type)s, %(resource_id)s, %(before)s, %(after)s, %(metadata)s,"
        " %(salt)s, %(body_hash)s, %(prev_hash)s, %(hash)s)",
        values | {"id": UUID(bytes=row.id)},
    )


def time_text(stored: int) -> str:
    return (POSTGRES_EPOCH + timedelta(microseconds=stored)).isoformat()


def chain(connection: psycopg.Connection, *said: dict[str, Any]) -> list[Columns]:
    """Appends rows with these columns to ledger 1 and moves its tail; triggers must be off."""
    [(position, prev, recorded)] = connection.execute(
        "select position, hash, recorded_at from ledger.tails where ledger_id = 1"
    ).fetchall()
    rows = []
    for columns in said:
        position += 1
        row = forged(position, prev, **{"recorded": max(microseconds(recorded), 0), **columns})
        insert(connection, row)
        rows.append(row)
        prev = row.hash
    connection.execute(
        "update ledger.tails set position = %s, hash = %s, recorded_at = %s where ledger_id = 1",
        (position, prev, time_text(rows[-1].recorded)),
    )
    return rows
