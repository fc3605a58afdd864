"""What several test modules need: events, a check of the whole chain, and servers of one's own to mistreat."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from ledger import Entry, Event, Ledger, embedded
from ledger.drivers.run import drive
from ledger.events import GENESIS, Receipt, Tail
from ledger.format.chain import check_continues
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.ledgers import find_ledger
from ledger.store.own_actions import erasing, record_own

T = TypeVar("T")


def event(number: int = 0, **fields: Any) -> Event:
    """A small event; `number` is in its body, so that an entry can be told from the others."""
    return Event(**({"actor": "user:42", "action": "invoice.updated", "after": {"number": number}} | fields))


def events(count: int, first: int = 0) -> Iterator[Event]:
    return (event(number) for number in range(first, first + count))


def numbers(entries: list[Entry]) -> list[int]:
    """The numbers that `event` was given."""
    return [entry.after["number"] for entry in entries]


class Readable(Protocol):
    """A Ledger, or an Api of tests/support/api.py."""

    def read(self) -> Iterable[Entry]: ...
    def tail(self) -> Tail: ...


def checked(ledger: Readable) -> list[Entry]:
    """All entries, once the whole chain was checked from its first entry to its tail."""
    entries = list(ledger.read())
    tail = ledger.tail()
    if entries:
        assert check_continues(Tail(0, GENESIS, entries[0].recorded_at), entries) == tail
    else:
        assert tail[:2] == (0, GENESIS)
    return entries


def receipt_of(entry: Entry) -> Receipt:
    """The receipt that the entry's appender should hold."""
    return Receipt(entry.id, entry.position, entry.hash, entry.recorded_at)


def race(*callers: Callable[[], T]) -> list[T]:
    """All at once, each in a thread of its own; their results, in order."""
    with ThreadPoolExecutor(len(callers)) as executor:
        return [future.result() for future in [executor.submit(caller) for caller in callers]]


def processes(count: int) -> ProcessPoolExecutor:
    """Processes of their own, forked from one that has imported the package: eight imports would take seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.appending"])
    return ProcessPoolExecutor(count, mp_context=context)


def copy_home(home: Path, to: Path) -> None:
    """A copy of a stopped embedded pair, with its passwords, but ports yet to be chosen: copies may run at once."""
    subprocess.run(["cp", "-a", home, to], check=True)
    access = json.loads((to / "servers.json").read_bytes())
    for server in access.values():
        server["port"] = 0
    (to / "servers.json").write_text(json.dumps(access))


class OwnServers:
    """An embedded pair of a test's own. The URLs stay the same over restarts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database_url = ""
        self.redis_url = ""

    def start(self) -> None:
        """Starts whichever of the two is not running."""
        pair = embedded.start(self.home)
        self.database_url, self.redis_url = pair.database_url, pair.redis_url

    def stop(self) -> None:
        """Stops both, cleanly."""
        embedded.stop(self.home)

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill_postgres(self) -> None:
        """As a crash does it; start() brings it back."""
        os.kill(int((self.home / "postgres/postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def kill_redis(self) -> None:
        os.kill(int((self.home / "valkey/valkey.pid").read_text()), signal.SIGKILL)

    def lose_redis(self) -> None:
        """Stops Redis for good: start() brings an empty one."""
        self.kill_redis()
        shutil.rmtree(self.home / "valkey")


def erase(connection: psycopg.Connection, position: int) -> Receipt:
    """Erases an entry of `main` on this connection."""
    ref = drive(find_ledger("main"), connection)
    draft = prepare(erasing(position, "system", "asked for"), "main", own=True)
    [outcome] = drive(record_own(Appender(ref), draft), connection)
    return outcome.receipt()


def eventually(holds: Callable[[], bool]) -> None:
    """Returns once it holds; within a time that is generous however busy the machine is."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def handed_out(ledger: Ledger, group: str = "mailer") -> list[int]:
    """The positions that a consumer of the group is given until there is no more; all acknowledged."""
    found = []
    for delivery in ledger.subscribe(group, after=0, idle=0.5):
        delivery.ack()
        found.append(delivery.entry.position)
    return found


LOCK = "select from ledger.tails where ledger_id = 1 for update"
