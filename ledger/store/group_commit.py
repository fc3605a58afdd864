"""The appends of one process share commits: who comes first writes, those that arrive meanwhile form the next turn.

No timer and no added latency: a lone append is written at once, and under load a commit carries all that waited.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias

from ledger.drivers.pools import AsyncConnector, Connector
from ledger.effects import Plan
from ledger.errors import ConnectionLost, LedgerError, OutcomeUnknown, TailBusy, Unavailable
from ledger.format.canonical import Draft
from ledger.store.appender import NEARLY, Appender, Condition
from ledger.store.idempotency import Outcome
from ledger.store.own_actions import record_own
from ledger.telemetry import span

MAX_TURN = 1000
"""Entries that waiting appends may bring into one commit."""
SETTLING = 2.0
"""Seconds in which a connection that was lost again while an append was being settled is replaced by another."""


MakePlan: TypeAlias = Callable[[bool, float], Plan[list[Outcome]]]
"""Makes a turn's plan from `settle` and `tail_timeout` (Appender.append)."""


class _Slot:
    """One caller's drafts, and what became of them.

    alone: for drafts that cannot share a turn; None where they can. since: when the caller came. left: it has gone.
    leads: its caller is to write the next turn, and to let the next one lead then. turn: what that one wrote, while
    some of it wait to be woken. signal: what the caller waits on.
    """

    __slots__ = ("alone", "drafts", "error", "leads", "left", "outcomes", "signal", "since", "turn")

    def __init__(self, drafts: Sequence[Draft], alone: MakePlan | None) -> None:
        self.drafts = drafts
        self.alone = alone
        self.since = time.monotonic()
        self.left = False
        self.outcomes: list[Outcome] = []
        self.error: Exception | None = None
        self.leads = False
        self.turn: list[_Slot] = []
        self.signal: Any = None

    def result(self) -> list[Outcome]:
        if self.error is not None:
            raise self.error
        return self.outcomes


class _Turns:
    """Who waits and what the next turn takes. Shared by both colours."""

    def __init__(self, appender: Appender) -> None:
        self.appender = appender
        self.waiting: deque[_Slot] = deque()

    def slot(self, draft: Draft, expect: Condition | None) -> _Slot:
        if expect is None:
            return _Slot([draft], None)
        return _Slot(
            [draft],
            lambda settle, tail_timeout: self.appender.append_if(
                draft, expect, settle=settle, tail_timeout=tail_timeout
            ),
        )

    def batch(self, drafts: Sequence[Draft]) -> _Slot:
        return _Slot(
            drafts,
            lambda settle, tail_timeout: self.appender.append(
                drafts, settle=settle, stop=True, tail_timeout=tail_timeout
            ),
        )

    def own(self, draft: Draft) -> _Slot:
        # Recorded by a first try, whose outcome got lost, it is found done already.
        return _Slot([draft], lambda settle, tail_timeout: record_own(self.appender, draft, tail_timeout))

    def take(self, turn: list[_Slot]) -> None:
        """Moves into an empty turn the first in line, and with it all who can share its commit."""
        self._move(turn)
        if turn[0].alone is None:
            while self.waiting and self.waiting[0].alone is None and len(turn) < MAX_TURN:
                self._move(turn)

    def _move(self, turn: list[_Slot]) -> None:
        """From the line into a turn; at no moment it is in neither (Ctrl-C)."""
        turn.append(self.waiting[0])
        self.waiting.popleft()

    def span(self, turn: list[_Slot]) -> AbstractContextManager[object]:
        return span("ledger.append", name=self.appender.ledger.name, callers=len(turn))

    def plan(self, turn: list[_Slot]) -> Callable[[bool], Plan[list[Outcome]]]:
        """Made from `settle`. Waits for the tail no longer than the first of the turn may, who came first."""
        make = turn[0].alone
        if make is None:
            drafts = [each for slot in turn for each in slot.drafts]

            def make(settle: bool, tail_timeout: float) -> Plan[list[Outcome]]:
                return self.appender.append(drafts, settle=settle, tail_timeout=tail_timeout)

        return lambda settle: make(settle, max(self._left(turn[0]), self._negligible))  # the tail may be free by now

    def give_up(self, turn: list[_Slot], error: TailBusy) -> None:
        """After a turn that could not have the tail: leaves in it those that have waited for as long as they may.

        They fail. The first of the turn is one of them. The others of the turn stand in line again, before those who
        came later.
        """
        self.waiting.extendleft([slot for slot in reversed(turn[1:]) if not slot.left])
        del turn[1:]
        while self.waiting and self._left(self.waiting[0]) <= self._negligible:
            self._move(turn)
        _fail(turn, error)

    @property
    def _negligible(self) -> float:
        """Seconds that are as good as none."""
        return (1 - NEARLY) * self.appender.lock_timeout

    def _left(self, slot: _Slot) -> float:
        """Seconds for which a slot may still wait for the tail."""
        return slot.since + self.appender.lock_timeout - time.monotonic()


def _share_out(turn: list[_Slot], outcomes: list[Outcome]) -> None:
    """One outcome each to those that share a turn; all of them to one that is alone."""
    if turn[0].alone is not None:
        turn[0].outcomes = outcomes
    else:
        for slot, outcome in zip(turn, outcomes, strict=True):
            slot.outcomes = [outcome]


def _fail(turn: list[_Slot], error: Exception) -> None:
    for slot in turn:
        slot.error = error


def _unknown(turn: list[_Slot], error: Exception) -> OutcomeUnknown:
    ids = [each.id for slot in turn for each in slot.drafts]
    some = ", ".join(map(str, ids[:3])) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return OutcomeUnknown(
        f"the connection was lost while recording {some}, and whether they were recorded could not be learnt "
        f"({error}): append the same ids again when Postgres is back"
    )


class Writer:
    """The appends of all threads of one Ledger."""

    def __init__(self, connector: Connector, appender: Appender) -> None:
        self._connector = connector
        self._turns = _Turns(appender)
        self._mutex = threading.Lock()  # held for moments only, over `waiting`, `leads` and `_led`
        self._led = False

    def write(self, draft: Draft, expect: Condition | None = None) -> Outcome:
        """Records one draft, sharing the commit with others. Blocks until it is durable."""
        [outcome] = self._take_turn(self._turns.slot(draft, expect))
        return outcome

    def write_batch(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Records drafts in a commit of their own; an outcome for each, up to the first conflict."""
        return self._take_turn(self._turns.batch(drafts))

    def write_own(self, draft: Draft) -> Outcome:
        """Records one of the ledger's own entries: see own_actions.py."""
        [outcome] = self._take_turn(self._turns.own(draft))
        return outcome

    # An exception may come at any moment, from a signal's handler: Ctrl-C, a soft time limit, a timeout. Then the
    # other threads must not wait for ever, whatever this one was at. So single assignments say who leads and who is to
    # be woken, and _leave does what was left.

    def _take_turn(self, slot: _Slot) -> list[Outcome]:
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

    def _leave(self, slot: _Slot) -> None:
        """Gives up a place in line; where its turn has begun, its entry may still be recorded."""
        with self._mutex:
            slot.left = True
            if slot in self._turns.waiting:
                self._turns.waiting.remove(slot)
        self._end(slot)

    def _end(self, slot: _Slot) -> None:
        """Wakes those whose turn was written, and lets the next in line write. Does the rest where it was begun."""
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

    def _lead(self, slot: _Slot) -> None:
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
            _fail(turn, _unknown(turn, Unavailable(f"interrupted by {type(error).__name__}")))
            raise
        self._end(slot)

    def _commit(self, turn: list[_Slot]) -> None:
        """Writes a turn. Leaves in it those that have their outcome, or an error: the turn's first, and others."""
        plan = self._turns.plan(turn)
        try:
            try:
                with self._turns.span(turn):
                    outcomes = self._connector.run(plan(False))
            except ConnectionLost as lost:
                outcomes = self._settle(turn, plan, lost)
            _share_out(turn, outcomes)
        except TailBusy as error:
            with self._mutex:
                self._turns.give_up(turn, error)
        except Unavailable as error:
            _fail(turn, error)
        except LedgerError as error:
            if len(turn) > 1:  # one of them is at fault: each for itself
                for slot in turn[:]:
                    alone = [slot]
                    self._commit(alone)
                    turn += alone[1:]
            else:
                _fail(turn, error)

    def _settle(
        self, turn: list[_Slot], plan: Callable[[bool], Plan[list[Outcome]]], lost: ConnectionLost
    ) -> list[Outcome]:
        """A connection lost during COMMIT tells nothing: look the ids up, record what is missing.

        Lost at once again it may be in a restart; lost after a silence, somebody has waited for long enough.
        """
        end = time.monotonic() + SETTLING
        while True:
            try:
                return self._connector.run_anew(plan(True))
            except ConnectionLost as error:
                if time.monotonic() > end:
                    raise _unknown(turn, error) from lost
            except Unavailable as error:
                raise _unknown(turn, error) from lost


class AsyncWriter:
    """The appends of all tasks of one AsyncLedger.

    A task of its own writes, so that a cancelled caller harms no other.
    """

    def __init__(self, connector: AsyncConnector, appender: Appender) -> None:
        self._connector = connector
        self._turns = _Turns(appender)
        self._task: asyncio.Task[None] | None = None

    async def write(self, draft: Draft, expect: Condition | None = None) -> Outcome:
        """`Writer.write`, awaited. Cancelling it does not take back what was said: the entry may still be recorded."""
        [outcome] = await self._take_turn(self._turns.slot(draft, expect))
        return outcome

    async def write_batch(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """`Writer.write_batch`, awaited."""
        return await self._take_turn(self._turns.batch(drafts))

    async def write_own(self, draft: Draft) -> Outcome:
        """`Writer.write_own`, awaited."""
        [outcome] = await self._take_turn(self._turns.own(draft))
        return outcome

    async def _take_turn(self, slot: _Slot) -> list[Outcome]:
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
        turn: list[_Slot] = []
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
                    slot.error = slot.error or _unknown([slot], Unavailable("the event loop is closing"))
                    slot.signal.set_result(None)
            self._turns.waiting.clear()

    async def _commit(self, turn: list[_Slot]) -> None:
        plan = self._turns.plan(turn)
        try:
            try:
                with self._turns.span(turn):
                    outcomes = await self._connector.run(plan(False))
            except ConnectionLost as lost:
                outcomes = await self._settle(turn, plan, lost)
            _share_out(turn, outcomes)
        except TailBusy as error:
            self._turns.give_up(turn, error)
        except Unavailable as error:
            _fail(turn, error)
        except LedgerError as error:
            if len(turn) > 1:
                for slot in turn[:]:
                    alone = [slot]
                    await self._commit(alone)
                    turn += alone[1:]
            else:
                _fail(turn, error)

    async def _settle(
        self, turn: list[_Slot], plan: Callable[[bool], Plan[list[Outcome]]], lost: ConnectionLost
    ) -> list[Outcome]:
        end = time.monotonic() + SETTLING
        while True:
            try:
                return await self._connector.run_anew(plan(True))
            except ConnectionLost as error:
                if time.monotonic() > end:
                    raise _unknown(turn, error) from lost
            except Unavailable as error:
                raise _unknown(turn, error) from lost
