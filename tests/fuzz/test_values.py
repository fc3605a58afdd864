"""Events of any Python values: InvalidEvent, or an entry that every reader of the format can read."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Event, Ledger
from ledger.errors import InvalidEvent
from ledger.events import GENESIS
from ledger.format.canonical import body_bytes, draft, envelope_of
from ledger.format.decode import parse_body, parse_envelope
from tests.fuzz.profile import bounded, fuzz
from tests.support.helpers import checked


class Said(str):
    """A string of somebody's own."""


class Kind(enum.Enum):
    NESTED = ("a", float("nan"))
    TEXT = "\0"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Line:
    price: Any


class Order(msgspec.Struct):
    lines: Any


class Nowhere(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


Point = namedtuple("Point", "x y")


def _cycle() -> list[Any]:
    items: list[Any] = []
    items.append({"a": items})
    return items


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD: list[Any] = [
    *(object(), object, print, {1, "a"}, frozenset("a"), range(3), 1j, ..., msgspec.UNSET, msgspec.Raw(b"nonsense")),
    *({1: 2}, {None: 1}, {b"a": 1}, {(1, 2): 3}, {Said("a"): 1}, {}, [], (), {"a": {"": []}}, OrderedDict(b=1, a=2)),
    *(Kind.NESTED, Kind.TEXT, Level.HIGH, Line({1: 2}), Order(Line("\0")), Point(1, "\ud800"), memoryview(b"a")),
    *(bytearray(b"a"), b"\xff", _deep(64), _deep(65), 10**4000, -(2**70), 0, True, None, Said("a"), Said("\ud800")),
    *("", "\0", "\udcff", "a" * 300_000, "é" * 255, "user:42", "ledger.x", float("nan"), float("-inf"), 5e-324, -0.0),
    *(Decimal("NaN"), Decimal("1e999999"), date.min, time(1), timedelta.max, UUID(int=0), datetime.min),
    *(datetime.max.replace(tzinfo=UTC), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    datetime(2026, 1, 1, tzinfo=Nowhere()),
]
odd = st.sampled_from(ODD)
plain = st.text(max_size=8) | st.integers() | st.floats() | st.none() | st.booleans() | st.binary(max_size=4)
values = st.recursive(
    odd | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
short = odd | st.text(max_size=5)
fields = st.fixed_dictionaries(
    {"actor": st.just("user:42") | odd, "action": st.just("a.b") | odd},
    optional={
        **dict.fromkeys(("before", "after", "metadata"), values),
        **dict.fromkeys(("resource_type", "resource_id", "actor_type", "idempotency_key"), short),
        "id": odd | st.uuids(),
        "occurred_at": odd | st.datetimes(timezones=st.just(UTC)),
    },
)


@fuzz(60)
@given(fields)
@example({"actor": "a", "action": "b", "occurred_at": datetime(2026, 1, 1, tzinfo=Nowhere())})
@example({"actor": "a", "action": "b", "before": Kind.NESTED, "after": [Kind.TEXT], "metadata": Line(Order("\ud800"))})
def test_an_event_is_refused_or_read_back(said: dict[str, Any]) -> None:
    with bounded():
        try:
            made = draft(Event(**said), "main", now=0, entry_id=bytes(16), salt=bytes(16))
        except InvalidEvent as error:
            assert error.path and error.problem
            str(error).encode(errors="backslashreplace")
            return
    envelope = envelope_of(made, 1, GENESIS, b"2026-11-22T16:00:00.000007Z")
    assert parse_envelope(envelope).actor == said["actor"]
    body = body_bytes(made.before, made.after, made.metadata, made.salt)
    texts = [None if text is None else text.decode() for text in (made.before, made.after, made.metadata)]
    assert parse_body(body) == (*texts, made.salt)
    for text in texts:
        if text is not None:
            json.loads(text, parse_constant=_refuse)


@pytest.mark.parametrize(
    "make", [_cycle, lambda: _deep(2000), lambda: _deep(100_000), lambda: 10**5000, lambda: 10**200_000]
)
def test_what_cannot_even_be_shown(make: Callable[[], Any]) -> None:
    """Too deep, or too long a number, for Python to print."""
    for value in (make(), [make()], {"a": make()}, Line(make())):
        with bounded(), pytest.raises(InvalidEvent):
            draft(Event("a", "b", after=value), "main", now=0, entry_id=bytes(16), salt=bytes(16))


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


class Action(enum.StrEnum):
    SENT = "invoice.sent"


class Who(str, enum.Enum):  # noqa: UP042 - the older way, which prints its name
    USER = "user:42"


def test_strings_of_ones_own_are_recorded_as_what_they_hold(ledger: Ledger) -> None:
    for who in (Said("user:42"), Who.USER):
        said = Event(who, Action.SENT, resource_type=Said("invoice"), resource_id=Said("inv_7"))
        ledger.append(said)
        ledger.append_many([said] * 3)
    for entry in checked(ledger):
        assert (entry.actor, entry.action) == ("user:42", "invoice.sent")
        assert (entry.resource_type, entry.resource_id) == ("invoice", "inv_7")
        assert {type(each) for each in (entry.actor, entry.action)} == {str}
    assert ledger.verify().ok
