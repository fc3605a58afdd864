"""Drafts: what the core makes of an event is what Python makes; what Python refuses, the core leaves to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Event
from ledger.errors import InvalidEvent
from ledger.events import Tail
from ledger.format import chain, native
from ledger.format.canonical import Draft
from ledger.format.rules import LIMITS, MAX_BODY
from ledger.format.times import microseconds
from ledger.store import entry_rows
from ledger.store.drafts import prepare
from tests.support.any_events import any_events, nested, no_events, ordinary_events
from tests.unit.native.drafts import NOW, RANDOM, of_core, of_python

TAIL = Tail(41, bytes(range(32)), datetime(2026, 11, 29, tzinfo=UTC))
AT = datetime(2026, 11, 29, 12, 0, 0, 7, tzinfo=UTC)
ATTRIBUTES = (
    *("event", "id", "id_bytes", "named", "occurred", "occurred_at", "before", "after", "metadata"),
    *("salt", "body_hash", "size"),
)


def same(made: Any, expected: Draft) -> None:
    """Attribute by attribute, type by type, and in its place in the chain."""
    for name in ATTRIBUTES:
        value = getattr(made, name)
        assert value == getattr(expected, name), name
        assert type(value) is type(getattr(expected, name)), name
    for value in msgspec.structs.astuple(made.event):
        assert type(value) in (str, type(None), type(expected.id), datetime)
    assert made.occurred_at.tzinfo is UTC
    [link] = links = chain.Links(TAIL, [expected], AT)
    [ours] = native.core.Links(native.encoder, [made], TAIL.position, TAIL.hash, microseconds(AT), AT)
    assert (ours.position, ours.prev, ours.hash, ours.recorded_at) == (link.position, link.prev, link.hash, AT)
    assert ours.receipt() == link.receipt() and ours.is_new
    assert ours.row_params(7) == entry_rows.row_params(7, link)
    data = native.core.Links(native.encoder, [made], TAIL.position, TAIL.hash, microseconds(AT), AT).copy_data(7)
    assert b"".join(data) == b"".join(entry_rows._copy_data(7, links))


def compare(event: Any, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> bool:
    """Whether the core took it. Python must make the same, if it makes anything."""
    made = of_core(event, own=own, now=now, randomness=randomness)
    if made is not None:
        same(made, of_python(event, own=own, now=now, randomness=randomness))
    return made is not None


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


def outcome(event: Any) -> Any:
    try:
        draft = prepare(event, "main")
    except InvalidEvent as error:
        return error.path, error.problem, str(error)
    except Exception as error:
        return type(error), str(error)
    occurred = None if draft.event.occurred_at is None else draft.occurred
    return draft.event, draft.named, occurred, draft.before, draft.after, draft.metadata, draft.size


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
