"""What the servers themselves can do with the same rows: the limits that the ledger is measured against.

Bare means: into a table `like ledger.audit_logs including all`, so with the same columns, indexes and constraints, but
no trigger, no chain and no encoding: the rows are ready before the clock starts. They are real ones, recorded by a
ledger in the limit's own database and copied out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
import redis

from bench.measure import chunks
from bench.servers import database_url
from ledger import Event, Ledger
from ledger.settings import Settings

COLUMNS = (
    *("ledger_id", "position", "id", "recorded_at", "occurred_at", "actor", "actor_type", "action"),
    *("resource_type", "resource_id", "before", "after", "metadata", "salt", "body_hash", "prev_hash", "hash"),
)
OUTBOX_COLUMNS = (
    *("ledger_id", "id", "named", "recorded_at", "occurred_at", "actor", "actor_type", "action"),
    *("resource_type", "resource_id", "before", "after", "metadata"),
)
_JSON = ("before", "after", "metadata")
_NAMES = ", ".join(COLUMNS)


def _insert(columns: Sequence[str]) -> str:
    return " ".join(("insert into bare (", ", ".join(columns), ") values (", ", ".join(["%s"] * len(columns)), ")"))


INSERT, INSERT_OUTBOX = _insert(COLUMNS), _insert(OUTBOX_COLUMNS)
_SELECT = "select {names} from ledger.audit_logs where position > %s order by position"
COPY_IN = "copy bare from stdin (format binary)"
COPY_OUT = "copy ledger.audit_logs to stdout (format binary)"
_CHUNK = 64 * 1024
"""Bytes handed to Postgres at a time, so that it works while more are sent."""
_XADDS = 500
"""Commands in one pipeline, which is as many entries as the relay takes at a time."""

Connection = psycopg.Connection[tuple[Any, ...]]


class Bare:
    """The bare table in a database of its own, and ready-made rows to put into it."""

    def __init__(self, settings: Settings) -> None:
        self.connection: Connection = psycopg.connect(database_url(settings), autocommit=True)
        self.connection.execute("create table bare (like ledger.audit_logs including all)")
        self._ledger = Ledger(settings)
        self._made = 0

    def close(self) -> None:
        self._ledger.close()
        self.connection.close()

    def rows(self, events: Iterable[Event]) -> list[tuple[Any, ...]]:
        """New rows as parameters of INSERT."""
        names = ", ".join(f"{name}::text" if name in _JSON else name for name in COLUMNS)
        after = self._record(events)
        return self.connection.execute(_SELECT.format(names=names).encode(), (after,)).fetchall()

    def copy_data(self, events: Iterable[Event]) -> list[bytes]:
        """New rows as the data of a COPY BINARY, in chunks."""
        after = self._record(events)
        query = f"copy ({_SELECT.format(names=_NAMES)}) to stdout (format binary)"
        with self.connection.cursor().copy(query.encode(), (after,)) as copy:
            return list(chunks(b"".join(copy), _CHUNK))

    def insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Each row a statement and a commit."""
        for row in rows:
            self.connection.execute(INSERT, row, prepare=True)

    def copy_in(self, data: Iterable[bytes]) -> None:
        """All rows in one statement and commit."""
        copy_in(self.connection, COPY_IN, data)

    def count(self) -> int:
        [(count,)] = self.connection.execute("select count(*) from bare")
        return int(count)

    def _record(self, events: Iterable[Event]) -> int:
        """Records the events in the limit's own ledger. The position after which they are."""
        after = self._made
        self._made += self._ledger.append_many(events).count
        return after


class BareOutbox:
    """A bare table with the columns of the outbox, and ready-made rows: from an outbox of the limit's own database."""

    def __init__(self, settings: Settings) -> None:
        self.connection: Connection = psycopg.connect(database_url(settings), autocommit=True)
        self.connection.execute("create table bare (like ledger.outbox including all)")
        self._ledger = Ledger(settings)

    def close(self) -> None:
        self._ledger.close()
        self.connection.close()

    def rows(self, events: Iterable[Event]) -> list[tuple[Any, ...]]:
        """New rows as parameters of INSERT_OUTBOX."""
        names = ", ".join(f"{name}::text" if name in _JSON else name for name in OUTBOX_COLUMNS)
        query = f"select {names} from ledger.outbox order by seq desc limit %s"
        return self.connection.execute(query.encode(), (len(self._ledger.record_many(events)),)).fetchall()

    def count(self) -> int:
        [(count,)] = self.connection.execute("select count(*) from bare")
        return int(count)


def copy_in(connection: Connection, statement: str, data: Iterable[bytes]) -> None:
    with connection.cursor().copy(statement) as copy:
        for chunk in data:
            copy.write(chunk)


def copy_out(connection: Connection, statement: str = COPY_OUT) -> int:
    """Raw COPY OUT: every byte is received, none is looked at. How many there were."""
    with connection.cursor().copy(statement) as copy:
        return sum(map(len, copy))


Fields = dict[bytes, bytes]


def stream_entries(client: redis.Redis, key: str) -> list[tuple[bytes, Fields]]:
    """The entries of a stream as they stand in it: the arguments of XADD."""
    found: Any = client.xrange(key)
    return list(found)


def xadd(client: redis.Redis, key: str, entries: list[tuple[bytes, Fields]]) -> None:
    """Raw pipelined XADD: ready-made fields, many commands a round trip, no script."""
    for first in range(0, len(entries), _XADDS):
        pipeline = client.pipeline(transaction=False)
        for entry_id, fields in entries[first : first + _XADDS]:
            pipeline.xadd(key, fields, id=entry_id)  # type: ignore[arg-type]
        pipeline.execute()
