"""Rows as they are inserted by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

Row = dict[str, Any]


def hash_of(position: int) -> bytes:
    """The database does not compute hashes, it compares them: any 32 bytes do."""
    return (position % 256).to_bytes(32, "big")


def row(position: int, now: datetime, **differences: Any) -> Row:
    """Entry `position` of ledger 1, sound unless it differs."""
    plain = {
        "ledger_id": 1,
        "position": position,
        "id": uuid4(),
        "recorded_at": now,
        "occurred_at": now,
        "actor": "a",
        "actor_type": "user",
        "action": "b",
        "salt": bytes(16),
        "body_hash": bytes(32),
        "prev_hash": hash_of(position - 1),
        "hash": hash_of(position),
    }
    return plain | differences


def insert(connection: psycopg.Connection, rows: list[Row]) -> None:
    """All rows in one statement."""
    names = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
    values = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, each.values()))) for each in rows
    )
    connection.execute(sql.SQL("insert into ledger.audit_logs ({}) values {}").format(names, values))
