"""The outbox: events that many processes and triggers record, and the sealer that appends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any
from uuid import UUID

import psycopg

from bench import check, entries, limits
from bench.measure import OURS, Bench, Side, at_least, at_most, percentile
from bench.paced import LOOK, RATE, TIMEOUT_SECONDS, paced, working
from bench.servers import database_url
from bench.together import START_SECONDS, together
from ledger import AsyncLedger, Ledger
from ledger.capture.sealer import Sealer
from ledger.capture.tables import Policy, install
from ledger.drivers.pools import Connector
from ledger.settings import Settings

BARE = "bare INSERT"
BY_SQL = "ledger.record by SQL alone"
MANY = "append_many"
UNCAPTURED = "an UPDATE without triggers"
_EVENTS = 200
"""Events that a process records again and again."""
_INVOICES = """
    create table {0} (
        id int primary key, customer int, number text, status text, total numeric, currency text, note text,
        created_at timestamptz, due date, paid boolean, lines jsonb
    );
    create index on {0} (customer); create index on {0} (number); create index on {0} (status, due);
    create index on {0} (created_at);
"""
_INVOICE = """
    id, id % 100, 'R-' || id, 'sent', id * 1.5, 'EUR', repeat('n', 40), now(), current_date, false,
    '[{"sku": "a", "n": 1}]'
""".replace("%", "%%")
_RECORD = (
    "select ledger.record(%s, actor => %s, action => %s, resource_type => %s, resource_id => %s, "
    "before => %s, after => %s, metadata => %s)"
)
_SEALED = "select id from ledger.audit_logs where ledger_id = 1 and position > %s order by position"


def eight(bench: Bench) -> None:
    """8 processes, each recording one by one for some seconds, against as many that insert: in turn."""
    _processes(bench, "record_processes_8", 8)


def thirty_two(bench: Bench) -> None:
    """The same with 32."""
    _processes(bench, "record_processes_32", 32)


def _processes(bench: Bench, figure: str, processes: int) -> None:
    processes = min(processes, bench.sizes.recorders)
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        bare = stack.enter_context(closing(limits.BareOutbox(settings)))
        rows = bare.rows(entries.events(_EVENTS))
        sides: dict[str, Callable[..., None]] = {OURS: _record_for, BY_SQL: _select_for, BARE: _insert_for}
        totals: dict[str, list[int]] = {name: [] for name in sides}
        for number in range(bench.rounds):
            bench.servers.checkpoint()
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                arguments = [(settings, rows, bench.sizes.seconds)] * processes
                totals[name].append(sum(together(figure, sides[name], arguments)))
        for name, counts in totals.items():
            bench.rates(figure, f"{name}, {processes} processes", [count / bench.sizes.seconds for count in counts])
        for name, what in ((OURS, f"of {BARE}"), (BY_SQL, f"{BY_SQL}, of {BARE}")):
            ratios = [ours / limit for ours, limit in zip(totals[name], totals[BARE], strict=True)]
            bench.row(figure, what, ratios, at_least(0.8))
        check.sealed(bench, figure, settings, _EVENTS + sum(totals[OURS]) + sum(totals[BY_SQL]))
        check.counted(bench, figure, BARE, bare.count(), sum(totals[BARE]))


def _record_for(settings: Settings, _: object, seconds: float, barrier: Barrier, done: SimpleQueue[int]) -> None:
    """In a process of its own."""
    with Ledger(settings) as ledger:
        ledger.tail()  # opens a connection
        done.put(_for(seconds, barrier, ledger.record, list(entries.events(_EVENTS))))


def _select_for(settings: Settings, rows: list[Any], seconds: float, barrier: Barrier, done: SimpleQueue[int]) -> None:
    """In a process of its own."""
    arguments = [("main", row[5], *row[7:]) for row in rows]
    with psycopg.connect(database_url(settings), autocommit=True) as connection:
        done.put(_for(seconds, barrier, lambda row: connection.execute(_RECORD, row, prepare=True), arguments))


def _insert_for(settings: Settings, rows: list[Any], seconds: float, barrier: Barrier, done: SimpleQueue[int]) -> None:
    """In a process of its own."""
    with psycopg.connect(database_url(settings), autocommit=True) as connection:
        done.put(_for(seconds, barrier, lambda row: connection.execute(limits.INSERT_OUTBOX, row, prepare=True), rows))


def _for(seconds: float, barrier: Barrier, call: Callable[[Any], object], items: list[Any]) -> int:
    """Calls with the items in turn for so long. How often."""
    barrier.wait(START_SECONDS)
    end = time.monotonic() + seconds
    count = 0
    for item in cycle(items):
        if time.monotonic() >= end:
            break
        call(item)
        count += 1
    return count


def seal(bench: Bench) -> None:
    """The sealer with a full outbox, against append_many of the same events into the same ledger."""
    figure = "seal"
    count, calls = bench.sizes.batches[10_000]
    count *= calls
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        connector = stack.enter_context(closing(Connector(settings)))
        sealer = Sealer(connector)

        def ours(number: int) -> Callable[[], Any]:
            ledger.record_many(entries.events(count, number * count))
            return sealer.seal

        def limit(number: int) -> Callable[[], Any]:
            return partial(ledger.append_many, list(entries.events(count, number * count)))

        sides: dict[str, Side] = {OURS: ours, MANY: limit}
        for side in sides.values():
            side(10**4)()  # opens what is opened lazily
        speeds = bench.take_turns(figure, count, sides)
        bench.row(figure, f"of {MANY}", speeds.ratio(OURS, MANY), at_least(0.7))
        check.verified(bench, figure, settings, 2 * (bench.rounds * bench.sizes.slices + 1) * count)


def captured_update(bench: Bench) -> None:
    """UPDATE of one column of all rows of a table with four indexes, captured by triggers, against the same without."""
    figure, count = "captured_update", bench.sizes.captured
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        connector = stack.enter_context(closing(Connector(settings)))
        connection = stack.enter_context(psycopg.connect(database_url(settings), autocommit=True))
        for table in ("captured", "uncaptured"):
            connection.execute(_INVOICES.format(table).encode())
            connection.execute(
                f"insert into {table} select {_INVOICE} from generate_series(1, %s) as id".encode(), (count,)
            )
        connector.run(install("captured", Policy()))

        def side(table: str) -> Side:
            update = f"update {table} set total = total + 1".encode()
            return lambda number: partial(connection.execute, update)

        speeds = bench.take_turns(figure, count, {OURS: side("captured"), UNCAPTURED: side("uncaptured")})
        bench.row(figure, f"time, × {UNCAPTURED}", speeds.ratio(UNCAPTURED, OURS), at_most(2))
        # And one that says that the capture was installed.
        check.sealed(bench, figure, settings, bench.rounds * bench.sizes.slices * count + 1)


def latency(bench: Bench) -> None:
    """From the call of record to the entry: `auditledger seal` in a process of its own.

    One process records through an AsyncLedger and looks at the ledger every 2 ms, as another connection sees it.
    """
    figure = "seal_latency"
    p50: list[float] = []
    p99: list[float] = []
    made = 1
    with bench.servers.database() as settings, working(figure, settings, "seal"):
        with Ledger(settings) as ledger:  # the sealer is at work
            ledger.receipt(ledger.record(entries.event(0)), timeout=TIMEOUT_SECONDS)
        for _ in range(bench.rounds):
            bench.servers.checkpoint()
            count = int(RATE * bench.sizes.seconds)
            latencies = asyncio.run(_round(settings, count, made))
            made += count
            check.counted(bench, figure, "the ledger", len(latencies), count)
            p50.append(percentile(latencies, 50) * 1000)
            p99.append(percentile(latencies, 99) * 1000)
        bench.row(figure, f"p50 at {RATE} events/s", p50, at_most(15), unit="ms")
        bench.row(figure, f"p99 at {RATE} events/s", p99, at_most(60), unit="ms")
        check.verified(bench, figure, settings, made)


async def _round(settings: Settings, count: int, before: int) -> list[float]:
    """Seconds from call to sight of so many events; `before`: entries that are there already."""
    called: dict[UUID, float] = {}
    seen: dict[UUID, float] = {}
    async with (
        AsyncLedger(settings) as ledger,
        await psycopg.AsyncConnection.connect(database_url(settings), autocommit=True) as connection,
    ):
        await ledger.tail()

        async def record(number: int) -> None:
            at = time.perf_counter()
            called[await ledger.record(entries.event(before + number))] = at

        async def look() -> None:
            while len(seen) < count:
                cursor = await connection.execute(_SEALED, (before + len(seen),), prepare=True)
                ids = [id_ for (id_,) in await cursor.fetchall()]
                seen.update(dict.fromkeys(ids, time.perf_counter()))
                await asyncio.sleep(LOOK)

        await paced(count, record, look())
    return [seen[id_] - at for id_, at in called.items()]
