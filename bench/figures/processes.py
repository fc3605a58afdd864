"""Several processes on one ledger: how much they do together, and whether any is left behind."""

from __future__ import annotations

import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

from bench import check, entries, standby
from bench.measure import OURS, Bench, at_least, percentile
from bench.servers import checkpoint, database_url
from bench.together import START_SECONDS, together
from ledger import Ledger
from ledger.settings import Settings

ONE = "one process"


class _Done(NamedTuple):
    """What one process did: entries, and the 99th percentile of the seconds from call to receipt."""

    entries: int
    p99: float


def eight(bench: Bench) -> None:
    """8 processes, each appending one by one for some seconds, against one process doing so: in turn, on one ledger."""
    with bench.servers.database() as settings:
        _measure(bench, "processes_8", settings, times_one=1.5)


def eight_slow(bench: Bench) -> None:
    """The same where each commit waits 2 ms for a synchronous standby: as slow as many disks, and what a LAN adds."""
    with standby.delayed(bench.scratch) as settings:
        _measure(bench, "processes_8_slow", settings, times_one=2.0)


def _measure(bench: Bench, figure: str, settings: Settings, times_one: float) -> None:
    """times_one: what is wanted of all together, with one process as 1."""
    seconds, many = bench.sizes.seconds, bench.sizes.processes
    made = 0
    totals: list[int] = []
    alone: list[int] = []
    fairness: list[float] = []
    p99: list[float] = []
    for number in range(bench.rounds):
        checkpoint(database_url(settings))
        for processes in (1, many) if number % 2 == 0 else (many, 1):
            done = together(figure, _append_for, [(settings, each, seconds) for each in range(processes)])
            counts = [each.entries for each in done]
            made += sum(counts)
            if processes == 1:
                alone += counts
            else:
                totals.append(sum(counts))
                fairness.append(min(counts) / max(counts))
                p99.append(max(each.p99 for each in done) * 1000)
    bench.rates(figure, f"{OURS}, {many} processes", [total / seconds for total in totals])
    bench.rates(figure, ONE, [count / seconds for count in alone])
    ratios = [total / count for total, count in zip(totals, alone, strict=True)]
    bench.row(figure, f"× {ONE}", ratios, at_least(times_one))
    bench.row(figure, "slowest, × fastest", fairness, at_least(0.5))
    bench.row(figure, "p99 of the slowest", p99, unit="ms")
    check.verified(bench, figure, settings, made)


def _append_for(settings: Settings, number: int, seconds: float, barrier: Barrier, done: SimpleQueue[_Done]) -> None:
    """In a process of its own. A connection is opened before the start, but nothing appended."""
    latencies: list[float] = []
    with Ledger(settings) as ledger:
        ledger.tail()
        barrier.wait(START_SECONDS)
        began = time.monotonic()
        end = began + seconds
        while began < end:
            ledger.append(entries.event(number * 1_000_000 + len(latencies)))
            before, began = began, time.monotonic()
            latencies.append(began - before)
    done.put(_Done(len(latencies), percentile(latencies, 99)))
