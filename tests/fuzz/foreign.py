"""Another writer of the same ledger: it keeps to docs/format.md, and stores JSON that this package never would."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from msgspec.structs import astuple, replace

from ledger import Entry
from ledger.format import canonical

_COLUMNS = (
    "ledger_id, position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,"
    " before, after, metadata, salt, body_hash, prev_hash, hash"
)


def record(connection: psycopg.Connection, resource_id: str, before: str | None, after: str | None) -> Entry:
    """Appends one entry about an invoice to ledger main, past the triggers like any other."""
    [(position, prev, now)] = connection.execute(
        "select position, hash, greatest(recorded_at, now()) from ledger.tails where ledger_id = 1"
    ).fetchall()
    who = ("user:42", "user", "invoice.updated", "invoice", resource_id)
    entry = Entry("main", position + 1, uuid4(), now, now, *who, before, after, None, bytes(16), b"", bytes(prev), b"")
    entry = replace(entry, body_hash=canonical.digest(canonical.body(entry) or b""))
    entry = replace(entry, hash=canonical.digest(canonical.envelope(entry)))
    marks = ", ".join(["%s"] * 17)
    connection.execute(f"insert into ledger.audit_logs ({_COLUMNS}) values ({marks})", (1, *astuple(entry)[1:]))
    return entry
