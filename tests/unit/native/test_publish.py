"""What the relay publishes of stored rows: the same entries of the stream, with the core and without."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.events import GENESIS
from ledger.format import native
from ledger.format.findings import BEGINNING, Link
from ledger.format.rules import Columns
from tests.support.both.published import compare
from tests.support.copy_messages import message
from tests.support.forged_rows import SOUND_TIME, chains, damaged, forged_chains, times
from tests.support.forging import forged

links = st.builds(
    Link,
    st.sampled_from([0, 1, 7, 2**63 - 1, -(2**63)]),
    st.sampled_from([None, GENESIS, b"", bytes(31), b"\1" * 32]),
    st.sampled_from([None, GENESIS, b"\1" * 32]),
    st.none() | times,
)


_steps = st.sampled_from([1, 2, 3, 100])
_limits = st.sampled_from([1, 500, 700, 1000, 1500, 2000, 3000, 2**22])


@given(chains(8), _limits, _steps)
def test_sound_chains(rows: list[Columns], most_bytes: int, step: int) -> None:
    entries = compare(rows, BEGINNING, most_bytes, step)
    assert [entry.position for entry in entries] == [row.position for row in rows][: len(entries)]
    if most_bytes == 2**22:
        assert len(entries) == len(rows)


@given(forged_chains(8), st.just(BEGINNING) | links, _limits, _steps)
@example([], BEGINNING, 1, 1)
def test_forged_chains(rows: list[Columns], before: Link, most_bytes: int, step: int) -> None:
    compare([row for row in rows if row.position is not None], before, most_bytes, step)


@given(chains(1), links)
def test_what_the_first_is_judged_by(rows: list[Columns], before: Link) -> None:
    compare(rows, before)
    compare(
        [forged(before.position + 1, prev) for prev in (GENESIS, b"\1" * 32) if before.position < 2**63 - 1], before
    )


def forgets(data: bytes, before: Link) -> bool:
    """Whether the core leaves a row to Python, which it must without a change of what it goes on from."""
    core = native.core.Publish("main")
    core.go_on(*before)
    made: list[Any] = []
    left = bool(core.take([data], 0, 2**22, made) == (0, 0))
    assert left == (not made) == (Link(*core.last()) == before)
    return left


@given(st.data(), chains(1))
def test_damaged_rows(data: st.DataObject, rows: list[Columns]) -> None:
    """Of a text that is no UTF-8 nothing is published; of others what Python makes."""
    values = data.draw(damaged(rows[0]))
    left = forgets(message(values), BEGINNING)
    try:
        compare([values], BEGINNING)
    except UnicodeDecodeError:
        assert left


@pytest.mark.parametrize("column", Columns._fields)
def test_a_null_in_any_column(column: str) -> None:
    null: dict[str, Any] = {column: None}
    if column != "position":
        row = forged(resource_type="a", resource_id="b")
        compare([row._replace(**null), forged(2, row.hash)], BEGINNING)
        compare([forged(**{"resource_type": "a", "resource_id": "b"} | null)], BEGINNING)


def test_erased_entries_and_what_is_left_of_them() -> None:
    row = forged(before=b"1", metadata=b"2")
    [entry] = compare([row.without_body()], BEGINNING)
    assert entry.body == b"" and not forgets(message(row.without_body()), BEGINNING)
    assert compare([row._replace(salt=None)], BEGINNING) == []
    assert compare([row._replace(salt=b"")], BEGINNING) == []


def test_an_erasure_names_what_it_erases() -> None:
    first = forged()
    erasure = forged(2, first.hash, action="ledger.entry_erased", resource_type="ledger.entry", resource_id="1")
    other = forged(3, erasure.hash, action="ledger.nonsense")
    rows = [first, erasure, other, forged(4, other.hash)]
    for step in (1, 2, 100):
        assert [entry.erases for entry in compare(rows, BEGINNING, step=step)] == ["", "1", "", ""]


def test_a_position_twice() -> None:
    first = forged()
    second = forged(2, first.hash)
    rows = [first, first, first._replace(actor="user:43"), second, second]
    for step in (1, 2, 100):
        assert [entry.position for entry in compare(rows, BEGINNING, step=step)] == [1, 2]


def test_a_batch_ends_at_its_limit() -> None:
    rows: list[Columns] = []
    for number in range(1, 201):
        rows.append(forged(number, rows[-1].hash if rows else GENESIS, after=b'"%b"' % (b"x" * number)))
    sizes = [len(entry.envelope) + len(entry.body) for entry in compare(rows, BEGINNING)]
    for count in (1, 2, 63, 64, 65, 128, 199, 200):
        for more in (-1, 0, 1):
            entries = compare(rows, BEGINNING, sum(sizes[:count]) + more)
            assert len(entries) == min(200, count + (more > 0))


def test_times_do_not_run_back() -> None:
    first = forged(recorded=SOUND_TIME)
    for moment, count in ((SOUND_TIME - 1, 1), (SOUND_TIME, 2), (SOUND_TIME + 1, 2)):
        assert len(compare([first, forged(2, first.hash, recorded=moment)], BEGINNING)) == count
