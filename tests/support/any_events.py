"""Strategies of events: ordinary ones, and whatever else a caller may put into the fields of an Event."""

from __future__ import annotations

from collections import OrderedDict, UserString
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from ledger import Event
from ledger.format.rules import LIMITS


class Text(str):
    """A subclass that says something else than it holds."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Moment(datetime):
    pass


class Name(UUID):
    pass


class Number(IntEnum):
    ONE = 1


class Said(dict[str, Any]):
    pass


class Subevent(Event, frozen=True):
    pass


def itself() -> Any:
    value: list[Any] = []
    value.append({"a": value})
    return value


def nested(levels: int, kind: type = list) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


_plain_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
plain_texts = st.text(_plain_characters, min_size=1, max_size=64)
any_texts = st.text(st.characters(exclude_categories=[]), max_size=12)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | plain_texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_texts, inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
_utc = st.datetimes(timezones=st.just(UTC))
_offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_resources = st.none() | st.tuples(plain_texts, plain_texts)


@st.composite
def ordinary_events(draw: st.DrawFn) -> Event:
    """Events that the native core is to take."""
    resource = draw(_resources)
    named = draw(st.sampled_from(["no", "id", "key"]))
    return Event(
        actor=draw(plain_texts),
        action=draw(plain_texts.filter(lambda text: not text.startswith("ledger."))),
        resource_type=None if resource is None else resource[0],
        resource_id=None if resource is None else resource[1],
        actor_type=draw(plain_texts),
        before=draw(plain_values),
        after=draw(plain_values),
        metadata=draw(plain_values),
        id=draw(st.uuids()) if named == "id" else None,
        idempotency_key=draw(plain_texts) if named == "key" else None,
        occurred_at=draw(st.none() | _utc),
    )


ODD_VALUES: list[Any] = [
    *(2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, float("nan"), float("inf"), -float("inf"), -0.0),
    *(1e308, 5e-324, 1e16, 123456789012345680.0, Number.ONE, Decimal("1.10"), Decimal("NaN"), b"bytes", bytearray()),
    *(date(1, 1, 1), datetime(1, 1, 1), datetime.max.replace(tzinfo=UTC), timedelta(1), UUID(int=1), Name(int=1)),
    *(object(), {1, 2}, (), (1,), UserString("a"), Text("a"), Said(a=1), OrderedDict(b=1, a=2), type, 1j),
    *("\\u0000", "\0", "a\0", "\ud800", "\udfff", "\ud83d\ude00", "\u2028", "\x7f", "\ufeff", "\U0010ffff"),
    *([[]], {"": {}}, {"a": {"\0": 1}}, {"\ud800": 1}, {"\\u0000": 1}),
    *({1: 2}, {None: 1}, {True: 1}, {Text("a"): 1}, {b"a": 1}),
]
"""What a caller may put into a body; much of it no JSON has."""
_odd_leaves = (
    st.sampled_from(ODD_VALUES)
    | st.builds(itself)
    | st.builds(nested, st.sampled_from([63, 64, 65, 200]), st.sampled_from([list, dict]))
)
any_values = st.recursive(
    plain_values | _odd_leaves | any_texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(any_texts, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(plain_texts, inner, max_size=3).map(Said)
    ),
    max_leaves=5,
)
_of_no_text = st.sampled_from([None, 5, b"user:42", ["a"], 1.5, UserString("a"), Text("user:42"), Text(""), Text("\0")])


def _long(limit: int) -> st.SearchStrategy[str]:
    """Around the limit, in characters of one to four bytes."""
    lengths = st.sampled_from([limit - 1, limit, limit + 1, 4 * limit, 4 * limit + 1])
    return st.builds(str.__mul__, st.sampled_from(["a", "é", "€", "\U0001f600", '"', "\x01"]), lengths)


def _any_field(limit: int) -> st.SearchStrategy[Any]:
    return plain_texts | any_texts | _long(limit) | _of_no_text


_ODD_TIMES = [
    *(datetime.min, datetime.max, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
    *(
        datetime(2000, 2, 29, tzinfo=UTC),
        datetime(1900, 2, 28, 23, 59, 59, 999_999, UTC),
        datetime(2000, 1, 1, tzinfo=UTC),
    ),
    *(datetime(2026, 1, 1, tzinfo=UTC, fold=1), Moment(2026, 1, 1, tzinfo=UTC), Moment(2026, 1, 1), date(2026, 1, 1)),
    *(
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))),
    ),
    *(datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "UTC")), "2026-01-01T00:00:00Z", 5, 0.5, None),
]
any_times = st.sampled_from(_ODD_TIMES) | _utc | st.datetimes(timezones=_offsets) | st.datetimes()
_ids = st.none() | st.uuids() | st.sampled_from([Name(int=5), "00000000-0000-0000-0000-000000000001", 5, b"a" * 16])
_actions = st.sampled_from(["ledger.", "ledger.entry_erased", "ledger", Text("ledger.a"), "\ud800"])
_keys = st.none() | _any_field(1024)


@st.composite
def any_events(draw: st.DrawFn, most: int = 3) -> Event:
    """An ordinary event in which up to `most` fields hold anything."""
    event = draw(ordinary_events())
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    for name in draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=most, unique=True)):
        values[name] = draw(_FIELDS[name])
    return draw(st.sampled_from([Event, Event, Event, Subevent]))(**values)


_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{name: _any_field(limit) for name, limit in LIMITS.items()},
    "action": _any_field(LIMITS["action"]) | _actions,
    **dict.fromkeys(("before", "after", "metadata"), any_values),
    "id": _ids,
    "idempotency_key": _keys,
    "occurred_at": any_times,
}
no_events = st.sampled_from([None, 5, "event", {}, {"actor": "a", "action": "b"}, Event, object()])
