"""Several threads at once: no deadlock, no crash, and the same as alone. The core lets go of the interpreter's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger import Event
from ledger.events import GENESIS, Tail
from ledger.format import chain, native
from ledger.format.findings import BEGINNING, Link
from ledger.format.rules import Columns
from ledger.store import entry_rows
from tests.support.both.drafts import of_core, of_python
from tests.support.copy_messages import messages
from tests.support.forging import forged
from tests.support.helpers import race
from tests.unit.native.test_links import said

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
ROUNDS = 5

pytestmark = pytest.mark.timeout(120)


def together(*callers: Callable[[], Any]) -> list[Any]:
    """All at once, begun by a barrier."""
    barrier = threading.Barrier(len(callers))

    def begun(caller: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            barrier.wait()
            return caller()

        return run

    return race(*map(begun, callers))


def rows(count: int) -> list[Columns]:
    made: list[Columns] = []
    for number in range(1, count + 1):
        made.append(forged(number, made[-1].hash if made else GENESIS, after=b'"%b"' % (b"x" * (number % 700))))
    return made


def test_the_same_links() -> None:
    """Each thread asks for other things of them first."""
    events = [Event("user:42", "b", after="x" * (number % 900), idempotency_key=str(number)) for number in range(1500)]
    expected = list(map(of_python, events))
    tail = Tail(0, GENESIS, AT)
    reference = list(map(said, chain.Links(tail, expected, AT)))
    copied = b"".join(entry_rows._copy_data(3, chain.Links(tail, expected, AT)))
    for _ in range(ROUNDS):
        links = chain.extend(tail, list(map(of_core, events)), AT)

        def copy(links: Any = links) -> bytes:
            return b"".join(entry_rows.copy_data(3, links))

        def backwards(links: Any = links) -> list[Any]:
            return [said(links[index]) for index in range(-1, -1501, -1)][::-1]

        def forwards(links: Any = links) -> list[Any]:
            return [said(links[index]) for index in range(1500)]

        def iterate(links: Any = links) -> list[Any]:
            return list(map(said, links))

        results = together(copy, backwards, iterate, copy, forwards, iterate)
        assert results[0] == results[3] == copied
        assert results[1] == results[2] == results[4] == results[5] == reference


def test_one_copy_is_taken_by_several() -> None:
    """Each piece comes once, or the taker is told that another is at it."""
    links = chain.extend(Tail(0, GENESIS, AT), [of_core(Event("a", "b", after="x" * 2000)) for _ in range(3000)], AT)
    pieces = iter(entry_rows.copy_data(3, links))

    def take() -> list[bytes]:
        taken: list[bytes] = []
        while True:
            try:
                taken.append(next(pieces))
            except StopIteration:
                return taken
            except RuntimeError:
                continue

    taken = together(take, take, take)
    alone = list(entry_rows.copy_data(3, links))
    assert sorted(piece for some in taken for piece in some) == sorted(alone)


def test_each_its_own_check() -> None:
    whole = messages(rows(2000))

    def check() -> Any:
        core = native.core.Check("main", set(), True)
        core.go_on(*BEGINNING._replace(recorded=0))
        return core.take(whole, 0), Link(*core.last()), core.leaves()

    def publish() -> Any:
        core = native.core.Publish("main")
        core.go_on(*BEGINNING)
        made: list[Any] = []
        return core.take(whole, 0, 2**30, made), Link(*core.last()), made

    def read() -> Any:
        entries: list[Any] = []
        return native.entries.take("main", whole, entries), entries

    alone = check(), publish(), read()
    assert alone[0][0] == (2000, 2001) and len(alone[1][2]) == len(alone[2][1]) == 2000
    for _ in range(ROUNDS):
        assert together(check, publish, read, check, publish, read) == [*alone, *alone]


def test_a_check_in_two_threads_is_refused_or_waits() -> None:
    """A Check is of one thread: another one is told so, and what the first does stays whole."""
    whole = messages(rows(3000))
    core = native.core.Check("main", set(), False)
    core.go_on(*BEGINNING._replace(recorded=0))

    def take() -> int:
        try:
            return int(core.take(whole, 0)[0])
        except RuntimeError:
            return 0

    assert sum(together(take, take, take, take)) == 3000


def test_lists_that_change_meanwhile() -> None:
    """While a list of messages is looked at, another thread may empty it."""
    made = messages(rows(1000))
    for _ in range(ROUNDS):
        taken = list(made)

        def take(taken: list[bytes] = taken) -> tuple[int, int]:
            core = native.core.Check("main", set(), False)
            core.go_on(*BEGINNING._replace(recorded=0))
            entries, index = core.take(taken, 0)
            return entries, index

        def empty(taken: list[bytes] = taken) -> None:
            while taken:
                taken.pop()

        (entries, index), _ = together(take, empty)
        assert entries <= index <= len(made)
