"""Rows as the messages of a binary COPY (PostgreSQL documentation, COPY, "Binary Format"), ledger_id left out."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

Value = int | str | bytes | None
"""int: of eight bytes. bytes: as they are, whatever the column's type."""


def field(value: Value) -> bytes:
    if value is None:
        return struct.pack(">i", -1)
    raw = struct.pack(">q", value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
    return struct.pack(">i", len(raw)) + raw


def message(row: Sequence[Value]) -> bytes:
    return struct.pack(">h", len(row)) + b"".join(map(field, row))


def messages(rows: Iterable[Sequence[Value]]) -> list[bytes]:
    """As libpq hands them out: the header before the first row, the trailer by itself."""
    made = [*map(message, rows), TRAILER]
    return [HEADER + made[0], *made[1:]]
