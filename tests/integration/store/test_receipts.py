"""Receipts are made only of what Postgres recorded; after any driver error the outcome is settled."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ledger import AsyncLedger, Ledger, Receipt
from ledger.drivers import postgres
from ledger.effects import CopyIn, Pipeline, Query
from ledger.errors import LedgerError, OutcomeUnknown
from ledger.settings import Settings
from tests.support.helpers import checked, event, events, numbers, receipt_of
from tests.support.pgbouncer import pgbouncer

SWALLOW = """
create function public.swallow() returns trigger language plpgsql as 'begin return null; end';
create trigger swallow before insert on ledger.audit_logs for each row execute function public.swallow()
"""
CHANGE = """
create function public.change() returns trigger language plpgsql as
$$ begin new.hash = sha256(new.hash); return new; end $$;
create trigger change before insert on ledger.audit_logs for each row execute function public.change()
"""


def many(ledger: Ledger, connection: Any) -> None:
    ledger.append_many(events(5))


def many_within(ledger: Ledger, connection: Any) -> None:
    ledger.append_many(events(5), connection=connection)


WAYS: dict[str, Callable[[Ledger, Any], Any]] = {
    "quick": lambda ledger, connection: ledger.append(event(1)),
    "locked": lambda ledger, connection: ledger.append(event(1), expect=1),
    "named": lambda ledger, connection: ledger.append(event(1, id=UUID(int=9))),
    "many": many,
    "within": lambda ledger, connection: ledger.append(event(1), connection=connection),
    "within, on a condition": lambda ledger, connection: ledger.append(event(1), connection=connection, expect=1),
    "many within": many_within,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_recorded_gets_no_receipt(ledger: Ledger, admin: psycopg.Connection, way: str) -> None:
    ledger.append(event(0))
    admin.execute(SWALLOW)
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        for _ in range(3):
            with pytest.raises(OutcomeUnknown, match="and Postgres, or what stands before it, answered"):
                WAYS[way](ledger, connection)
            connection.rollback()
    admin.execute("drop trigger swallow on ledger.audit_logs")
    assert ledger.append(event(1)).position == 2
    assert numbers(checked(ledger)) == [0, 1]


@pytest.mark.parametrize("way", ["locked", "many", "many within"])
def test_what_was_recorded_otherwise_gets_no_receipt(ledger: Ledger, admin: psycopg.Connection, way: str) -> None:
    """One entry alone is not read back, as a writer may not: there the trigger is for `verify` to find."""
    ledger.append(event(0))
    admin.execute(CHANGE)
    refused = pytest.raises((LedgerError, psycopg.DatabaseError))
    with psycopg.connect(ledger.settings.database_url or "") as connection, refused:
        WAYS[way](ledger, connection)


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, RuntimeError, AssertionError, IndexError, KeyError, struct.error]
)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_whatever_a_driver_raises_the_outcome_is_settled(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: type[Exception], done: bool, colour: str
) -> None:
    """psycopg's own copy() raised ValueError where a session ended with a COPY."""
    ask, aask, left = postgres._ask, postgres._aask, [2]

    def strikes(effect: Any) -> bool:
        writes = isinstance(effect, CopyIn | Query | Pipeline) and "insert into ledger" in repr(effect) + repr(
            effect.sql if isinstance(effect, CopyIn) else ""
        ).replace("copy ledger", "insert into ledger")
        if not writes or not left[0]:
            return False
        left[0] -= 1
        return True

    def failing(effect: Any, postgres: Any) -> Any:
        struck = strikes(effect)
        if struck and not done:
            raise error("a driver's mistake")
        brought = ask(effect, postgres)
        if struck:
            raise error("a driver's mistake")
        return brought

    async def afailing(effect: Any, postgres: Any) -> Any:
        struck = strikes(effect)
        if struck and not done:
            raise error("a driver's mistake")
        brought = await aask(effect, postgres)
        if struck:
            raise error("a driver's mistake")
        return brought

    async def work() -> list[Any]:
        async with AsyncLedger(ledger.settings) as other:
            first = await other.append(event(0))
            monkeypatch.setattr(postgres, "_aask", afailing)
            one = await other.append(event(1))
            left[0] = 1
            return [first, one, (await other.append_many(events(3, 2))).last]

    if colour == "async":
        receipts = asyncio.run(work())
    else:
        receipts = [ledger.append(event(0))]
        monkeypatch.setattr(postgres, "_ask", failing)
        receipts.append(ledger.append(event(1)))
        left[0] = 1
        receipts.append(ledger.append_many(events(3, 2)).last)
    entries = checked(ledger)
    assert numbers(entries) == [0, 1, 2, 3, 4]
    assert receipts == [receipt_of(entries[place]) for place in (0, 1, 4)]


def test_names_that_collide_behind_a_pooler_give_no_false_receipt(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were statements prepared there all the same: an append was told a position at which nothing was recorded."""
    monkeypatch.setattr(postgres, "prepares", lambda connection: None)
    monkeypatch.setattr("ledger.drivers.connections._learn", _as_if_direct)
    url = ledger.settings.database_url or ""
    receipts: list[Receipt] = []
    failed = 0
    with pgbouncer(url) as pooler:
        settings = Settings(database_url=pooler.url(url))
        with Ledger(settings) as one, Ledger(settings) as two, psycopg.connect(pooler.url(url)) as connection:
            for number in range(40):
                for ledger_, options in ((one, {}), (two, {"idempotency_key": str(number)}), (two, None)):
                    try:
                        said = event(number, **(options or {}))
                        receipt = ledger_.append(said, connection=connection if options is None else None)
                        connection.commit()
                        receipts.append(receipt)
                    except (LedgerError, psycopg.Error):
                        failed += 1
                        connection.rollback()
    there = {entry.position: receipt_of(entry) for entry in checked(ledger)}
    assert [there.get(receipt.position) for receipt in receipts] == receipts
    assert failed > 0, "no names collided"


def _as_if_direct(settings: Settings, connection: Any, row: Any) -> bool:
    connection.direct = True
    return True


def test_closing_in_another_event_loop(ledger: Ledger) -> None:
    async def opened() -> AsyncLedger:
        made = AsyncLedger(ledger.settings)
        await made.append(event(0))
        return made

    async def closed(made: AsyncLedger) -> None:
        await made.close()

    asyncio.run(closed(asyncio.run(opened())))
    assert len(checked(ledger)) == 1
