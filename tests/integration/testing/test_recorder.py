"""A Recorder accepts, refuses and returns the same as a Ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ledger import ConditionFailed, Event, IdempotencyConflict, Ledger, LedgerError, Unchanged
from ledger.format.chain import ChainedDraft
from ledger.testing.recorder import AsyncRecorder, Recorder
from tests.support.helpers import checked, event, events

ID = UUID(int=7)
AT = datetime(2026, 11, 29, tzinfo=UTC)
SAID: list[Callable[[Any], Any]] = [
    lambda ledger: ledger.append(event(1)),
    lambda ledger: ledger.append(event(after={"price": Decimal("1.50"), "at": AT, "tags": {"b", "a"}})),
    lambda ledger: ledger.append(event(2, id=ID)),
    lambda ledger: ledger.append(event(2, id=ID)),
    lambda ledger: ledger.append(event(3, id=ID)),
    lambda ledger: ledger.append(event(4, idempotency_key="once", occurred_at=AT)),
    lambda ledger: ledger.append(event(4, idempotency_key="once")),
    lambda ledger: ledger.append(event(after={"a": float("nan")})),
    lambda ledger: ledger.append(event(actor="")),
    lambda ledger: ledger.append(event(action="ledger.own")),
    lambda ledger: ledger.append("no event"),
    lambda ledger: ledger.append(event(5), expect=3),
    lambda ledger: ledger.append(event(5), expect=4),
    lambda ledger: ledger.append(Event("u", "a.b", "invoice", "inv_7")),
    lambda ledger: ledger.append(event(6), expect=Unchanged("invoice", "inv_7", 5)),
    lambda ledger: ledger.append(event(6), expect=Unchanged("invoice", "inv_7", 6)),
    lambda ledger: ledger.append_many(events(1500)),
    lambda ledger: ledger.append_many([event(7), event(2, id=ID), event(8)]),
    lambda ledger: ledger.append_many([event(9), event(after={1: 2}), event(10)]),
    lambda ledger: ledger.append_many([event(11), event(3, id=ID), event(12)]),
    lambda ledger: ledger.append_many([]),
]


def outcome(call: Callable[[Any], Any], ledger: Any) -> Any:
    try:
        said = call(ledger)
    except LedgerError as error:
        return type(error), getattr(error, "path", None), getattr(error, "__notes__", None)
    receipt = getattr(said, "last", said)
    return getattr(said, "count", None), receipt and receipt.position


def test_it_does_what_a_ledger_does(ledger: Ledger) -> None:
    recorder = Recorder()
    for number, call in enumerate(SAID):
        assert outcome(call, recorder) == outcome(call, ledger), number
    entries = checked(ledger)
    assert recorder.tail().position == ledger.tail().position == len(entries)
    for said, entry in zip(recorder.events, entries, strict=True):
        for field in ("actor", "action", "actor_type", "resource_type", "resource_id", "before", "after", "metadata"):
            assert getattr(said, field) == getattr(entry, field)


def test_events_are_as_they_were_said() -> None:
    recorder, row = Recorder(), {"total": 100}
    said = Event("user:42", "invoice.sent", "invoice", "inv_7", after=row, idempotency_key="k", occurred_at=AT)
    recorder.append(said)
    row["total"] = 0
    assert recorder.events == [
        Event("user:42", "invoice.sent", "invoice", "inv_7", after={"total": 100}, idempotency_key="k", occurred_at=AT)
    ]


def test_receipts_are_chained() -> None:
    recorder = Recorder()
    first, second = recorder.append(event(1)), recorder.append(event(2))
    links: list[ChainedDraft] = list(recorder._links.values())
    assert [link.hash for link in links] == [first.hash, second.hash]
    assert links[1].prev == first.hash


def test_awaited() -> None:
    async def source() -> AsyncIterator[Event]:
        for each in events(3):
            yield each

    async def main() -> None:
        recorder = AsyncRecorder()
        receipt = await recorder.append(event(0, id=ID))
        assert await recorder.append(event(0, id=ID)) == receipt
        assert (await recorder.append_many(source())).count == 3
        assert (await recorder.append_many(events(2))).count == 2
        with pytest.raises(IdempotencyConflict):
            await recorder.append(event(1, id=ID))
        with pytest.raises(ConditionFailed):
            await recorder.append(event(1), expect=1)
        assert (await recorder.tail()).position == len(recorder.events) == 6

    asyncio.run(main())
