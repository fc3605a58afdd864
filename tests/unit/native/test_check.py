"""Stored rows checked by the core: it takes exactly the rows that Python takes for sound, and leaves the same behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.events import GENESIS
from ledger.format import native
from ledger.format.canonical import body_bytes
from ledger.format.findings import BEGINNING, Link
from ledger.format.quarantine_record import Mark, digests
from ledger.format.rules import LIMITS, MAX_BODY, Columns
from ledger.format.stored_row import Record
from ledger.verify.entries import _Check
from tests.support.copy_messages import message, messages
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
from tests.unit.native.leaves import Leaves

links = st.builds(
    Link,
    st.sampled_from([0, 1, 7, 2**63 - 1, -(2**63)]),
    st.sampled_from([None, GENESIS, b"", bytes(31)]),
    st.sampled_from([None, GENESIS]),
    st.none() | times,
)


def compare_one(values: Any, before: Link, known: set[int] | None = None) -> bool:
    """Whether the core takes this row for sound, which must be what Python says of it."""
    data = message(values)
    core = native.core.Check("main", known or set(), True)
    core.go_on(*before)
    taken = core.take([data], 0)
    assert taken in ((0, 0), (1, 1))
    try:
        row = native.core.columns(data)
    except UnicodeDecodeError:
        assert taken == (0, 0)
        return False
    leaves = Leaves()
    python = _Check("main", before, leaves, {})
    sound = python._is_sound(row) and row[0] not in (known or set())
    assert (taken == (1, 1)) == sound
    if sound:
        assert Link(*core.last()) == python.walk.last
        assert core.leaves() == leaves.hashes
    else:
        assert Link(*core.last()) == before and core.leaves() == b""
    return sound


def before(row: Columns) -> Link:
    return Link(row.position - 1, row.prev_hash, row.prev_hash, row.recorded)


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


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("character", ["a", "é", "€", "\U0001f600"])
def test_texts_at_their_limits(field: str, character: str) -> None:
    for length in (0, 1, LIMITS[field], LIMITS[field] + 1):
        row = forged(**{"resource_type": "a", "resource_id": "b", field: character * length})
        assert compare_one(row, before(row)) == (0 < length <= LIMITS[field])


@pytest.mark.parametrize("field", LIMITS)
def test_texts_that_no_rule_allows(field: str) -> None:
    for text in (None, "a\0b", "\0"):
        row = forged(**{"resource_type": "a", "resource_id": "b", field: text})
        assert not compare_one(row, before(row))
    row = forged(**{"resource_type": "a", "resource_id": "b", field: '\x01\x1f"\\/\x7f\u2028\b\t\n\f\r'})
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


@pytest.mark.parametrize("action", ["ledger.", "ledger.entry_erased", "ledger.nonsense", "ledger", "Ledger.a", "ledgers"])
def test_actions(action: str) -> None:
    row = forged(action=action)
    assert compare_one(row, before(row)) == (not action.startswith("ledger."))


@pytest.mark.parametrize("moment", [FIRST_TIME, LAST_TIME, FIRST_TIME - 1, LAST_TIME + 1, 2**63 - 1, -(2**63), 0, -1])
def test_times_at_both_ends(moment: int) -> None:
    for column in ("recorded", "occurred"):
        row = forged(**{column: moment})
        assert compare_one(row, before(row)) == (FIRST_TIME <= moment <= LAST_TIME)


# -------------------------------------------------------------------------------------------- whole runs over messages


def ran(rows: list[Any], last: Link, known: dict[int, list[Mark]], step: int, *, core: bool, leaves: bool) -> Any:
    """What a whole check of these rows comes to, which come in lists of `step` messages."""
    taker = Leaves() if leaves else None
    check = _Check("main", last, taker, known)
    whole = messages(rows)
    for start in range(0, len(whole), step):
        some = whole[start : start + step]
        if core:
            check.take_messages(some)
        else:
            for row in filter(None, map(native.core.columns, some)):
                check.take(row)
    check.examine_group()
    check.pass_holes(len(rows) + 2)
    said = check.findings.kept, check.findings.more, check.entries, check.walk.last, check.own, check.erased
    return said, taker and taker.said


def compare_runs(rows: list[Any], last: Link, known: dict[int, list[Mark]], step: int) -> Any:
    for leaves in (True, False):
        with_core = ran(rows, last, known, step, core=True, leaves=leaves)
        assert with_core == ran(rows, last, known, step, core=False, leaves=leaves)
    return with_core


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
