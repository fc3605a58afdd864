"""append and append_many, sync and async: true receipts, no gaps, and a bad event affects no other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec import structs

from ledger import Event
from ledger.errors import InvalidEvent, UnknownLedger, UsageError
from tests.support.api import Api, AsyncApi, Opener
from tests.support.helpers import checked, event, events, numbers, race, receipt_of


def test_the_receipt_is_true(api: Api) -> None:
    said = Event(
        actor="user:42",
        action="invoice.updated",
        resource_type="invoice",
        resource_id="inv_7",
        actor_type="robot",
        before={"b": 1, "a": [None]},
        after="Zoë",
        metadata={"ip": "192.0.2.7"},
        occurred_at=datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    )
    receipt = api.append(said)
    [entry] = checked(api)
    assert receipt == receipt_of(entry)
    assert api.tail() == (1, receipt.hash, receipt.recorded_at)
    assert (entry.ledger, entry.position, entry.salt is None) == ("main", 1, False)
    for field in structs.fields(said):
        if field.name not in ("id", "idempotency_key"):
            assert getattr(entry, field.name) == getattr(said, field.name), field.name
    assert entry.before_json == '{"a":[null],"b":1}'


def test_positions_have_no_gaps_and_ids_grow_with_time(api: Api) -> None:
    receipts = [api.append(event(number)) for number in range(20)]
    entries = checked(api)
    assert receipts == [receipt_of(entry) for entry in entries]
    assert numbers(entries) == list(range(20))
    ids = [receipt.id for receipt in receipts]
    assert {one.version for one in ids} == {7}
    assert sorted(ids) == ids
    assert len({entry.salt for entry in entries}) == 20


def test_callers_at_once_share_commits_and_each_gets_its_own_receipt(api: Api) -> None:
    def caller(number: int) -> list[Any]:
        return [(number * 10 + step, api.append(event(number * 10 + step))) for step in range(10)]

    said = [pair for pairs in race(*(lambda number=number: caller(number) for number in range(8))) for pair in pairs]
    entries = checked(api)
    assert sorted(numbers(entries)) == list(range(80))
    assert sorted(said) == sorted((entry.after["number"], receipt_of(entry)) for entry in entries)


def test_one_bad_event_among_callers_at_once_fails_alone(api: Api) -> None:
    named = UUID(int=7)
    api.append(event(0, id=named))

    def caller(number: int) -> object:
        try:
            return api.append(event(number, id=named) if number % 4 == 0 else event(number))
        except UsageError as error:
            return type(error).__name__

    results = race(*(lambda number=number: caller(number) for number in range(1, 17)))
    assert [results[at] for at in (3, 7, 11, 15)] == ["IdempotencyConflict"] * 4
    entries = checked(api)
    assert sorted(numbers(entries)) == [0, *(number for number in range(1, 17) if number % 4)]


def test_many_from_a_generator(api: Api) -> None:
    count, last = api.append_many(events(2500))
    entries = checked(api)
    assert (count, last) == (2500, receipt_of(entries[-1]))
    assert numbers(entries) == list(range(2500))
    assert api.append(event(2500)).position == 2501


def test_many_from_an_async_iterable(opener: Opener) -> None:
    api = opener()
    if not isinstance(api, AsyncApi):
        pytest.skip("AsyncLedger only")

    async def source() -> Any:
        for number in range(1500):
            yield event(number)

    assert api.append_many_async(source()).count == 1500
    assert numbers(checked(api)) == list(range(1500))


def test_25_000_entries_in_several_batches(api: Api, admin: psycopg.Connection) -> None:
    result = api.append_many(events(25_000))
    assert result.last is not None
    assert (result.count, result.last.position) == (25_000, 25_000)
    [(count, transactions, wrong)] = admin.execute(
        "select count(*), count(distinct xmin::text), count(*) filter (where (after->>'number')::int <> position - 1)"
        " from ledger.audit_logs"
    ).fetchall()
    assert (count, wrong) == (25_000, 0)
    assert 3 <= transactions <= 25
    assert len(checked(api)) == 25_000


def test_many_of_nothing(api: Api) -> None:
    assert tuple(api.append_many([])) == (0, None)
    assert tuple(api.append_many(iter(()))) == (0, None)
    assert checked(api) == []


@pytest.mark.parametrize("bad", [0, 1, 1500])
def test_a_bad_event_among_many_stops_there_and_says_which(api: Api, bad: int) -> None:
    def source() -> Iterator[Event]:
        for number in range(3000):
            yield event(number, actor="" if number == bad else "user:1")

    with pytest.raises(InvalidEvent, match=rf"^event {bad + 1}: actor: must have 1 to 255 characters, not 0") as failed:
        api.append_many(source())
    where = f"{bad} entries, up to position {bad}" if bad else "0 entries, nothing"
    assert failed.value.__notes__ == [f"Recorded before it: {where}."]
    assert numbers(checked(api)) == list(range(bad))


@pytest.mark.parametrize("good", [0, 7, 1500])
def test_an_iterable_that_raises_ends_there_and_its_error_comes_through(api: Api, good: int) -> None:
    def source() -> Iterator[Event]:
        yield from events(good)
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        api.append_many(source())
    assert numbers(checked(api)) == list(range(good))
    assert api.append(event(good)).position == good + 1


def test_reading_after_a_position_and_up_to_a_limit(api: Api) -> None:
    api.append_many(events(2100))
    assert [entry.position for entry in api.read(after=2098)] == [2099, 2100]
    assert [entry.position for entry in api.read(after=10, limit=3)] == [11, 12, 13]
    assert len(api.read(limit=1000)) == 1000
    assert len(api.read(after=50, limit=1001)) == 1001
    assert api.read(after=2100) == api.read(limit=0) == []


def test_ledgers_of_one_database_have_positions_apart(opener: Opener, admin: psycopg.Connection) -> None:
    admin.execute("select ledger.create_ledger('second')")
    main, second = opener(), opener(name="second")
    named = UUID(int=7)
    assert [main.append(event(0, id=named)).position, main.append(event(1)).position] == [1, 2]
    assert second.append(event(2, id=named)).position == 1
    assert [entry.ledger for entry in checked(second)] == ["second"]
    assert numbers(checked(main)) == [0, 1]
    with pytest.raises(UnknownLedger, match=r"there is no ledger 'third' in this database, or none .*: create it with"):
        opener(name="third").append(event())


class Color(StrEnum):
    RED = "color.red"


@pytest.mark.parametrize(
    ("field", "longest"),
    [("actor", 255), ("actor_type", 64), ("action", 128), ("resource_type", 64), ("resource_id", 255)],
)
def test_limits_of_the_fields(api: Api, field: str, longest: int) -> None:
    whole = Event(actor="a", action="b", resource_type="c", resource_id="d")
    for good in ("x", "\U0001f600" * longest, Color.RED):
        assert api.append(structs.replace(whole, **{field: good})).position
    for bad, problem in (
        ("", f"must have 1 to {longest} characters, not 0"),
        ("x" * (longest + 1), f"must have 1 to {longest} characters, not {longest + 1}"),
        ("a\0b", "contains U+0000"),
        ("\ud800", "contains a lone surrogate"),
        (7, "must be a string, not int"),
        (b"x", "must be a string, not bytes"),
    ):
        with pytest.raises(InvalidEvent) as refused:
            api.append(structs.replace(whole, **{field: bad}))
        assert (refused.value.path, refused.value.problem) == (field, problem)
    stored = [getattr(entry, field) for entry in checked(api)]
    assert stored == ["x", "\U0001f600" * longest, "color.red"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "ledger.entry_erased"}, "action: actions that begin with 'ledger.' are the ledger's own"),
        ({"resource_type": "invoice"}, "resource_type: resource_type and resource_id go together"),
        ({"resource_id": "7"}, "resource_type: resource_type and resource_id go together"),
        ({"actor": None}, "actor: must be a string, not NoneType"),
        ({"id": "7"}, "id: must be a UUID, not str"),
        ({"id": UUID(int=7), "idempotency_key": "x"}, "idempotency_key: give an id or an idempotency_key, not both"),
        ({"idempotency_key": ""}, "idempotency_key: must have 1 to 1024 characters, not 0"),
        ({"idempotency_key": "x" * 1025}, "idempotency_key: must have 1 to 1024 characters, not 1025"),
        ({"occurred_at": datetime(2026, 1, 1)}, "occurred_at: a naive datetime: give it a time zone"),
        ({"occurred_at": "2026-01-01"}, "occurred_at: must be a datetime, not str"),
    ],
)
def test_an_event_that_is_not_allowed_records_nothing(api: Api, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^{message}"):
        api.append(event(**fields))
    with pytest.raises(InvalidEvent, match=f"^event 2: {message}"):
        api.append_many([event(0), event(**fields), event(2)])
    assert numbers(checked(api)) == [0]


def test_occurred_at_is_the_time_of_the_append_unless_given(api: Api) -> None:
    before = datetime.now(UTC)
    api.append(event())
    [entry] = checked(api)
    assert before <= entry.occurred_at <= datetime.now(UTC)
