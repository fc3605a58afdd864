"""Entries from rows: as psycopg's values would make them, UUIDs and datetimes like any other."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from uuid import UUID, SafeUUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.format.rules import Columns
from ledger.format.times import POSTGRES_EPOCH
from tests.support.both.entries import compare_rows, entry_of, moment, taken
from tests.support.forged_rows import FIRST_TIME, LAST_TIME, chains, forged_chains
from tests.support.forging import forged


@given(chains(8) | forged_chains(8))
def test_rows(rows: list[Columns]) -> None:
    compare_rows(rows)


@given(st.integers(FIRST_TIME, LAST_TIME) | st.integers(-(2**63), 2**63 - 1), st.integers(FIRST_TIME, LAST_TIME))
@example(FIRST_TIME, LAST_TIME)
@example(FIRST_TIME - 1, LAST_TIME + 1)
@example(2**63 - 1, -(2**63))
@example(0, -1)
@example(-63_082_281_600_000_000 + 86_400_000_000 * 366, 0)
def test_times(recorded: int, occurred: int) -> None:
    for first, second in ((recorded, occurred), (occurred, recorded), (recorded, recorded)):
        [entry, other], _ = taken([forged(recorded=first, occurred=second), forged(recorded=second, occurred=first)])
        assert (entry.recorded_at, entry.occurred_at) == (moment(first), moment(second))
        assert (other.recorded_at, other.occurred_at) == (moment(second), moment(first))


@pytest.mark.parametrize("first", [(1, 1, 1), (1896, 1, 1), (1999, 12, 1), (2096, 1, 1), (9990, 1, 1)])
def test_each_day_of_some_years(first: tuple[int, int, int]) -> None:
    """Leap days, ends of months and of centuries."""
    start = (datetime(*first, tzinfo=UTC) - POSTGRES_EPOCH).days
    stored = [86_400_000_000 * day for day in range(start, start + 366 * 9)]
    rows = [forged()._replace(recorded=one, occurred=one + 86_399_999_999) for one in stored]
    entries, _ = taken(rows)
    assert [(entry.recorded_at, entry.occurred_at) for entry in entries] == [
        (moment(one), moment(one + 86_399_999_999)) for one in stored
    ]


@given(st.binary(min_size=16, max_size=16))
@example(bytes(16))
@example(b"\xff" * 16)
def test_a_uuid_is_like_any_other(raw: bytes) -> None:
    [entry], _ = taken([forged(id=raw)])
    made, expected = entry.id, UUID(bytes=raw)
    assert type(made) is UUID and made == expected and expected == made and hash(made) == hash(expected)
    for name in ("int", "bytes", "fields", "version", "variant", "urn", "hex", "time", "__str__", "__repr__"):
        value, other = getattr(made, name), getattr(expected, name)
        assert (value() if callable(value) else value) == (other() if callable(other) else other), name
    assert made.is_safe is expected.is_safe is SafeUUID.unknown
    assert made in {expected} and not made < expected and made <= expected
    for one in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):  # noqa: S301
        assert one == expected and one.is_safe is SafeUUID.unknown
    assert pickle.dumps(made) == pickle.dumps(expected)
    with pytest.raises(TypeError):
        made.int = 5  # type: ignore[misc]
    assert msgspec.json.encode(made) == msgspec.json.encode(expected)


def test_entries_are_independent() -> None:
    """Each has values of its own, and outlives the messages."""
    rows = [forged(number, id=bytes([number]) * 16) for number in range(1, 200)]
    entries, _ = taken(rows)
    assert [entry.id for entry in entries] == [UUID(bytes=bytes([number]) * 16) for number in range(1, 200)]
    copied = pickle.loads(pickle.dumps(entries))  # noqa: S301
    assert copied == entries == list(map(entry_of, rows))
