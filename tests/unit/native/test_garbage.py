"""Messages that are no rows: ValueError, whoever takes them, and neither a panic nor memory for what is not there."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.format import native
from tests.support.both.messages import NO_ROW, TAKERS, take_columns, tried
from tests.support.copy_messages import HEADER, TRAILER, message
from tests.support.forged_rows import chains, damaged
from tests.support.forging import forged

SOUND = message(forged())
_lengths = st.sampled_from([-2, -1, 0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 2**31 - 1, -(2**31)])


@st.composite
def _lying(draw: st.DrawFn) -> bytes:
    """A row, some of whose lengths are not those of what follows, or which has more or fewer fields."""
    fields = [draw(st.binary(max_size=40)) for _ in range(draw(st.sampled_from([0, 1, 15, 16, 16, 16, 17, 100])))]
    count = draw(st.sampled_from([len(fields), 16, -1, 0, 17, -(2**15), 2**15 - 1]))
    parts = [
        draw(st.sampled_from([struct.pack(">i", len(field)), None])) or struct.pack(">i", draw(_lengths))
        for field in fields
    ]
    return struct.pack(">h", count) + b"".join(part + field for part, field in zip(parts, fields, strict=True))


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from([SOUND, HEADER + SOUND, HEADER, TRAILER]))
    at = draw(st.integers(0, len(data)))
    more = draw(
        st.sampled_from([b"", b"\0", b"\xff", HEADER, TRAILER, SOUND, b"\x7f\xff\xff\xff"]) | st.binary(max_size=4)
    )
    return draw(
        st.sampled_from([data[:at], data[at:], data[:at] + more + data[at:], data[:at] + more + data[at + len(more) :]])
    )


@given(st.lists(st.binary(max_size=200) | _lying() | _changed(), max_size=4))
@example([b""])
@example([HEADER])
@example([HEADER + TRAILER, TRAILER, b"", SOUND])
@example([HEADER + HEADER + SOUND])
@example([struct.pack(">h", 16) + struct.pack(">i", -1) * 16])
@example([struct.pack(">h", 16) + struct.pack(">i", 0) * 16])
def test_any_bytes(taken: list[bytes]) -> None:
    tried(taken)
    tried([SOUND, *taken, SOUND])


@given(st.data(), chains(3))
def test_damaged_rows(data: st.DataObject, rows: list[Any]) -> None:
    tried([message(data.draw(damaged(row))) for row in rows])


def _without(row: list[Any], place: int, value: Any) -> bytes:
    return message([*row[:place], value, *row[place + 1 :]])


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [b"", bytes(4), bytes(7), bytes(9), bytes(15), bytes(17)], ids=len)
def test_numbers_and_ids_of_another_length(take: Callable[[list[bytes]], None], place: int, value: bytes) -> None:
    """No value of Postgres is so: it is not taken for NULL, nor passed over."""
    with pytest.raises(ValueError, match=NO_ROW):
        take([_without(list(forged()), place, value)])


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("count", [0, 1, 15, 17])
def test_more_fields_or_fewer(take: Callable[[list[bytes]], None], count: int) -> None:
    with pytest.raises(ValueError, match=NO_ROW):
        take([message([*forged(), None][:count])])


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("end", [1, 2, 5, len(SOUND) // 2, len(SOUND) - 1])
def test_a_row_that_was_cut_off(take: Callable[[list[bytes]], None], end: int) -> None:
    with pytest.raises(ValueError, match=NO_ROW):
        take([SOUND[:end]])
    with pytest.raises(ValueError, match=NO_ROW):
        take([SOUND + SOUND[:end]])


@pytest.mark.parametrize("place", range(4, 12))
def test_texts_that_are_no_utf_8(place: int) -> None:
    broken = _without(
        list(forged(resource_type="a", resource_id="b", before=b"1", metadata=b"1")), place, b"a\xed\xa0\x80"
    )
    with pytest.raises(UnicodeDecodeError):
        native.entries.take("main", [broken], [])
    if place < 9:
        with pytest.raises(UnicodeDecodeError):
            native.core.columns(broken)
    check, publish = native.core.Check("main", set(), True), native.core.Publish("main")
    assert check.take([broken], 0) == publish.take([broken], 0, 1000, []) == (0, 0)


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("value", [None, 5, "text", bytearray(SOUND), memoryview(SOUND), [SOUND]])
def test_what_is_no_message(take: Callable[[list[Any]], None], value: Any) -> None:
    if take is take_columns and isinstance(value, bytearray):
        return  # as good as bytes
    with pytest.raises(TypeError):
        take([value])


_LARGE = """
import resource, struct
from ledger.format import native
lie = struct.pack(">hi", 16, 8) + bytes(8) + struct.pack(">i", 2**31 - 1) + b"x" * 100
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(20):
    for take in (
        native.core.columns,
        lambda message: native.core.Check("main", set(), True).take([message], 0),
        lambda message: native.core.Publish("main").take([message], 0, 2**40, []),
        lambda message: native.entries.take("main", [message], []),
    ):
        try:
            take(lie)
        except ValueError:
            continue
        raise SystemExit("it was taken for a row")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_length_of_2_gib_takes_no_memory() -> None:
    ran = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran
    assert int(ran.stdout) < 20_000, "KiB more than before"
