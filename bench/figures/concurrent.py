"""Many appenders in one process, each waiting for its receipt before it goes on: threads, and asyncio tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from bench import check, entries, peers
from bench.measure import OURS, Bench, Side, Speeds, at_least, at_most, each_of, percentile
from ledger import AsyncLedger, Event, Ledger
from ledger.settings import Settings

ONE = "one appender"
_ALONE = 5
"""One appender is given a fifth of the work, so that its turns take about as long."""
Latencies = list[list[float]]
"""Seconds from call to receipt, a list for each slice."""


def threads_8(bench: Bench) -> None:
    """8 threads on one Ledger against one thread, and against 8 threads with a umadb client each."""
    _threads(bench, "threads_8", 8)


def threads_32(bench: Bench) -> None:
    """32 threads on one Ledger against one thread, and against 32 threads with a umadb client each."""
    _threads(bench, "threads_32", 32)


def asyncio_8(bench: Bench) -> None:
    """8 tasks on one AsyncLedger against one task, and against 8 threads with a umadb client each."""
    _tasks(bench, "asyncio_8", 8)


def asyncio_32(bench: Bench) -> None:
    """32 tasks on one AsyncLedger against one task, and against 32 threads with a umadb client each."""
    _tasks(bench, "asyncio_32", 32)


def _threads(bench: Bench, figure: str, appenders: int) -> None:
    latencies: Latencies = []
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        executor = stack.enter_context(ThreadPoolExecutor(appenders))

        def ours(number: int) -> Callable[[], Any]:
            shares = _shares(bench, number, appenders)
            kept: list[float] = []
            latencies.append(kept)
            return lambda: each_of(executor.map(lambda share: _append(ledger, share), shares), kept.extend)

        def one(number: int) -> Callable[[], Any]:
            events = _alone(bench, number)
            return lambda: _append(ledger, events)

        _measure(bench, figure, appenders, settings, {OURS: ours, ONE: one}, latencies, stack)


def _tasks(bench: Bench, figure: str, appenders: int) -> None:
    latencies: Latencies = []
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        runner = stack.enter_context(asyncio.Runner())
        ledger = AsyncLedger(settings)
        stack.callback(lambda: runner.run(ledger.close()))

        async def together(shares: Sequence[Sequence[Event]], kept: list[float]) -> None:
            for each in await asyncio.gather(*(_aappend(ledger, share) for share in shares)):
                kept.extend(each)

        def ours(number: int) -> Callable[[], Any]:
            shares = _shares(bench, number, appenders)
            kept: list[float] = []
            latencies.append(kept)
            return lambda: runner.run(together(shares, kept))

        def one(number: int) -> Callable[[], Any]:
            events = _alone(bench, number)
            return lambda: runner.run(_aappend(ledger, events))

        _measure(bench, figure, appenders, settings, {OURS: ours, ONE: one}, latencies, stack)


def _measure(
    bench: Bench,
    figure: str,
    appenders: int,
    settings: Settings,
    sides: dict[str, Side],
    latencies: Latencies,
    stack: ExitStack,
) -> None:
    """Adds the peer, which has no asyncio; lets them take turns; reports throughput against both, and our latencies."""
    url = stack.enter_context(peers.umadb(bench))
    if url is not None:
        sides[peers.UMADB] = _umadb(bench, appenders, url, stack)
    for side in sides.values():
        side(10**5)()
    latencies.clear()
    together = bench.sizes.concurrent // appenders * appenders
    units = {OURS: together, ONE: bench.sizes.concurrent // _ALONE, peers.UMADB: together}
    speeds = bench.take_turns(figure, units, sides)
    _report(bench, figure, speeds, latencies)
    turns = bench.rounds * bench.sizes.slices + 1
    check.verified(bench, figure, settings, turns * (units[OURS] + units[ONE]))
    if url is not None:
        check.counted(bench, figure, peers.UMADB, peers.Umadb(url).count(), turns * together)


def _report(bench: Bench, figure: str, speeds: Speeds, latencies: Latencies) -> None:
    bench.row(figure, "× one appender", speeds.ratio(OURS, ONE), at_least(4.0))
    if peers.UMADB in speeds:
        bench.row(figure, "× umadb", speeds.ratio(OURS, peers.UMADB), at_least(2.0))
    slices = bench.sizes.slices
    rounds = [
        [latency for each in latencies[first : first + slices] for latency in each]
        for first in range(0, len(latencies), slices)
    ]
    p50, p99 = ([percentile(each, percent) * 1000 for each in rounds] for percent in (50, 99))
    bench.row(figure, "p50", p50, unit="ms")
    bench.row(figure, "p99", p99, unit="ms")
    bench.row(figure, "p99, × p50", [high / low for high, low in zip(p99, p50, strict=True)], at_most(5.0))


def _umadb(bench: Bench, appenders: int, url: str, stack: ExitStack) -> Side:
    executor = stack.enter_context(ThreadPoolExecutor(appenders))
    clients = [peers.Umadb(url) for _ in range(appenders)]

    def append(client: peers.Umadb, share: Sequence[Event]) -> None:
        for event in share:
            client.append([event])

    def side(number: int) -> Callable[[], Any]:
        shares = _shares(bench, number, appenders)
        return lambda: list(executor.map(append, clients, shares))

    return side


def _shares(bench: Bench, number: int, appenders: int) -> list[list[Event]]:
    """The events of each appender in this slice."""
    each = bench.sizes.concurrent // appenders
    first = number * bench.sizes.concurrent
    return [list(entries.events(each, first + appender * each)) for appender in range(appenders)]


def _alone(bench: Bench, number: int) -> list[Event]:
    return list(entries.events(bench.sizes.concurrent // _ALONE, number * bench.sizes.concurrent))


def _append(ledger: Ledger, events: Sequence[Event]) -> list[float]:
    latencies = []
    for event in events:
        began = time.perf_counter()
        ledger.append(event)
        latencies.append(time.perf_counter() - began)
    return latencies


async def _aappend(ledger: AsyncLedger, events: Sequence[Event]) -> list[float]:
    latencies = []
    for event in events:
        began = time.perf_counter()
        await ledger.append(event)
        latencies.append(time.perf_counter() - began)
    return latencies
