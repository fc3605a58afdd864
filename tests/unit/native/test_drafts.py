"""Drafts: what the core makes of an event is what Python makes; what Python refuses, the core leaves to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Event
from ledger.errors import InvalidEvent
from ledger.format import native
from ledger.format.rules import LIMITS, MAX_BODY
from tests.support.any_events import ODD_VALUES, any_events, nested, no_events, ordinary_events
from tests.support.both.drafts import NOW, RANDOM, compare, of_core, of_python, outcome


@given(ordinary_events(), st.booleans(), st.integers(0, 2**63 - 1), st.binary(min_size=26, max_size=26))
@example(Event("a", "b"), False, 0, bytes(26))
@example(Event("a", "b"), False, 2**63 - 1, b"\xff" * 26)
@example(Event("a", "b", occurred_at=datetime.min.replace(tzinfo=UTC)), False, NOW, RANDOM)
@example(Event("a", "b", occurred_at=datetime.max.replace(tzinfo=UTC)), False, NOW, RANDOM)
@example(Event("a" * 255, "b" * 128, "c" * 64, "d" * 255, "e" * 64, idempotency_key="f" * 1024), False, NOW, RANDOM)
@example(Event("é" * 255, "€" * 128, "\U0001f600" * 64, "é" * 255, "\x7f" * 64), False, NOW, RANDOM)
@example(Event("\x01" * 255, '"' * 128, "\\" * 64, "\n" * 255, "\x1f" * 64), False, NOW, RANDOM)
@example(Event("a", "b", after=nested(64), before=nested(64, dict)), False, NOW, RANDOM)
def test_ordinary_events_are_taken(event: Event, own: bool, now: int, randomness: bytes) -> None:
    assert compare(event, own=own, now=now, randomness=randomness)


@given(any_events(), st.booleans())
@example(Event("a", "ledger.a"), True)
@example(Event("a", "ledger.a"), False)
@example(Event("a", "b", occurred_at=datetime(2026, 1, 1, tzinfo=UTC, fold=1)), False)
def test_any_events(event: Event, own: bool) -> None:
    try:
        of_python(event, own=own)
    except Exception as error:
        assert of_core(event, own=own) is None, error
    else:
        compare(event, own=own)


@given(any_events())
def test_errors_are_the_same(event: Event) -> None:
    """Through `prepare`, with the core and without."""
    with pytest.MonkeyPatch.context() as patch:
        with_core = outcome(event)
        patch.setattr(native, "encoder", None)
        assert outcome(event) == with_core


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: type(value).__name__)
def test_each_odd_value(value: Any) -> None:
    for some in (value, [1, value], {"a": value}, {"a": [{"b": value}]}):
        for field in ("before", "after", "metadata"):
            fields: dict[str, Any] = {field: some}
            event = Event("a", "b", **fields)
            try:
                of_python(event)
            except InvalidEvent:
                assert of_core(event) is None
            else:
                compare(event)


@given(no_events)
def test_what_is_no_event(value: Any) -> None:
    assert of_core(value) is None


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("character", ["a", "é", "€", "\U0001f600"])
def test_limits_are_in_characters(field: str, character: str) -> None:
    limit = LIMITS[field]
    fields: dict[str, Any] = {"actor": "a", "action": "b", "resource_type": "c", "resource_id": "d"}
    assert compare(Event(**(fields | {field: character * limit})))
    assert not compare(Event(**(fields | {field: character * (limit + 1)})))


def test_the_limit_of_a_body_is_in_bytes() -> None:
    frame = len('{"after":"","before":null,"metadata":null,"salt":""}') + 32
    for character, width in (("a", 1), ("é", 2), ("\U0001f600", 4)):
        count = (MAX_BODY - frame) // width
        assert compare(Event("a", "b", after=character * count))
        assert not compare(Event("a", "b", after=character * (count + 1)))


@pytest.mark.parametrize("value", [nested(100_000), nested(5000, dict), [nested(65)]], ids=["lists", "dicts", "a list"])
def test_deep_values_are_left_to_python(value: Any) -> None:
    assert of_core(Event("a", "b", after=value)) is None
    assert outcome(Event("a", "b", after=value))[0].startswith("after")


def test_a_clock_before_1970_is_left_to_python() -> None:
    assert of_core(Event("a", "b"), now=-1) is None
