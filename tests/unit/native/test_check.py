"""Stored rows checked by the core: it takes exactly those that Python takes for sound, and leaves the same behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.events import GENESIS
from ledger.format.canonical import body_bytes
from ledger.format.findings import BEGINNING, Link, Record
from ledger.format.quarantine_record import Mark, digests
from ledger.format.rules import LIMITS, MAX_BODY, Columns
from tests.support.both.checks import before, compare_one, compare_runs
from tests.support.forged_rows import (
    FIRST_TIME,
    LAST_TIME,
    SOUND_TIME,
    chains,
    damaged,
    forged_chains,
    hashed,
    times,
)
from tests.support.forging import forged

links = st.builds(
    Link,
    st.sampled_from([0, 1, 7, 2**63 - 1, -(2**63)]),
    st.sampled_from([None, GENESIS, b"", bytes(31)]),
    st.sampled_from([None, GENESIS]),
    st.none() | times,
)


@given(chains(4))
def test_sound_rows(rows: list[Columns]) -> None:
    for row in rows:
        plain = row.salt is not None and not row.action.startswith("ledger.")
        assert compare_one(row, before(row)) == plain


@given(forged_chains(3), st.booleans())
def test_forged_rows(rows: list[Columns], judged: bool) -> None:
    """Each by itself, judged by the link that it names or by the row before it."""
    last = BEGINNING._replace(recorded=SOUND_TIME)
    for row in rows:
        own = isinstance(row.position, int) and isinstance(row.recorded, int) and row.position > -(2**63)
        compare_one(row, before(row) if own and judged else last)
        if own:
            last = Link(row.position, row.hash, row.hash, row.recorded)


@given(st.data(), chains(1))
def test_damaged_rows(data: st.DataObject, rows: list[Columns]) -> None:
    compare_one(data.draw(damaged(rows[0])), before(rows[0]))


@given(chains(1), links, st.sets(st.integers(-1, 2)))
def test_what_a_row_is_judged_by(rows: list[Columns], last: Link, known: set[int]) -> None:
    [row] = rows
    compare_one(row, last, known)
    compare_one(hashed(row._replace(position=1, prev_hash=GENESIS)), last, known)


def _row(column: str, value: Any) -> Columns:
    """Sound but for that column, with a resource."""
    columns: dict[str, Any] = {"resource_type": "a", "resource_id": "b", column: value}
    return forged(**columns)


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("character", ["a", "é", "€", "\U0001f600"])
def test_texts_at_their_limits(field: str, character: str) -> None:
    for length in (0, 1, LIMITS[field], LIMITS[field] + 1):
        row = _row(field, character * length)
        assert compare_one(row, before(row)) == (0 < length <= LIMITS[field])


@pytest.mark.parametrize("field", LIMITS)
def test_texts_that_no_rule_allows(field: str) -> None:
    for text in (None, "a\0b", "\0"):
        row = _row(field, text)
        assert not compare_one(row, before(row))
    row = _row(field, '\x01\x1f"\\/\x7f\u2028\b\t\n\f\r')
    assert compare_one(row, before(row))


_FRAME = len(body_bytes(b"", b"null", b"null", bytes(16)))


@pytest.mark.parametrize(
    ("after", "sound"),
    [
        *((b"[" * levels + b"]" * levels, levels < 64) for levels in (62, 63, 64)),  # the body's own bracket is one
        *((b'"' + b"{" * count + b'"', count < 64) for count in (63, 64)),
        *((b'"' + b"a" * (MAX_BODY - _FRAME - 2 + more) + b'"', more <= 0) for more in (-1, 0, 1)),
        (b'"\\u0041"', False),
        (b'"\\\\u"', False),  # which only a closer look tells from an escape
        (b'"\\\\"', True),
        (b'"\\', True),
        (b"[1,\n2]", False),
        (b"[1,\r2]", False),
        (b'"\xff"', True),
        (b"no JSON\0", True),
        (b"", True),
    ],
)
def test_bodies(after: bytes, sound: bool) -> None:
    row = forged(after=after)
    assert compare_one(row, before(row)) == sound


@pytest.mark.parametrize(
    "action", ["ledger.", "ledger.entry_erased", "ledger.nonsense", "ledger", "Ledger.a", "ledgers"]
)
def test_actions(action: str) -> None:
    row = forged(action=action)
    assert compare_one(row, before(row)) == (not action.startswith("ledger."))


@pytest.mark.parametrize("moment", [FIRST_TIME, LAST_TIME, FIRST_TIME - 1, LAST_TIME + 1, 2**63 - 1, -(2**63), 0, -1])
def test_times_at_both_ends(moment: int) -> None:
    for column in ("recorded", "occurred"):
        row = _row(column, moment)
        assert compare_one(row, before(row)) == (FIRST_TIME <= moment <= LAST_TIME)


# -------------------------------------------------------------------------------------------- whole runs over messages


_steps = st.sampled_from([1, 2, 3, 100])


@given(chains(8) | forged_chains(8), st.just(BEGINNING) | links, _steps)
@example([], BEGINNING, 1)
def test_whole_runs(rows: list[Columns], last: Link, step: int) -> None:
    rows = [row for row in rows if row.position is not None]  # the primary key's
    compare_runs(rows, last, {}, step)


@given(st.data(), forged_chains(8), _steps)
def test_whole_runs_with_quarantined_entries(data: st.DataObject, rows: list[Columns], step: int) -> None:
    rows = [row for row in rows if row.position is not None]
    known: dict[int, list[Mark]] = {}
    for position in data.draw(st.sets(st.sampled_from([*(row.position for row in rows), 3, 4]), max_size=3)):
        there = [Record(*row) for row in rows if row.position == position]
        stands = digests(data.draw(st.sampled_from([there, there, []])))
        hash_ = data.draw(st.sampled_from([GENESIS, *(row.hash for row in there if row.hash is not None)]))
        known[position] = [
            Mark(position, 99, "user:ops", SOUND_TIME, "ticket 7", ("hash_mismatch",), hash_, stands.row, stands.body)
        ]
    compare_runs(rows, BEGINNING, known, step)


def test_a_long_sound_chain() -> None:
    """Longer than what is looked at without the interpreter's lock at a time."""
    rows: list[Columns] = []
    for number in range(1, 301):
        rows.append(forged(number, rows[-1].hash if rows else GENESIS))
    for step in (1, 63, 64, 65, 1000):
        said, _ = compare_runs(rows, BEGINNING, {}, step)
        assert said[:4] == ([], 0, 300, Link(300, rows[-1].hash, rows[-1].hash, rows[-1].recorded))
    rows[150] = rows[150]._replace(actor="user:43")
    said, _ = compare_runs(rows, BEGINNING, {}, 1000)
    assert [(finding.position, finding.kind) for finding in said[0]] == [(151, "hash_mismatch")]
