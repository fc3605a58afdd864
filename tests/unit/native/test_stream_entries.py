"""Stream entries read back: the core makes of them what Python makes, or leaves them to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.format.findings import Record
from tests.support.both.entries import both, compare_parts
from tests.support.forged_envelopes import (
    CHANGES,
    SALTS,
    TIMES,
    VALUES,
    WHOLE,
    Parts,
    body_of,
    broken,
    forged,
    parts_of,
    rehashed,
    sound,
    timed,
    whole_body,
)
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


ENVELOPE, BODY, _ = parts_of(Record(*row()))


def taken(envelope: bytes, body: bytes = BODY) -> bool:
    """Whether the core takes them, their hashes made true."""
    return compare_parts(rehashed(envelope, body, BODY))


def test_each_change_of_an_envelope() -> None:
    assert taken(ENVELOPE)
    refused = [change for change in CHANGES if not taken(ENVELOPE.replace(*change, 1))]
    assert len(refused) > len(CHANGES) // 2 and all(change[0] in ENVELOPE for change in CHANGES)


@pytest.mark.parametrize("text", TIMES)
@pytest.mark.parametrize("member", ["occurred_at", "recorded_at"])
def test_each_time(member: str, text: str) -> None:
    plain = ("2024-02-29T00:00:00.000000Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z")
    assert taken(timed(ENVELOPE, member, text)) == (text in plain)


@pytest.mark.parametrize("text", VALUES, ids=lambda text: repr(text)[:30])
def test_each_value(text: str) -> None:
    some = [
        body_of(text),
        body_of(before=text),
        body_of(metadata=text),
        body_of(f"[1,{text}]"),
        body_of(f'{{"a":{text}}}'),
    ]
    for body in some:
        taken(ENVELOPE, body)


def test_each_body() -> None:
    for body in [*map(whole_body, WHOLE), *(body_of(salt=salt) for salt in SALTS)]:
        assert not taken(ENVELOPE, body)


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
