"""A superuser who changes stored entries with the triggers off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import msgspec
import psycopg

from ledger import Entry
from ledger.drivers.run import drive
from ledger.format.canonical import digest, envelope
from ledger.settings import Settings
from ledger.store.ledgers import LedgerRef, read
from ledger.verify import database
from ledger.verify.report import Report

LAST, ERASED, ERASURE = 30, 12, 20
TRIGGERS = (
    ("audit_logs", "move_tail"),
    ("audit_logs", "granted_ledger"),
    ("audit_logs", "append_only"),
    ("audit_logs", "only_bodies"),
    ("audit_logs", "own_actions"),
    ("checkpoints", "add_only"),
    ("checkpoints", "append_only"),
    ("holds", "append_only"),
    ("holds", "placed_by_entries"),
    ("holds", "released_by_entries"),
    ("ledgers", "append_only"),
    ("skips", "append_only"),
    ("skips", "retried_by_entries"),
    ("skips", "skipped_by_entries"),
    ("tails", "append_only"),
    ("tails", "moved_by_entries"),
    ("tiles", "append_only"),
    ("tiles", "grow_only"),
)


class Forger:
    """A superuser's connection, on which the triggers are off until `done`."""

    def __init__(self, url: str) -> None:
        self.settings = Settings(database_url=url)
        self.connection = psycopg.connect(url, autocommit=True)
        for table, trigger in TRIGGERS:
            self.run(f"alter table ledger.{table} disable trigger {trigger}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.connection.close()

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.connection.execute(statement)

    def done(self) -> None:
        for table, trigger in TRIGGERS:
            self.run(f"alter table ledger.{table} enable always trigger {trigger}")

    def entries(self, first: int = 1) -> list[Entry]:
        return drive(read(LedgerRef(1, "main"), first - 1), self.connection)

    def write(self, entry: Entry) -> None:
        """Puts this entry in the place of the one at its position."""
        self.connection.execute("delete from ledger.audit_logs where position = %s", (entry.position,))
        values = (1, *msgspec.structs.astuple(entry)[1:])
        marks = ", ".join(["%s"] * len(values))
        self.connection.execute(
            "insert into ledger.audit_logs (ledger_id, position, id, recorded_at, occurred_at, actor, actor_type,"
            " action, resource_type, resource_id, before, after, metadata, salt, body_hash, prev_hash, hash)"
            f" values ({marks})",
            values,
        )

    def rehash(self, first: int, last: int = LAST, **changes: object) -> Entry:
        """Changes entry `first` and hashes it anew, and all after it up to `last`; the newest of them."""
        prev = None
        for entry in self.entries(first)[: last - first + 1]:
            forged = msgspec.structs.replace(entry, **(changes if prev is None else {"prev_hash": prev}))
            prev = digest(envelope(forged))
            self.write(msgspec.structs.replace(forged, hash=prev))
        return self.entries(last)[0]

    def verify(self, name: str = "main", workers: int = 1) -> Report:
        return database.verify(replace(self.settings, name=name), workers=workers)


def statements(*sql: str) -> Callable[[Forger], None]:
    return lambda forger: forger.run(*sql)
