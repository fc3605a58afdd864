"""A duplicate is recorded once; an id stands for one event; conditions hold or nothing is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ledger import Event, Receipt, Unchanged
from ledger.errors import ConditionFailed, IdempotencyConflict
from ledger.format.canonical import entry_id_for
from tests.support.api import Api, Opener
from tests.support.helpers import checked, event, events, numbers, race, receipt_of

SEVEN = UUID(int=7)
INVOICE = {"resource_type": "invoice", "resource_id": "inv_7"}
MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("named", [{"id": SEVEN}, {"idempotency_key": "request 7"}], ids=["id", "key"])
def test_recorded_twice_gives_the_first_receipt(api: Api, opener: Opener, named: dict[str, Any]) -> None:
    said = event(1, **named)
    first = api.append(said)
    api.append(event(2))
    assert api.append(said) == first
    assert opener().append(said) == first
    assert tuple(api.append_many([said, event(3), said])) == (1, first)
    assert numbers(checked(api)) == [1, 2, 3]


def test_an_idempotency_key_is_the_same_entry_id_everywhere(api: Api) -> None:
    """Frozen: a key sent before an upgrade must be known after it."""
    assert entry_id_for("request 7") == UUID("647c3e9b-3bcc-871b-9383-8dcdfbe14e14")
    assert api.append(event(idempotency_key="request 7")).id == entry_id_for("request 7")
    assert api.append(event(id=entry_id_for("request 7"))).position == 1


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_ids_of_keys_are_valid_uuids_of_version_8(key: str) -> None:
    made = entry_id_for(key)
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert made == entry_id_for(key) != entry_id_for(key + "x")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("actor", "user:43"),
        ("action", "invoice.sent"),
        ("resource_type", "bill"),
        ("resource_id", "inv_8"),
        ("actor_type", "service"),
        ("before", {"a": 1}),
        ("after", None),
        ("after", {"number": 1.0}),
        ("after", {"number": True}),
        ("metadata", []),
        ("occurred_at", MOMENT + timedelta(microseconds=1)),
    ],
)
def test_an_id_with_other_content_is_a_conflict(api: Api, field: str, other: Any) -> None:
    said = event(1, id=SEVEN, occurred_at=MOMENT, **INVOICE)
    first = api.append(said)
    named = r"body \(before, after or metadata\)" if field in ("before", "after", "metadata") else field
    with pytest.raises(IdempotencyConflict, match=f"^id {SEVEN} was recorded at position 1 with another {named}: noth"):
        api.append(structs.replace(said, **{field: other}))
    assert [receipt_of(entry) for entry in checked(api)] == [first]


def test_what_says_the_same_in_other_words_is_no_conflict(api: Api) -> None:
    said = event(id=SEVEN, occurred_at=MOMENT, after={"a": 1, "b": (1, 2)}, metadata={3, 1, 2})
    first = api.append(said)
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5)))
    again = structs.replace(said, occurred_at=elsewhere, after={"b": [1, 2], "a": 1}, metadata=[1, 2, 3])
    assert api.append(again) == first
    assert api.append(structs.replace(again, occurred_at=None)) == first
    assert len(checked(api)) == 1


def test_racing_appends_of_one_event_record_it_once(opener: Opener) -> None:
    """Some share a Ledger, some have one of their own."""
    apis = [opener() for _ in range(3)]
    said = event(1, idempotency_key="once")
    receipts = race(*(lambda api=api: api.append(said) for api in apis * 4))
    [entry] = checked(apis[0])
    assert set(receipts) == {receipt_of(entry)}


def test_racing_appends_of_one_id_with_different_contents_record_one(opener: Opener) -> None:
    apis = [opener() for _ in range(2)]

    def caller(number: int) -> Receipt | str:
        try:
            return apis[number % 2].append(event(number, id=SEVEN))
        except IdempotencyConflict:
            return "conflict"

    results = race(*(lambda number=number: caller(number) for number in range(8)))
    [entry] = checked(apis[0])
    assert results.count("conflict") == 7
    assert results[numbers([entry])[0]] == receipt_of(entry)


def test_twins_in_one_append_many_are_recorded_once(api: Api) -> None:
    twin = event(1, id=SEVEN)
    result = api.append_many([event(0), twin, event(2), event(1, id=SEVEN), twin])
    entries = checked(api)
    assert numbers(entries) == [0, 1, 2]
    assert (result.count, result.last) == (3, receipt_of(entries[1]))


@pytest.mark.parametrize("other", [event(4, id=SEVEN), event(1, id=SEVEN, actor="user:43"), event(True, id=SEVEN)])
def test_different_twins_stop_append_many_there(api: Api, other: Event) -> None:
    """Also where Python takes them for equal: 1 == True, but their JSON differs."""

    def source() -> Iterator[Event]:
        yield from (event(0), event(1, id=SEVEN), event(2), other)
        yield from events(3000, 10)

    with pytest.raises(IdempotencyConflict, match=f"^id {SEVEN} "):
        api.append_many(source())
    assert numbers(checked(api)) == [0, 1, 2]


def test_a_conflict_stops_append_many_there_and_says_what_was_recorded(api: Api) -> None:
    api.append(event(0, id=SEVEN))
    with pytest.raises(IdempotencyConflict) as failed:
        api.append_many([event(1), event(2), event(99, id=SEVEN), event(4), *events(2000, 10)])
    assert failed.value.__notes__ == ["Recorded before it: 2 entries, up to position 3."]
    assert numbers(checked(api)) == [0, 1, 2]


def test_appending_many_a_second_time_adds_nothing(api: Api) -> None:
    batch = [event(number, idempotency_key=f"line {number}") for number in range(1200)]
    first = api.append_many(batch)
    assert (first.count, api.append_many(batch)) == (1200, structs.replace(first, count=0))
    more = [*batch[600:], event(1200, idempotency_key="line 1200")]
    result = api.append_many(more)
    assert result.last is not None
    assert (result.count, result.last.position) == (1, 1201)
    assert numbers(checked(api)) == list(range(1201))


def test_expecting_a_position(api: Api) -> None:
    first = api.append(event(0), expect=0)
    second = api.append(event(1), expect=first.position)
    for wrong in (0, 1, 3, -1):
        with pytest.raises(ConditionFailed, match=f"^the ledger stands at position 2, not at {wrong}: nothing was rec"):
            api.append(event(2), expect=wrong)
    assert [receipt_of(entry) for entry in checked(api)] == [first, second]


def test_expecting_a_resource_unchanged(api: Api) -> None:
    api.append(event(0, **INVOICE))
    api.append(event(1, resource_type="invoice", resource_id="inv_8"))
    api.append(event(2, resource_type="bill", resource_id="inv_7"))
    third = api.append(event(3, **INVOICE), expect=Unchanged("invoice", "inv_7", since=1))
    assert third.position == 4
    with pytest.raises(ConditionFailed, match=r"^invoice:inv_7 changed at position 4, after 1: nothing was recorded"):
        api.append(event(4, **INVOICE), expect=Unchanged("invoice", "inv_7", since=1))
    assert api.append(event(5), expect=Unchanged("never", "seen", since=0)).position == 5
    assert numbers(checked(api)) == [0, 1, 2, 3, 5]


def test_of_racing_conditions_one_holds(opener: Opener) -> None:
    apis = [opener() for _ in range(2)]
    apis[0].append(event(0, **INVOICE))

    def caller(number: int) -> bool:
        try:
            expect = Unchanged("invoice", "inv_7", since=1) if number % 2 else 1
            apis[number // 4].append(event(number, **INVOICE), expect=expect)
        except ConditionFailed:
            return False
        return True

    won = race(*(lambda number=number: caller(number) for number in range(8)))
    assert won.count(True) == 1
    assert numbers(checked(apis[0])) == [0, won.index(True)]


def test_a_repeat_is_found_whatever_was_expected(api: Api) -> None:
    """A retry of an append that had worked must not fail because of its own first success."""
    first = api.append(event(0, id=SEVEN), expect=0)
    assert api.append(event(0, id=SEVEN), expect=0) == first
    assert len(checked(api)) == 1
