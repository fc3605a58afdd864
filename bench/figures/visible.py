"""How soon an append can be found in a view, while 500 come every second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg

from bench import check, entries
from bench.measure import Bench, at_most, percentile
from bench.paced import LOOK, RATE, TIMEOUT_SECONDS, paced, working
from bench.servers import database_url
from ledger import AsyncLedger
from ledger.settings import Settings

_NEWEST = "select coalesce(max(position), 0) from ledger_views.timeline where ledger_id = 1"


def visible(bench: Bench) -> None:
    """From the call of append to the row in `timeline`: `auditledger run` in a process of its own relays and projects.

    One process appends through an AsyncLedger and looks at the view every 2 ms, as another connection sees it.
    """
    figure = "visible"
    p50: list[float] = []
    p99: list[float] = []
    rates: list[float] = []
    made = 0
    with bench.servers.database() as settings, _running(settings):
        for _ in range(bench.rounds):
            bench.servers.checkpoint()
            count = int(RATE * bench.sizes.seconds)
            began = time.perf_counter()
            latencies = asyncio.run(_round(settings, count, made))
            rates.append(count / (time.perf_counter() - began))
            made += count
            check.counted(bench, figure, "timeline", len(latencies), count)
            p50.append(percentile(latencies, 50) * 1000)
            p99.append(percentile(latencies, 99) * 1000)
        bench.rates(figure, "appends, until the last was visible", rates)
        bench.row(figure, f"p50 at {RATE} appends/s", p50, at_most(20), unit="ms")
        bench.row(figure, f"p99 at {RATE} appends/s", p99, at_most(100), unit="ms")
        check.verified(bench, figure, settings, made)


@contextmanager
def _running(settings: Settings) -> Iterator[None]:
    """`auditledger run`, once the views are there."""
    with working("visible", settings, "run") as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with psycopg.connect(database_url(settings), autocommit=True) as connection:
            while connection.execute("select to_regclass('ledger_views.timeline')").fetchone() == (None,):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise check.CheckFailed("visible: auditledger run did not come up")
                time.sleep(0.05)
        yield


async def _round(settings: Settings, count: int, before: int) -> list[float]:
    """Seconds from call to sight of so many appends; `before`: entries that are there already."""
    called: dict[int, float] = {}
    seen: dict[int, float] = {}
    async with (
        AsyncLedger(settings) as ledger,
        await psycopg.AsyncConnection.connect(database_url(settings), autocommit=True) as connection,
    ):
        await ledger.tail()

        async def append(number: int) -> None:
            at = time.perf_counter()
            receipt = await ledger.append(entries.event(before + number))
            called[receipt.position] = at

        await paced(count, append, _look(connection, before, before + count, seen))
    return _latencies(called, seen)


def _latencies(called: Mapping[int, float], seen: Mapping[int, float]) -> list[float]:
    return [seen[position] - at for position, at in called.items()]


async def _look(
    connection: psycopg.AsyncConnection[tuple[int]], before: int, last: int, seen: dict[int, float]
) -> None:
    """Notes when each position up to `last` was first seen."""
    while before < last:
        cursor = await connection.execute(_NEWEST, prepare=True)
        row = await cursor.fetchone()
        now = time.perf_counter()
        newest = row[0] if row else before
        seen.update(dict.fromkeys(range(before + 1, newest + 1), now))
        before = max(before, newest)
        await asyncio.sleep(LOOK)
