"""Stream entries read back: the core makes of them what Python makes, or leaves them to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.format.stored_row import Record
from tests.support.both.entries import both, compare_parts
from tests.support.forged_envelopes import Parts, broken, forged, parts_of, sound
from tests.support.forging import forged as row

NAMES = [b"envelope", b"body", b"hash"]


def is_plain(parts: Parts) -> bool:
    """The strings of its envelope have no escapes."""
    return b"\\" not in parts[0]


@given(sound)
def test_sound_entries(parts: Parts) -> None:
    assert compare_parts(parts) == is_plain(parts)


@given(forged())
def test_forged_entries(parts: Parts) -> None:
    compare_parts(parts)


@given(st.data(), sound)
def test_broken_entries(data: st.DataObject, parts: Parts) -> None:
    compare_parts(data.draw(broken(parts)))


@given(st.tuples(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=70)))
@example((b"", b"", b""))
@example((b"", b"", b"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"))  # the hash of nothing
def test_any_bytes(parts: Parts) -> None:
    compare_parts(parts)


_odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, 5, 1.5, "text", [], [b"a"], {}, b"", b"hash", bytearray(b"a"), True]
)


@given(sound, st.lists(st.tuples(st.integers(0, 6), _odd), max_size=2), st.integers(0, 8), st.booleans())
def test_fields_of_any_kind(parts: Parts, changes: list[tuple[int, Any]], length: int, reverse: bool) -> None:
    fields: list[Any] = [each for pair in zip(NAMES, parts, strict=True) for each in pair]
    for place, value in changes:
        fields[place % len(fields)] = value
    fields = fields[:length] + ([b"more", b"1"] if length == 8 else [])
    both(fields[::-1] if reverse else fields)
    both(tuple(fields))


@pytest.mark.parametrize(
    "fields", [None, 5, "envelope", b"envelope", {}, {b"envelope": b"1"}, [], [None], [b"envelope"]]
)
def test_what_is_no_list_of_fields(fields: Any) -> None:
    assert both(fields) is None


def test_other_orders_and_more_fields() -> None:
    envelope, body, hash_ = parts_of(Record(*row()))
    expected = both([b"envelope", envelope, b"body", body, b"hash", hash_])
    assert expected is not None
    assert both([b"hash", hash_, b"body", body, b"envelope", envelope]) == expected
    assert both([b"envelope", envelope, b"body", body, b"hash", hash_, b"erases", b"1"]) == expected
    assert both([b"envelope", b"x", b"envelope", envelope, b"body", body, b"hash", hash_]) == expected
    assert both([b"envelope", envelope, b"body", body, b"hash", hash_.upper()]) == expected
    assert both([b"envelope", envelope, b"body", body, b"hash", b" " + hash_]) == expected
