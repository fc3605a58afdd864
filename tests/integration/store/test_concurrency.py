"""Eight concurrent processes, on one ledger and on eight: no fork, no gap, no deadlock, true receipts."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from ledger import Ledger, Receipt
from tests.support.appending import TURNS, Said, in_tasks, in_threads
from tests.support.helpers import checked, event, events, numbers, processes, race, receipt_of

PROCESSES = 8


def run_processes(executor: ProcessPoolExecutor, url: str, names: list[str]) -> list[Said]:
    """Workers in threads and in tasks, by turns; what each was told."""
    jobs = [in_tasks if worker % 2 else in_threads for worker in range(len(names))]
    works = [
        executor.submit(job, url, name, worker) for worker, (job, name) in enumerate(zip(jobs, names, strict=True))
    ]
    return [work.result(60) for work in works]


def expected_numbers(worker: int) -> set[int]:
    ones = range(8) if worker % 2 else [*range(5), *range(60, 63)]
    made = {worker * 1000 + turn * 100 + step for turn in range(TURNS) for step in (*ones, *range(10, 30))}
    return made | {worker * 1000 + turn * 100 + 50 for turn in range(0, TURNS, 2)}


def deadlocks(admin: psycopg.Connection) -> int:
    admin.execute("select pg_stat_force_next_flush()")
    [(count,)] = admin.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchall()
    return int(count)


def check(entries: list[Any], said: Said, workers: set[int]) -> None:
    """Everything once, nothing else, and each receipt is that of its entry."""
    by_number = {entry.after["number"]: receipt_of(entry) for entry in entries}
    assert sorted(numbers(entries)) == sorted(set().union(*map(expected_numbers, workers)))
    assert all(by_number[number] == receipt for number, receipt in said)


def test_eight_processes_on_one_ledger_and_on_eight(migrated_url: str, admin: psycopg.Connection) -> None:
    names = [f"ledger-{worker}" for worker in range(PROCESSES)]
    for name in names:
        admin.execute("select ledger.create_ledger(%s)", [name])
    with processes(PROCESSES) as executor:
        together = run_processes(executor, migrated_url, ["main"] * PROCESSES)
        apart = run_processes(executor, migrated_url, names)
    with Ledger.open(database_url=migrated_url) as ledger:
        check(checked(ledger), [pair for said in together for pair in said], set(range(PROCESSES)))
    for worker, (name, said) in enumerate(zip(names, apart, strict=True)):
        with Ledger.open(database_url=migrated_url, name=name) as ledger:
            check(checked(ledger), said, {worker})
    assert deadlocks(admin) == 0


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "in batches"])
def test_two_writers_of_one_ledger_never_wait_for_each_other_in_a_circle(
    migrated_url: str, admin: psycopg.Connection, batches: bool
) -> None:
    """One holds the tail and waits for a position that the other has taken, which waits for the tail: a second lost."""

    def writer() -> list[Receipt | None]:
        with Ledger.open(database_url=migrated_url) as ledger:
            if batches:
                return [ledger.append_many(events(2)).last for _ in range(75)]
            return [ledger.append(event()) for _ in range(150)]

    receipts = [receipt for made in race(writer, writer, writer) for receipt in made]
    with Ledger.open(database_url=migrated_url) as ledger:
        assert {receipt_of(entry) for entry in checked(ledger)} >= set(receipts)
    assert deadlocks(admin) == 0


class Interrupted(BaseException):
    """As Ctrl-C: raised by a signal's handler, wherever the main thread stands."""


def test_who_leaves_the_line_leaves_it_to_those_behind(ledger: Ledger, admin: psycopg.Connection) -> None:
    def leave(*_: object) -> None:
        raise Interrupted

    def append_later() -> Receipt:
        time.sleep(0.2)
        return ledger.append(event(3))

    ledger.append(event(0))
    admin.execute("begin")
    admin.execute("update ledger.tails set fence = fence + 1")
    before = signal.signal(signal.SIGALRM, leave)
    try:
        with ThreadPoolExecutor(2) as executor:
            first = executor.submit(ledger.append, event(1))
            time.sleep(0.2)  # it writes, and waits for the tail; the main thread waits for it
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            behind = executor.submit(append_later)
            with pytest.raises(Interrupted):
                ledger.append(event(2))
            admin.execute("commit")
            assert first.result(20).position == 2
            assert behind.result(20).position == 3
    finally:
        signal.signal(signal.SIGALRM, before)
    assert numbers(checked(ledger)) == [0, 1, 3]
