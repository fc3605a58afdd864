"""Events of any values that Python has: InvalidEvent, or an entry that every reader of the format reads back."""

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
from ledger.canonical import body_bytes, draft, envelope_of
from ledger.envelopes import parse_body, parse_envelope
from ledger.errors import InvalidEvent
from ledger.events import GENESIS
from tests.fuzz.profile import bounded, fuzz
from tests.support import checked


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


Point = namedtuple("Point", "x y")  # noqa: PYI024


def _cycle() -> list[Any]:
    items: list[Any] = []
    items.append({"a": items})
    return items


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD: list[Callable[[], Any]] = [
    *(object, lambda: object, lambda: print, lambda: (each for each in (1, 2)), lambda: {1, "a"}, lambda: frozenset("a")),
    *(lambda: {1: 2}, lambda: {None: 1}, lambda: {b"a": 1}, lambda: {(1, 2): 3}, lambda: {Said("a"): 1}, dict, list),
    *(lambda: Kind.NESTED, lambda: Kind.TEXT, lambda: Level.HIGH, lambda: Line({1: 2}), lambda: Order(Line("\0"))),
    *(lambda: Point(1, "\ud800"), lambda: OrderedDict(b=1, a=2), lambda: memoryview(b"a"), lambda: bytearray(b"a")),
    *(lambda: msgspec.Raw(b"nonsense"), lambda: msgspec.UNSET, lambda: range(3), lambda: 1j, lambda: ...),
    *(lambda: _deep(64), lambda: _deep(65), lambda: 10**4000, lambda: -(2**70)),
    *(lambda: Said("a"), lambda: Said("\ud800"), lambda: "\0", lambda: "\udcff", lambda: "a" * 300_000, lambda: "é" * 255),
    *(lambda: float("nan"), lambda: float("-inf"), lambda: 5e-324, lambda: -0.0, lambda: Decimal("NaN"), lambda: Decimal("1e999999")),
    *(lambda: datetime.min, lambda: datetime.max.replace(tzinfo=UTC), lambda: datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    *(lambda: datetime(2026, 1, 1, tzinfo=Nowhere()), lambda: date.min, lambda: time(1), lambda: timedelta.max, lambda: UUID(int=0)),
    *(lambda: True, lambda: None, lambda: 0, lambda: "", lambda: b"\xff", lambda: "user:42", lambda: "ledger.x"),
]  # fmt: skip
odd = st.sampled_from(ODD).map(lambda make: make())
plain = st.text(max_size=8) | st.integers() | st.floats() | st.none() | st.booleans() | st.binary(max_size=4)
values = st.recursive(odd | plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)
fields = st.fixed_dictionaries(
    {"actor": st.just("user:42") | odd, "action": st.just("a.b") | odd},
    optional={
        **{name: values for name in ("before", "after", "metadata")},
        **{name: odd | st.text(max_size=5) for name in ("resource_type", "resource_id", "actor_type")},
        "id": odd | st.uuids(), "idempotency_key": odd | st.text(max_size=5), "occurred_at": odd | st.datetimes(timezones=st.just(UTC)),
    },
)  # fmt: skip


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


@pytest.mark.parametrize("make", [_cycle, lambda: _deep(2000), lambda: _deep(100_000), lambda: 10**5000, lambda: 10**200_000])
def test_what_cannot_even_be_shown(make: Callable[[], Any]) -> None:
    """Too deep, or too long a number, for Python to print."""
    for value in (make(), [make()], {"a": make()}, Line(make())):
        with bounded(), pytest.raises(InvalidEvent):
            draft(Event("a", "b", after=value), "main", now=0, entry_id=bytes(16), salt=bytes(16))


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


class Action(enum.StrEnum):
    SENT = "invoice.sent"


class Who(str, enum.Enum):
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
