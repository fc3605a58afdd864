"""What tests run in processes of their own. Light to import, so that eight of them start quickly."""

from __future__ import annotations

import asyncio

import psycopg

from ledger import AsyncLedger, Ledger, Receipt
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.helpers import event, events, race

TURNS = 3
Said = list[tuple[int, Receipt]]


def migrate_in_process(url: str) -> list[str]:
    return migrate(Settings(database_url=url))


def in_threads(url: str, name: str, worker: int) -> Said:
    """One by one, in batches, and in the caller's own transactions; some of those are rolled back."""
    said: Said = []
    first = worker * 1000
    with Ledger.open(database_url=url, name=name) as ledger, psycopg.connect(url, autocommit=True) as connection:
        for turn in range(TURNS):
            number = first + turn * 100
            said += [(number + step, ledger.append(event(number + step))) for step in range(5)]
            count, last = ledger.append_many(events(20, number + 10))
            assert count == 20
            said.append((number + 29, last))
            with connection.transaction(force_rollback=turn % 2 == 1):
                receipt = ledger.append(event(number + 50), connection=connection)
            if turn % 2 == 0:
                said.append((number + 50, receipt))
            calls = [lambda step=step: ledger.append(event(number + 60 + step)) for step in range(3)]  # noqa: B023
            said += enumerate(race(*calls), number + 60)
    return said


def in_tasks(url: str, name: str, worker: int) -> Said:
    """The same with AsyncLedger, its appends gathered."""

    async def main() -> Said:
        said: Said = []
        first = worker * 1000
        async with AsyncLedger.open(database_url=url, name=name) as ledger:
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
            async with connection:
                for turn in range(TURNS):
                    number = first + turn * 100
                    made = await asyncio.gather(*(ledger.append(event(number + step)) for step in range(8)))
                    said += enumerate(made, number)
                    count, last = await ledger.append_many(events(20, number + 10))
                    assert count == 20
                    said.append((number + 29, last))
                    async with connection.transaction(force_rollback=turn % 2 == 1):
                        receipt = await ledger.append(event(number + 50), connection=connection)
                    if turn % 2 == 0:
                        said.append((number + 50, receipt))
        return said

    return asyncio.run(main())
