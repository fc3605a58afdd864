"""An event is encoded when it is given; later changes of its values have no effect."""

from __future__ import annotations

import enum
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Self

import msgspec
import psycopg
import pytest

from ledger import Event, IdempotencyConflict, InvalidEvent, Ledger
from ledger.store import drafts
from tests.support.api import Api, AsyncApi, Opener
from tests.support.helpers import checked, event, events, eventually, numbers


def reusing(count: int) -> Iterator[Event]:
    """One dictionary, one list and one event for all."""
    row: dict[str, Any] = {}
    lines: list[int] = []
    same = Event("user:1", "row.read", before=lines, after=row, metadata={"of": row})
    for number in range(count):
        row["number"] = number
        lines[:] = [number]
        yield same
    row["number"] = lines[:] = [-1]


def is_as_said(api: Api, count: int) -> None:
    entries = checked(api)
    assert numbers(entries) == list(range(count))
    assert [entry.before for entry in entries] == [[number] for number in range(count)]
    assert [entry.metadata["of"]["number"] for entry in entries] == list(range(count))


@pytest.mark.parametrize("count", [5, 2500])
def test_an_iterable_that_reuses_what_it_gives(api: Api, count: int) -> None:
    assert api.append_many(reusing(count)).count == count
    is_as_said(api, count)


def test_in_the_callers_transaction(api: Api, opener: Opener) -> None:
    connection = opener.connect(api, autocommit=True)
    with connection.transaction():
        api.append_many(reusing(1500), connection=connection.raw)
    is_as_said(api, 1500)


def test_an_async_iterable_that_reuses_what_it_gives(api: Api) -> None:
    if not isinstance(api, AsyncApi):
        pytest.skip("of AsyncLedger alone")

    async def source() -> AsyncIterator[Event]:
        for each in reusing(1500):
            yield each

    api.append_many_async(source())
    is_as_said(api, 1500)


def test_an_event_that_is_changed_while_it_waits(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Its turn has not come: another holds the tail."""
    rows = [{"number": number} for number in range(3)]
    threads = [threading.Thread(target=ledger.append, args=(event(after=row),)) for row in rows]
    ledger.tail()
    with admin.transaction():
        admin.execute("update ledger.tails set fence = fence + 1")
        for thread in threads:
            thread.start()
        eventually(lambda: ledger._opened is not None and len(ledger._opened[1]._turns.waiting) == 2)
        for row in rows:
            row["number"] = -1
    for thread in threads:
        thread.join()
    assert sorted(numbers(checked(ledger))) == [0, 1, 2]


def test_a_repeat_is_compared_with_what_was_said(api: Api) -> None:
    row = {"number": 1}
    said = event(after=row, idempotency_key="once")
    first = api.append(said)
    assert api.append(said) == first
    row["number"] = 2
    with pytest.raises(IdempotencyConflict, match="another body"):
        api.append(said)

    def twice() -> Iterator[Event]:
        yield said
        row["number"] = 3
        yield said

    row["number"] = 1
    with pytest.raises(IdempotencyConflict):
        api.append_many(twice())
    assert numbers(checked(api)) == [1]


class Loud(str):
    """A string that says something else of itself, and takes itself for any other."""

    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"

    def encode(self, *_: object) -> bytes:
        return b"LOUD"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("user:0")


class Action(enum.StrEnum):
    PAID = "invoice.paid"


class Reused(Event, frozen=False):  # type: ignore[misc]
    """An event whose fields can be set."""


def test_strings_of_other_kinds(api: Api) -> None:
    api.append(Event("user:0", "a.b"))
    api.append(Event(Loud("user:1"), Loud("a.b"), Loud("invoice"), Loud("inv_1"), actor_type=Loud("bot")))
    api.append_many([Event(Loud("user:2"), Action.PAID), Event(Loud("user:3"), Action.PAID)])
    api.append(Event("user:4", "a.b", idempotency_key=Loud("key")))
    assert [(each.actor, each.action) for each in checked(api)] == [
        ("user:0", "a.b"), ("user:1", "a.b"), ("user:2", "invoice.paid"), ("user:3", "invoice.paid"), ("user:4", "a.b")
    ]  # fmt: skip


def test_an_event_whose_fields_are_set_anew(api: Api) -> None:
    def source() -> Iterator[Event]:
        same = Reused("user:0", "a.b")
        for number in range(3):
            same.actor = f"user:{number}"  # type: ignore[misc]
            yield same

    api.append_many(source())
    assert [entry.actor for entry in checked(api)] == ["user:0", "user:1", "user:2"]


def test_a_batch_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large its events are, and whatever the first ones were."""
    sizes = []
    taken = drafts.Gathering("main")
    source = (event(metadata="x" * (200_000 if number > 500 else 1)) for number in range(800))
    while batch := taken.pull(source):
        sizes.append(sum(draft.size for draft in batch))
    assert max(sizes) < drafts.BATCH_BYTES + 256 * 1024
    assert sum(size > drafts.BATCH_BYTES for size in sizes) == len(sizes) - 1


def test_what_comes_before_a_bad_event_is_recorded(api: Api) -> None:
    def source() -> Iterator[Event]:
        yield from events(3)
        yield event(after={"a": float("nan")})
        raise AssertionError("asked for more")

    with pytest.raises(InvalidEvent, match=r"^event 4: after\.a: nan") as refused:
        api.append_many(source())
    assert refused.value.__notes__ == ["Recorded before it: 3 entries, up to position 3."]
    assert numbers(checked(api)) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ datetimes


class Other(datetime):
    """As pendulum's: its arithmetic gives something that is no timedelta."""

    def __sub__(self, other: Any) -> Any:
        return "an interval"

    def astimezone(self, zone: Any = None) -> Self:
        raise AssertionError("whatever it likes")

    def isoformat(self, *_: Any) -> str:
        return "sometime"


AMSTERDAM = timezone(timedelta(minutes=19, seconds=32))


@pytest.mark.parametrize("kind", [datetime, Other])
@pytest.mark.parametrize(
    ("fields", "zone", "moment"),
    [
        ((2026, 11, 29, 12, 0, 0, 7), timezone(timedelta(hours=5, minutes=30)), "2026-11-29 06:30:00.000007"),
        ((1890, 1, 1), AMSTERDAM, "1889-12-31 23:40:28"),
        ((2026, 1, 1), timezone(timedelta(microseconds=-1)), "2026-01-01 00:00:00.000001"),
        ((1, 1, 1), UTC, "0001-01-01 00:00:00"),
        ((9999, 12, 31, 23, 59, 59, 999999), UTC, "9999-12-31 23:59:59.999999"),
    ],
)
def test_any_datetime_is_recorded_exactly(
    ledger: Ledger, kind: type[datetime], fields: tuple[int, ...], zone: timezone, moment: str
) -> None:
    ledger.append(event(occurred_at=kind(*fields, tzinfo=zone)))  # type: ignore[misc, arg-type]
    ledger.append_many(event(occurred_at=kind(*fields, tzinfo=zone)) for _ in range(2))  # type: ignore[misc, arg-type]
    assert {entry.occurred_at for entry in checked(ledger)} == {datetime.fromisoformat(moment).replace(tzinfo=UTC)}


@pytest.mark.parametrize("kind", [datetime, Other])
@pytest.mark.parametrize(("year", "hours"), [(1, 1), (9999, -1)])
def test_a_moment_outside_the_years_is_refused(kind: type[datetime], year: int, hours: int) -> None:
    edge = kind(year, 1 if year == 1 else 12, 1 if year == 1 else 31, 0 if year == 1 else 23)
    late = edge.replace(tzinfo=timezone(timedelta(hours=hours)))
    with pytest.raises(InvalidEvent, match="outside the years"):
        drafts.Gathering("main").take(event(occurred_at=late))


def test_the_texts_of_an_event_are_taken_at_once() -> None:
    """Nothing of a draft refers to what the caller holds."""
    body = {"a": [1]}
    [draft] = drafts.Gathering("main").pull(iter([event(after=body, metadata=body)]))
    assert all(isinstance(each, str | datetime | None) for each in msgspec.structs.astuple(draft.event))
