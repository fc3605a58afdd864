"""Bodies: what they may contain, how they are encoded, and refusals with the path."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidEvent
from ledger.format import json_text

NAIVE = datetime(2026, 11, 22, 16, 0)
AWARE = datetime(2026, 11, 22, 16, 0, 0, 7, tzinfo=timezone(timedelta(hours=1)))


AMSTERDAM = timezone(timedelta(minutes=19, seconds=32))
"""Until 1937."""


class Own(str):
    """Equal to itself alone."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Status(enum.Enum):
    SENT = "sent"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Line:
    price: Any
    sku: str = "a"


class Invoice(msgspec.Struct):
    lines: list[Line]
    at: Any = None


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


@given(json_values)
def test_what_goes_in_comes_out(value: Any) -> None:
    text = json_text.json_text(value, "after")
    if value is None:
        assert text is None
    else:
        assert text is not None
        assert json.loads(text) == value


@given(st.dictionaries(texts, st.integers(-(2**63), 2**64) | texts | st.booleans() | st.none(), min_size=1))
def test_bodies_are_compact_sorted_and_unescaped(value: dict[str, Any]) -> None:
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert json_text.json_text(value, "after") == expected.encode()


@given(json_values)
def test_a_body_is_one_line(value: Any) -> None:
    text = json_text.json_text({"a": value}, "after")
    assert text is not None
    assert b"\n" not in text
    assert b"\r" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (AWARE, '"2026-11-22T16:00:00.000007+01:00"'),
        (datetime(2026, 11, 22, tzinfo=UTC), '"2026-11-22T00:00:00Z"'),
        (date(2026, 11, 22), '"2026-11-22"'),
        (time(1, 2, 3, 4), '"01:02:03.000004"'),
        (time(1, 2, tzinfo=timezone(timedelta(hours=-1))), '"01:02:00-01:00"'),
        (datetime(2026, 6, 1, tzinfo=ZoneInfo("Europe/Amsterdam")), '"2026-06-01T00:00:00+02:00"'),
        ({Own("b"): 1, Own("a"): 2}, '{"a":2,"b":1}'),
        (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (Decimal("1.50"), '"1.50"'),
        (Status.SENT, '"sent"'),
        (Level.HIGH, "3"),
        (Line(Decimal("1.0")), '{"price":"1.0","sku":"a"}'),
        (Invoice([Line(1)], AWARE), '{"at":"2026-11-22T16:00:00.000007+01:00","lines":[{"price":1,"sku":"a"}]}'),
        ({3, 1, 2}, "[1,2,3]"),
        (frozenset("ba"), '["a","b"]'),
        ((1, (2,)), "[1,[2]]"),
        (b"\x00\xff", '"AP8="'),
        (2**200, str(2**200)),
        (OrderedDict(b=1, a=2), '{"a":2,"b":1}'),
        ("NaN", '"NaN"'),
        ("2026-11-22T16:00:00", '"2026-11-22T16:00:00"'),
        ("\\u0000", '"\\\\u0000"'),
        ({"null": None}, '{"null":null}'),
        (False, "false"),
        ("", '""'),
    ],
)
def test_whatever_msgspec_encodes_is_accepted(value: Any, text: str) -> None:
    assert json_text.json_text(value, "after") == text.encode()


def nested(levels: int) -> Any:
    value: Any = 0
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({"lines": [{"price": float("nan")}]}, "after.lines[0].price", "nan is not JSON"),
        ([1, float("inf")], "after[1]", "inf is not JSON"),
        ({"a": -float("inf")}, "after.a", "-inf is not JSON"),
        ({"a": (Decimal("NaN"),)}, "after.a[0]", "NaN is not JSON"),
        (Decimal("-Infinity"), "after", "-Infinity is not JSON"),
        ({"a": Decimal("sNaN")}, "after.a", "sNaN is not JSON"),
        (Line(float("nan")), "after.price", "nan is not JSON"),
        (Invoice([Line(1), Line(Decimal("NaN"))]), "after.lines[1].price", "NaN is not JSON"),
        ({"a": ["x\0y"]}, "after.a[0]", "contains U+0000"),
        ({"a": {"x\0y": 1}}, "after.a", "a key contains U+0000"),
        ({"a": "\ud83d"}, "after.a", "contains a lone surrogate"),
        (["\udc00x"], "after[0]", "contains a lone surrogate"),
        ({"\ud800": 1}, "after", "a key contains a lone surrogate"),
        ({1: "a"}, "after", "the key 1 is not a string"),
        ({"a": [{None: 1}]}, "after.a[0]", "the key None is not a string"),
        ({"a": {True: 1}}, "after.a", "the key True is not a string"),
        ({"a": {UUID(int=7): 1, "b": 2}}, "after.a", "the key UUID"),
        ({"a": {NAIVE: 1}}, "after.a", "the key datetime"),
        ({"at": NAIVE}, "after.at", "a naive datetime"),
        (Invoice([], NAIVE), "after.at", "a naive datetime"),
        (Line({"x": NAIVE.replace(microsecond=7)}), "after.price.x", "a naive datetime"),
        ({"a": [Line(NAIVE)]}, "after.a[0].price", "a naive datetime"),
        ({"a": {NAIVE}}, "after.a[0]", "a naive datetime"),
        (nested(65), "after" + ".a[0]" * 32, "deeper than 64 levels"),
        (circle(), "after", "deeper than 64 levels"),
        ({"a": object()}, "after.a", "cannot be written as JSON"),
        ([lambda: 0], "after[0]", "cannot be written as JSON"),
        ({"a": {1, "x"}}, "after", "cannot be written as JSON"),
        ({"a": [datetime(1890, 1, 1, tzinfo=AMSTERDAM)]}, "after.a[0]", "its UTC offset, 0:19:32, has seconds"),
        (Line(datetime(1890, 1, 1, tzinfo=AMSTERDAM)), "after.price", "its UTC offset, 0:19:32, has seconds"),
        ([datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1)))], "after[0]", "its UTC offset"),
        ([time(1, 2, tzinfo=AMSTERDAM)], "after[0]", "a time of day whose UTC offset"),
        ([time(1, 2, tzinfo=ZoneInfo("Europe/Amsterdam"))], "after[0]", "a time of day whose UTC offset"),
        ({"a": {Own("k"): 1, Own("k"): 2}}, "after.a", "two keys are 'k'"),
        ([memoryview(b"abcd")[::2]], "after", "cannot be written as JSON"),
    ],
)
def test_what_the_format_does_not_allow_is_refused_with_its_path(value: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        json_text.json_text(value, "after")
    assert refused.value.path == path
    assert refused.value.problem.startswith(problem)
    assert str(refused.value) == f"{refused.value.path}: {refused.value.problem}"


def test_64_levels_and_any_number_of_siblings_are_allowed() -> None:
    assert json.loads(json_text.json_text(nested(64), "after") or b"") == nested(64)
    siblings: list[Any] = [[] for _ in range(200)]
    assert json.loads(json_text.json_text(siblings, "after") or b"") == siblings


@pytest.mark.parametrize("raw", [b"no JSON", b"", b"{\n}", b'{"b":1, "a":2}'])
def test_ready_made_json_cannot_smuggle_in_what_is_not_canonical(raw: bytes) -> None:
    """msgspec copies Raw as it is. Refused or written anew: what is stored is compact, sorted, valid JSON."""
    for value in (msgspec.Raw(raw), {"a": msgspec.Raw(raw)}, Line(msgspec.Raw(raw))):
        try:
            text = json_text.json_text(value, "after")
        except InvalidEvent:
            continue
        assert text is not None
        canonical_text = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        assert text == canonical_text.encode()


@given(value=json_values)
def test_every_writer_stores_the_same_text_for_the_same_value(value: Any) -> None:
    """Whatever the order in which keys were put in: what is sent twice must be known again."""

    def turned(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: turned(inner[key]) for key in reversed(inner)}
        return [turned(item) for item in inner] if isinstance(inner, list) else inner

    assert json_text.json_text(turned(value), "after") == json_text.json_text(value, "after")
