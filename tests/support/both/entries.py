"""Entries from stored rows and from the stream: of the native core, and as Python makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ledger.events import Entry
from ledger.format import native
from ledger.format.decode import read_entry
from ledger.format.rules import Columns
from ledger.format.times import POSTGRES_EPOCH
from ledger.store.ledgers import size_of
from ledger.stream.wire import parse
from tests.support.copy_messages import messages
from tests.support.forged_rows import FIRST_TIME, LAST_TIME


def moment(stored: int | None) -> datetime | None:
    """As ledgers.sql's `read` has it: null where no datetime holds it."""
    if stored is None or not FIRST_TIME <= stored <= LAST_TIME:
        return None
    return POSTGRES_EPOCH + timedelta(microseconds=stored)


def entry_of(row: Columns) -> Entry:
    values: list[Any] = list(row)
    values[1] = None if row.id is None else UUID(bytes=row.id)
    values[2:4] = map(moment, (row.recorded, row.occurred))
    values[9:12] = (None if text is None else text.decode() for text in row[9:12])
    return Entry("main", *values)


def taken(rows: list[Any]) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    size = native.entries.take("main", messages(rows), entries)
    return entries, size


def same(made: Entry, expected: Entry) -> None:
    assert made == expected and type(made) is Entry
    for value, other in zip(msgspec.structs.astuple(made), msgspec.structs.astuple(expected), strict=True):
        assert type(value) is type(other)
        if isinstance(value, datetime):
            assert value.tzinfo is UTC and value.fold == 0


def compare_rows(rows: list[Columns]) -> None:
    try:
        expected = [entry_of(row) for row in rows]
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            taken(rows)
        return
    entries, size = taken(rows)
    for made, other in zip(entries, expected, strict=True):
        same(made, other)
    assert size == sum(len(text or b"") for row in rows for text in row[9:12])
    assert size >= size_of(entries)


def compare_parts(parts: Any) -> bool:
    """Whether the core took it."""
    made = native.entries.parse(*parts)
    try:
        expected = read_entry(parts[0], parts[1], bytes.fromhex(parts[2].decode()))
    except ValueError:
        assert made is None
        return False
    if made is not None:
        same(made, expected)
    return made is not None


def _outcome(fields: Any) -> Any:
    try:
        return parse(fields)
    except Exception as error:
        return type(error)


def both(fields: Any) -> Entry | None:
    """`parse` with the core and without: never an error, whatever Redis hands out."""
    with pytest.MonkeyPatch.context() as patch:
        with_core = _outcome(fields)
        patch.setattr(native, "entries", None)
        assert _outcome(fields) == with_core
    assert with_core is None or isinstance(with_core, Entry)
    return with_core
