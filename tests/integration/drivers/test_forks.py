"""A forked child opens its own connections, and its parent's stay usable."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import AsyncLedger, Event, Ledger, UsageError, testing
from ledger.events import Receipt
from ledger.stream.delivery import Delivery
from ledger.stream.relay import Relay
from ledger.telemetry import Counters
from tests.support.forking import SECONDS, Child, in_child
from tests.support.helpers import checked, event, receipt_of

HIDDEN = pytest.mark.parametrize("hidden", [False, True], ids=["fork", "in C"])
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def true_of(ledger: Ledger, receipts: Iterable[Receipt]) -> int:
    """How many receipts there are, once each was found to be the one of a recorded entry."""
    recorded = {entry.position: receipt_of(entry) for entry in checked(ledger)}
    receipts = list(receipts)
    assert [each for each in receipts if recorded.get(each.position) != each] == []
    assert len({each.id for each in receipts}) == len(receipts)
    return len(receipts)


def appended(ledger: Ledger, count: int) -> list[Receipt]:
    return [ledger.append(event(number)) for number in range(count)]


@contextmanager
def running(*works: Callable[[], object]) -> Iterator[None]:
    """Threads that do their work again and again for as long as the block runs."""
    over = threading.Event()
    errors: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []


def backends(admin: psycopg.Connection) -> set[int]:
    """The process ids of the sessions that ledgers have in this database."""
    rows = admin.execute(
        "select pid from pg_stat_activity where application_name = 'auditledger' and datname = current_database()"
    )
    return {pid for (pid,) in rows}


@HIDDEN
def test_receipts_of_parent_and_children_are_true(ledger: Ledger, hidden: bool) -> None:
    receipts = appended(ledger, 3)
    children = [Child(lambda: appended(ledger, 20), hidden=hidden) for _ in range(3)]
    receipts += appended(ledger, 20)
    for child in children:
        receipts += child.result()
    assert true_of(ledger, receipts) == 83


def test_fork_of_a_fork(ledger: Ledger) -> None:
    def child() -> list[Receipt]:
        mine = appended(ledger, 2)
        grandchild = Child(lambda: appended(ledger, 5) + in_child(lambda: appended(ledger, 5)))
        return [*mine, *appended(ledger, 5), *grandchild.result()]

    receipts = appended(ledger, 2)
    assert true_of(ledger, receipts + in_child(child) + appended(ledger, 2)) == 21


def test_fork_while_other_threads_append(ledger: Ledger) -> None:
    """Every lock of ours may be held at that moment, and turns are under way.

    (Forked in C while threads run, Python itself hangs in the child: its own locks are not renewed.)
    """
    receipts: list[Receipt] = []
    one = lambda: receipts.append(ledger.append(event()))  # noqa: E731
    many = lambda: ledger.append_many(event(number) for number in range(3000))  # noqa: E731
    received: list[Receipt] = []
    with running(one, one, one, many, lambda: list(ledger.read(limit=50))):
        for _ in range(6):
            received += in_child(lambda: appended(ledger, 3))
    assert true_of(ledger, receipts + received) > 18


def test_fork_from_another_thread_than_the_one_that_opened(ledger: Ledger) -> None:
    receipts = appended(ledger, 1)
    thread = threading.Thread(target=lambda: receipts.extend(in_child(lambda: appended(ledger, 3))))
    thread.start()
    thread.join()
    assert true_of(ledger, receipts) == 4


def test_fork_while_another_thread_opens_it(ledger: Ledger, admin: psycopg.Connection) -> None:
    """That thread holds the lock of the opening, and waits for Postgres."""
    with admin.transaction():
        admin.execute("lock table ledger.ledgers in access exclusive mode")
        opening = threading.Thread(target=ledger.tail)
        opening.start()
        while not admin.execute("select from pg_locks where not granted").fetchall():
            time.sleep(0.01)
        child = Child(lambda: appended(ledger, 2))
    opening.join()
    assert true_of(ledger, child.result()) == 2


@HIDDEN
def test_nothing_of_a_child_reaches_the_parents_sessions(
    ledger: Ledger, admin: psycopg.Connection, hidden: bool
) -> None:
    receipts = appended(ledger, 2)
    before = backends(admin)
    assert before

    def child() -> set[int]:
        ledger.close()
        mine = appended(ledger, 1)
        own = backends(admin_of(admin)) - before
        assert own, "no connection of its own"
        ledger.close()
        gc.collect()
        return {each.position for each in mine}

    in_child(child, hidden=hidden)
    assert backends(admin) == before
    with ledger._connector._postgres.lend(None) as connection:
        assert connection().info.backend_pid in before
    assert true_of(ledger, receipts + appended(ledger, 2)) == 4


def admin_of(connection: psycopg.Connection) -> psycopg.Connection:
    """Another connection like it: a child must not use its parent's."""
    return psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True)


_SCRIPT = """
import os, sys, threading
from ledger import Event, Ledger

ledger = Ledger.open()
stop = threading.Event()
receipts = []
def work():
    while not stop.is_set():
        receipts.append(ledger.append(Event("user:1", "a.b")))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
follower = ledger.follow(after=0)
next(follower)
for use in (False, True):
    if os.fork() == 0:
        if use:
            ledger.append(Event("user:2", "a.b"))
        del ledger, follower
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
stop.set()
for thread in threads:
    thread.join()
[next(follower) for _ in range(len(receipts))]
assert len({each.position for each in receipts}) == len(receipts)
ledger.close()
"""


def test_a_child_that_ends_as_a_program_does(ledger: Ledger) -> None:
    """With finalisers and atexit's calls, while threads append and a follower waits: silently; the parent goes on."""
    environment = os.environ | {
        "LEDGER_DATABASE_URL": ledger.settings.database_url or "",
        "LEDGER_REDIS_URL": ledger.settings.redis_url or "",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", _SCRIPT],
        env=environment, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(checked(ledger)) > 1


# ---------------------------------------------------------------------------------------------------- multiprocessing


def _append_some(ledger: Ledger, count: int) -> list[Receipt]:
    return appended(ledger, count)


def _append_async(ledger: AsyncLedger, count: int) -> list[Receipt]:
    async def work() -> list[Receipt]:
        async with ledger:
            return [await ledger.append(event(number)) for number in range(count)]

    return asyncio.run(work())


def test_a_connection_that_was_lent_before_the_fork(ledger: Ledger) -> None:
    """Two processes on one socket take each other's answers: the child is told so, and sends nothing."""
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        receipts = [ledger.append(event(0), connection=connection)]

        def in_the_child() -> str:
            with pytest.raises(UsageError) as refused:
                ledger.append(event(1), connection=connection)
            return str(refused.value)

        assert in_child(in_the_child).startswith("the connection belongs to the parent of this process")
        receipts.append(ledger.append(event(2), connection=connection))
    assert true_of(ledger, receipts) == 2


@FORKS
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(ledger: Ledger, method: str) -> None:
    """Given as an argument: inherited by fork, else pickled by its settings."""
    receipts = appended(ledger, 2)
    with multiprocessing.get_context(method).Pool(3) as pool:
        waiting = [pool.apply_async(_append_some, (ledger, 10)) for _ in range(4)]
        receipts += appended(ledger, 10)
        for each in waiting:
            receipts += each.get(SECONDS)
        receipts += pool.apply(_append_async, (AsyncLedger(ledger.settings), 3))
    assert true_of(ledger, receipts) == 55


@FORKS
def test_a_pool_that_inherits_it(ledger: Ledger) -> None:
    """As with a global: nothing is pickled."""
    receipts = appended(ledger, 2)
    with multiprocessing.get_context("fork").Pool(2, _inherit, (ledger,)) as pool:
        for some in pool.map(_append_inherited, range(6)):
            receipts += some
    assert true_of(ledger, receipts + appended(ledger, 1)) == 15


_inherited: list[Ledger] = []


def _inherit(ledger: Ledger) -> None:
    _inherited.append(ledger)


def _append_inherited(_: int) -> list[Receipt]:
    return appended(_inherited[0], 2)


def test_pickled_it_says_no_password() -> None:
    ledger = Ledger.open(database_url="postgresql://u:secret@h/d")
    again = pickle.loads(pickle.dumps(ledger))  # noqa: S301 - our own
    assert again.settings == ledger.settings
    assert "secret" not in repr(again) + repr(ledger) + str(vars(ledger))


# ------------------------------------------------------------------------------------------------------- what goes on


def test_read_goes_on_in_parent_and_child(ledger: Ledger) -> None:
    ledger.append_many(event(number) for number in range(2500))
    reading = ledger.read()
    first = [next(reading).position for _ in range(10)]

    def rest() -> list[int]:
        return [entry.position for entry in reading]

    child = Child(rest)
    assert first + rest() == list(range(1, 2501))
    assert first + child.result() == list(range(1, 2501))


@HIDDEN
def test_what_is_live_goes_on_in_parent_and_child(ledger: Ledger, hidden: bool) -> None:
    """Each with connections of its own; in a consumer group the child is another consumer."""
    appended(ledger, 4)
    Relay(ledger._connector).publish()
    following, deliveries = (
        ledger.follow(after=0, idle=5.0),
        ledger.subscribe("mailer", after=0, batch_size=2, idle=5.0),
    )
    assert (next(following).position, next(deliveries).entry.position) == (1, 1)
    assert in_child(lambda: next(following).position, hidden=hidden) == 2
    assert in_child(lambda: acknowledged(deliveries), hidden=hidden) == 3  # the second is the parent's
    assert (next(following).position, next(deliveries).entry.position) == (2, 2)
    in_child(lambda: [following.close(), deliveries.close()], hidden=hidden)  # type: ignore[attr-defined]
    assert next(following).position == 3
    assert in_child(lambda: next(ledger.follow(after=2)).position, hidden=hidden) == 3
    assert in_child(lambda: next(ledger.subscribe("other", after=0)).entry.position, hidden=hidden) == 1
    assert next(following).position == 4
    ledger.append(event())
    Relay(ledger._connector).publish()
    assert (next(following).position, next(deliveries).entry.position) == (5, 5)


def acknowledged(deliveries: Iterator[Delivery]) -> int:
    delivery = next(deliveries)
    delivery.ack()
    return delivery.entry.position


def test_a_delivery_can_be_acknowledged_in_a_child(ledger: Ledger) -> None:
    appended(ledger, 2)
    Relay(ledger._connector).publish()
    delivery = next(ledger.subscribe("mailer", after=0, idle=5.0, consumer="one"))
    in_child(delivery.ack)
    claimed = [each.entry.position for each in ledger.subscribe("mailer", after=0, idle=0.5, claim_after=0.01)]
    assert 1 not in claimed
    assert 2 in claimed


def test_append_many_goes_on_in_the_parent_alone(ledger: Ledger) -> None:
    said: list[str] = []

    def source() -> Iterator[Event]:
        for number in range(4000):
            if number == 1500:
                child = os.fork()
                if child == 0:
                    return
                said.append(str(child))
            yield event(number)

    parent = os.getpid()
    try:
        count, _ = ledger.append_many(source())
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(7 if isinstance(error, UsageError) else 4)
        raise
    if os.getpid() != parent:
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(int(said[0]), 0)[1]) == 7
    assert count == len(checked(ledger)) == 4000


def test_a_child_that_leaves_the_block_of_its_parents_servers(servers: testing.TestServers) -> None:
    with testing.database(servers.database_url) as url:

        def child() -> None:
            made.__exit__(None, None, None)

        made = testing.database(servers.database_url)
        other = made.__enter__()
        in_child(child)
        for each in (url, other):
            psycopg.connect(each).close()
        made.__exit__(None, None, None)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(other)


def test_closed_it_stays_closed_in_a_child(ledger: Ledger) -> None:
    appended(ledger, 1)
    ledger.close()

    def child() -> None:
        with pytest.raises(UsageError, match="closed"):
            ledger.append(event())

    in_child(child)


def test_counters_of_a_child_are_its_own() -> None:
    counters = Counters()
    counters.add("some", "label")
    with counters._lock:  # as another thread of the parent might
        assert in_child(lambda: dict(counters.sums("some"))) == {}
    assert dict(counters.sums("some")) == {("label",): 1}


@pytest.mark.parametrize("unlocked", [False, True], ids=["held", "killed"])
def test_a_childs_inherited_file_lock(tmp_path: Path, unlocked: bool) -> None:
    """A process that holds the lock forks, and ends: whoever waits gets it, whatever the child does."""
    script = """
import fcntl, os, signal, sys, time
from ledger.drivers import forks
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
with forks.held(descriptor):
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        os.closerange(1, 3)
        time.sleep(60)
    print(child, flush=True)
    if sys.argv[2] == "killed":
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "lock"
    how = "killed" if unlocked else "left"
    done = subprocess.run([sys.executable, "-c", script, path, how], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------------------ asyncio


@contextmanager
def loop_of_its_own() -> Iterator[Callable[[Any], Any]]:
    """An event loop in a thread; gives what runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def appended_async(ledger: AsyncLedger, count: int) -> list[Receipt]:
    return list(await asyncio.gather(*(ledger.append(event(number)) for number in range(count))))


@HIDDEN
@pytest.mark.parametrize("in_loop", [False, True], ids=["other thread", "inside the loop"])
def test_async_ledger(ledger: Ledger, hidden: bool, in_loop: bool) -> None:
    """Forked while its loop runs in another thread, and from within the loop, with appends under way."""
    mine = AsyncLedger(ledger.settings)

    def child() -> list[Receipt]:
        async def work() -> list[Receipt]:
            found = await appended_async(mine, 10)
            [entry async for entry in mine.follow(after=0, idle=0.1)]
            await mine.close()
            return found

        return asyncio.run(work())

    async def within() -> list[Receipt]:
        waiting = asyncio.create_task(appended_async(mine, 50))
        await asyncio.sleep(0.005)
        forked = Child(child, hidden=hidden)
        found = await waiting + await appended_async(mine, 5)
        return [*found, *await asyncio.to_thread(forked.result)]

    async def live() -> list[int]:
        return [entry.position async for entry in mine.follow(after=0, idle=0.3)]

    with loop_of_its_own() as run:
        receipts = run(appended_async(mine, 5))
        if in_loop:
            receipts += run(within())
        else:
            forked = Child(child, hidden=hidden)
            receipts += run(appended_async(mine, 50)) + forked.result() + run(appended_async(mine, 5))
        assert len(run(live())) == true_of(ledger, receipts) == 70
        run(mine.close())


def test_async_iterators_go_on_in_parent_and_child(ledger: Ledger) -> None:
    appended(ledger, 5)
    Relay(ledger._connector).publish()
    mine = AsyncLedger(ledger.settings)

    async def first(iterator: AsyncIterator[Any]) -> Any:
        return await anext(iterator)

    with loop_of_its_own() as run:
        following = mine.follow(after=0, idle=5.0)
        deliveries = mine.subscribe("mailer", after=0, batch_size=2, idle=5.0)
        assert run(first(following)).position == run(first(deliveries)).entry.position == 1
        assert in_child(lambda: asyncio.run(first(following)).position) == 2
        assert in_child(lambda: asyncio.run(first(deliveries)).entry.position) == 3
        assert run(first(following)).position == run(first(deliveries)).entry.position == 2
        run(following.aclose())  # type: ignore[attr-defined]
        run(deliveries.aclose())  # type: ignore[attr-defined]
        run(mine.close())
