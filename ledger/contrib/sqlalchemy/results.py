"""The result of an INSERT that the application wrote without RETURNING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData


class Written(IteratorResult[Any]):
    """Has no rows, but what a CursorResult tells about the statement."""

    is_insert = True
    returns_rows = False
    rowcount: int
    inserted_primary_key_rows: list[tuple[Any, ...]]

    @property
    def inserted_primary_key(self) -> tuple[Any, ...] | None:
        return self.inserted_primary_key_rows[0] if len(self.inserted_primary_key_rows) == 1 else None


def without_returning(rows: Sequence[Sequence[Any]], key_width: int) -> Written:
    """rows: those that were written, each beginning with its primary key."""
    result = Written(SimpleResultMetaData([]), iter([]))
    result.rowcount = len(rows)
    result.inserted_primary_key_rows = [tuple(row[:key_width]) for row in rows]
    return result
