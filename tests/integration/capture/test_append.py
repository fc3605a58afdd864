"""Events in a context, appended by both clients, in transactions of the caller's too."""

from __future__ import annotations

import asyncio
from contextlib import closing

import psycopg
import pytest

from ledger import AsyncLedger, Event, InvalidEvent, Ledger
from ledger.capture import audit_context, bind
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.settings import Settings
from tests.support.api import Api, Opener


def test_append_and_append_many(api: Api, opener: Opener) -> None:
    connection = opener.connect(api)
    event = Event(None, "a.b")
    with pytest.raises(InvalidEvent, match=r"^actor: must be a string, not NoneType: name who did it"):
        api.append(event)
    with audit_context("user:1", actor_type="staff", request={"id": "r1"}):
        api.append(event)
        api.append(Event("user:2", "a.b", metadata={"x": 1}))
        api.append_many([event, event])
        bind("user:3")
        with connection.transaction():
            api.append(event, connection=connection.raw)
            api.append_many([event], connection=connection.raw)
    assert [(entry.actor, entry.actor_type, entry.metadata) for entry in api.read()] == [
        ("user:1", "staff", {"request": {"id": "r1"}}),
        ("user:2", "user", {"request": {"id": "r1"}, "x": 1}),
        *[("user:1", "staff", {"request": {"id": "r1"}})] * 2,
        *[("user:3", "user", {"request": {"id": "r1"}})] * 2,
    ]
    assert api.verify().ok


def test_two_hundred_requests_at_once_do_not_mix(migrated_url: str) -> None:
    async def request(ledger: AsyncLedger, number: int) -> None:
        async with audit_context(request={"id": f"r{number}"}):
            await asyncio.sleep(0)
            await asyncio.to_thread(bind, f"user:{number}")
            await ledger.append(Event(None, "a.b", "request", str(number)))

    async def main() -> list[tuple[str, str | None, str]]:
        async with AsyncLedger(Settings(database_url=migrated_url)) as ledger:
            await asyncio.gather(*(request(ledger, number) for number in range(200)))
            return [(entry.actor, entry.resource_id, entry.metadata["request"]["id"]) async for entry in ledger.read()]

    assert sorted(asyncio.run(main())) == sorted((f"user:{n}", str(n), f"r{n}") for n in range(200))


def test_record_and_record_many(migrated_url: str) -> None:
    settings = Settings(database_url=migrated_url)
    with Ledger(settings) as ledger, psycopg.connect(migrated_url) as connection:
        with pytest.raises(InvalidEvent, match=r"^actor: must be a string, not NoneType: name who did it"):
            ledger.record(Event(None, "a.b"))
        with audit_context("user:1", tx="7"):
            ledger.record(Event(None, "a.b"))
            ledger.record_many([Event(None, "a.b"), Event("user:2", "a.b", metadata={"x": 1})], connection=connection)
        connection.commit()
        with closing(Connector(settings)) as connector:
            Sealer(connector).seal()
        assert [(entry.actor, entry.metadata) for entry in ledger.read()] == [
            *[("user:1", {"tx": "7"})] * 2,
            ("user:2", {"tx": "7", "x": 1}),
        ]
