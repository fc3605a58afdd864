"""Several processes on one ledger: how much they do together, and whether any is left behind."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

from bench import check, entries
from bench.measure import OURS, Bench, at_least
from ledger import Ledger
from ledger.settings import Settings

ONE = "one process"
_START_SECONDS = 60.0


def eight(bench: Bench) -> None:
    """8 processes, each appending one by one for some seconds, against one process doing so: in turn, on one ledger."""
    figure, seconds, together = "processes_8", bench.sizes.seconds, bench.sizes.processes
    made = 0
    totals: list[int] = []
    alone: list[int] = []
    fairness: list[float] = []
    with bench.servers.database() as settings:
        for number in range(bench.rounds):
            bench.servers.checkpoint()
            for processes in (1, together) if number % 2 == 0 else (together, 1):
                counts = _counts(settings, processes, seconds)
                made += sum(counts)
                if processes == 1:
                    alone += counts
                else:
                    totals.append(sum(counts))
                    fairness.append(min(counts) / max(counts))
        bench.rates(figure, f"{OURS}, {together} processes", [total / seconds for total in totals])
        bench.rates(figure, ONE, [count / seconds for count in alone])
        ratios = [total / count for total, count in zip(totals, alone, strict=True)]
        bench.row(figure, f"× {ONE}", ratios, at_least(1.5))
        bench.row(figure, "slowest, × fastest", fairness, at_least(0.5))
        check.verified(bench, figure, settings, made)


def _counts(settings: Settings, processes: int, seconds: float) -> list[int]:
    """How many entries each appended while all of them did."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    done: SimpleQueue[int] = context.SimpleQueue()
    running = [
        context.Process(target=_append_for, args=(settings, number, seconds, barrier, done))
        for number in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    failed = sum(process.exitcode != 0 for process in running)
    if failed:
        raise check.CheckFailed(f"processes_8: {failed} of {processes} processes failed")
    return [done.get() for _ in running]


def _append_for(settings: Settings, number: int, seconds: float, barrier: Barrier, done: SimpleQueue[int]) -> None:
    """In a process of its own. A connection is opened before the start, but nothing appended."""
    count = 0
    with Ledger(settings) as ledger:
        ledger.tail()
        barrier.wait(_START_SECONDS)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ledger.append(entries.event(number * 1_000_000 + count))
            count += 1
    done.put(count)
