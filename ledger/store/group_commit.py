"""Group commit: the appends of one process share commits. Who comes first writes; those that arrive meanwhile are next.

No timer and no added latency: a lone append is written at once, and under load a commit carries all that waited.
turns.py has the line and what a turn does; here is who waits on what, for threads and for asyncio.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Protocol, TypeVar

from ledger.effects import Plan
from ledger.errors import LedgerError, Unavailable
from ledger.format.canonical import Draft
from ledger.store.appender import Appender, Condition
from ledger.store.idempotency import Outcome
from ledger.store.turns import Slot, Turns, fail, unknown

T = TypeVar("T")


class Runner(Protocol):
    """What runs plans on Postgres: a Connector. Raises LedgerError."""

    def run(self, plan: Plan[T], /) -> T:
        """On a connection at hand."""

    def run_anew(self, plan: Plan[T], /) -> T:
        """On a new connection."""


class AsyncRunner(Protocol):
    """`Runner` for asyncio: an AsyncConnector."""

    async def run(self, plan: Plan[T], /) -> T: ...
    async def run_anew(self, plan: Plan[T], /) -> T: ...


class Writer:
    """The appends of all threads of one Ledger."""

    def __init__(self, runner: Runner, appender: Appender) -> None:
        self._runner = runner
        self._mutex = threading.Lock()  # held for moments only, over the line, `leads` and `_led`
        self._turns = Turns(appender, self._mutex)
        self._led = False

    def write(self, draft: Draft, expect: Condition | None = None) -> Outcome:
        """Records one draft, sharing the commit with others. Blocks until it is durable."""
        [outcome] = self._take_turn(self._turns.slot(draft, expect))
        return outcome

    def write_batch(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        """Records drafts in a commit of their own; an outcome for each, up to the first conflict."""
        return self._take_turn(self._turns.batch(drafts))

    def write_own(self, draft: Draft) -> Outcome:
        """Records one of the ledger's own entries: see own_actions.py."""
        [outcome] = self._take_turn(self._turns.own(draft))
        return outcome

    # An exception may come at any moment, from a signal's handler: Ctrl-C, a soft time limit, a timeout. Then the
    # other threads must not wait for ever, whatever this one was doing. So single assignments say who leads and who is
    # to be woken, and _leave does what was left.

    def _take_turn(self, slot: Slot) -> Sequence[Outcome]:
        try:
            with self._mutex:
                if self._led:
                    slot.signal = threading.Lock()  # the cheapest thing to wait on: released once, when our turn came
                    slot.signal.acquire()
                    self._turns.waiting.append(slot)
                else:
                    self._turns.waiting.append(slot)
                    self._led = slot.leads = True
            if slot.signal is not None:
                slot.signal.acquire()
            if slot.leads:
                self._lead(slot)
        except BaseException:
            self._leave(slot)
            raise
        return slot.result()

    def _leave(self, slot: Slot) -> None:
        """Gives up a place in line; if its turn has begun, its entry may still be recorded."""
        with self._mutex:
            slot.left = True
            if slot in self._turns.waiting:
                self._turns.waiting.remove(slot)
        self._end(slot)

    def _end(self, slot: Slot) -> None:
        """Wakes those whose turn was written, and lets the next in line write. Does the rest if it was begun."""
        while len(slot.turn) > 1:
            with suppress(RuntimeError):  # woken already
                slot.turn[-1].signal.release()
            slot.turn.pop()
        with self._mutex:
            if not slot.leads:
                return
            if not self._turns.waiting:
                self._led = slot.leads = False
                return
            following = self._turns.waiting[0]
            following.leads, slot.leads = True, False
            following.signal.release()

    def _lead(self, slot: Slot) -> None:
        """Writes one turn, of which our slot is the first, then hands the lead to the next in line."""
        turn = slot.turn
        try:
            with self._mutex:
                self._turns.take(turn)
            self._commit(turn)
        except BaseException as error:
            with self._mutex:
                for each in turn:
                    if each in self._turns.waiting:
                        self._turns.waiting.remove(each)
            fail(turn, unknown(turn, Unavailable(f"interrupted by {type(error).__name__}")))
            raise
        self._end(slot)

    def _commit(self, turn: list[Slot]) -> None:
        """Drives Turns.commit."""
        commit = self._turns.commit(turn)
        try:
            attempt = next(commit)
            while True:
                run = self._runner.run_anew if attempt.anew else self._runner.run
                try:
                    outcomes = run(attempt.plan)
                except LedgerError as error:
                    attempt = commit.throw(error)
                else:
                    attempt = commit.send(outcomes)
        except StopIteration:
            return


class AsyncWriter:
    """The appends of all tasks of one AsyncLedger.

    A task of its own writes, so that a cancelled caller harms no other.
    """

    def __init__(self, runner: AsyncRunner, appender: Appender) -> None:
        self._runner = runner
        self._turns = Turns(appender, nullcontext())
        self._task: asyncio.Task[None] | None = None

    async def write(self, draft: Draft, expect: Condition | None = None) -> Outcome:
        """`Writer.write`, awaited. The entry may still be recorded after it was cancelled."""
        [outcome] = await self._take_turn(self._turns.slot(draft, expect))
        return outcome

    async def write_batch(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        """`Writer.write_batch`, awaited."""
        return await self._take_turn(self._turns.batch(drafts))

    async def write_own(self, draft: Draft) -> Outcome:
        """`Writer.write_own`, awaited."""
        [outcome] = await self._take_turn(self._turns.own(draft))
        return outcome

    async def _take_turn(self, slot: Slot) -> Sequence[Outcome]:
        slot.signal = asyncio.get_running_loop().create_future()
        self._turns.waiting.append(slot)
        if self._task is None:
            self._task = asyncio.create_task(self._write_turns())
        await slot.signal
        return slot.result()

    async def close(self) -> None:
        """Waits for what is under way, unless the event loop in which it was is over."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            await self._task

    async def _write_turns(self) -> None:
        turn: list[Slot] = []
        try:
            while self._turns.waiting:
                turn = []
                self._turns.take(turn)
                await self._commit(turn)
                for slot in turn:
                    if not slot.signal.done():
                        slot.signal.set_result(None)
        finally:
            self._task = None
            for slot in (*turn, *self._turns.waiting):
                if not slot.signal.done():
                    slot.error = slot.error or unknown([slot], Unavailable("the event loop is closing"))
                    slot.signal.set_result(None)
            self._turns.waiting.clear()

    async def _commit(self, turn: list[Slot]) -> None:
        """Drives Turns.commit."""
        commit = self._turns.commit(turn)
        try:
            attempt = next(commit)
            while True:
                run = self._runner.run_anew if attempt.anew else self._runner.run
                try:
                    outcomes = await run(attempt.plan)
                except LedgerError as error:
                    attempt = commit.throw(error)
                else:
                    attempt = commit.send(outcomes)
        except StopIteration:
            return
