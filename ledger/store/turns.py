"""The line of appends that wait for a commit, and the turns in which they are written. Shared by both colours.

A slot is one caller's drafts. A turn is the slots that share one commit, or one slot that cannot share. Each slot is in
one of these states. The single assignments that change them let an exception come at any moment (group_commit.py):

| state   | in line | in a turn        | `leads` | outcome | next                                                      |
|---------|---------|------------------|---------|---------|-----------------------------------------------------------|
| waits   | yes     | no               | no      | none    | leads, if the line's first; or taken, by the leader       |
| leads   | first   | no               | yes     | none    | writes: its caller takes a turn, itself first             |
| writes  | no      | first of its own | yes     | none    | ended: it wakes its turn, and lets the line's first lead  |
| taken   | no      | another's        | no      | none    | decided; or waits again, if the tail was busy             |
| decided | no      | another's        | no      | set     | ended: it is woken                                        |
| ended   | no      | no               | no      | set     | its caller returns the outcomes, or raises the error      |

`left` says that the caller is gone, because of an exception: a slot that waited leaves the line, one that leads lets
the next lead, and one that was taken is written with its turn, but does not wait again. With asyncio a task of its own
writes: no slot leads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

from ledger.effects import Plan
from ledger.errors import ConnectionLost, LedgerError, OutcomeUnknown, TailBusy, Unavailable
from ledger.format.canonical import Draft
from ledger.store.appender import NEARLY, Appender, Condition
from ledger.store.idempotency import Outcome
from ledger.store.own_actions import record_own
from ledger.telemetry import span

MAX_TURN = 1000
"""Entries that waiting appends may bring into one commit."""
SETTLE_SECONDS = 2.0
"""For how long a connection that is lost again, while a turn is being settled, is replaced by another."""

MakePlan: TypeAlias = Callable[[bool, float], Plan[Sequence[Outcome]]]
"""Makes a turn's plan from `settle` and `tail_timeout` (Appender.append)."""


class Attempt(NamedTuple):
    """A plan to run. anew: on a new connection, because those at hand may all be dying."""

    plan: Plan[Sequence[Outcome]]
    anew: bool = False


Commit: TypeAlias = Generator[Attempt, Sequence[Outcome], None]
"""How a turn is written: yields attempts, and is sent the outcomes of each, or thrown the LedgerError that ended it."""


class Slot:
    """One caller's drafts, and what became of them.

    alone: makes the plan of drafts that cannot share a turn; None for those that can. since: when the caller came, on
    the monotonic clock. turn: what this slot wrote, as far as it is not woken yet. signal: what the caller waits on.
    """

    __slots__ = ("alone", "drafts", "error", "leads", "left", "outcomes", "signal", "since", "turn")

    def __init__(self, drafts: Sequence[Draft], alone: MakePlan | None) -> None:
        self.drafts = drafts
        self.alone = alone
        self.since = time.monotonic()
        self.left = False
        self.outcomes: Sequence[Outcome] = []
        self.error: Exception | None = None
        self.leads = False
        self.turn: list[Slot] = []
        self.signal: Any = None

    def result(self) -> Sequence[Outcome]:
        """The outcomes. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.outcomes


class Turns:
    """The line, and how its turns are written. mutex: held while slots move between the line and a turn."""

    def __init__(self, appender: Appender, mutex: AbstractContextManager[Any]) -> None:
        self.appender = appender
        self.waiting: deque[Slot] = deque()
        self._mutex = mutex

    def slot(self, draft: Draft, expect: Condition | None) -> Slot:
        """For one draft, which shares a commit unless it has a condition."""
        if expect is None:
            return Slot([draft], None)
        return Slot(
            [draft],
            lambda settle, tail_timeout: self.appender.append_if(
                draft, expect, settle=settle, tail_timeout=tail_timeout
            ),
        )

    def batch(self, drafts: Sequence[Draft]) -> Slot:
        """For drafts in a commit of their own, up to the first conflict."""
        return Slot(
            drafts,
            lambda settle, tail_timeout: self.appender.append(
                drafts, settle=settle, stop=True, tail_timeout=tail_timeout
            ),
        )

    def own(self, draft: Draft) -> Slot:
        """For one of the ledger's own entries. If a first try recorded it, a second one finds the action done."""
        return Slot([draft], lambda settle, tail_timeout: record_own(self.appender, draft, tail_timeout))

    def take(self, turn: list[Slot]) -> None:
        """Moves into an empty turn the first in line, and with it all who can share its commit."""
        self._move(turn)
        if turn[0].alone is None:
            while self.waiting and self.waiting[0].alone is None and len(turn) < MAX_TURN:
                self._move(turn)

    def commit(self, turn: list[Slot]) -> Commit:
        """Writes a turn. Leaves in it those that are decided: the turn's first, and others."""
        plan = self._plan(turn)
        try:
            try:
                with span("ledger.append", name=self.appender.ledger.name, callers=len(turn)):
                    outcomes = yield Attempt(plan(False))
            except ConnectionLost as lost:
                outcomes = yield from self._settle(turn, plan, lost)
            _share_out(turn, outcomes)
        except TailBusy as error:
            with self._mutex:
                self.give_up(turn, error)
        except Unavailable as error:
            fail(turn, error)
        except LedgerError as error:
            if len(turn) > 1:  # one of them is at fault: each for itself
                for slot in turn[:]:
                    alone = [slot]
                    yield from self.commit(alone)
                    turn += alone[1:]
            else:
                fail(turn, error)

    def _settle(
        self, turn: list[Slot], plan: Callable[[bool], Plan[Sequence[Outcome]]], lost: ConnectionLost
    ) -> Generator[Attempt, Sequence[Outcome], Sequence[Outcome]]:
        """A connection lost during COMMIT tells nothing: looks the ids up, and records what is missing.

        Lost again at once, it may be in a restart, and is tried again. Raises OutcomeUnknown after SETTLE_SECONDS.
        """
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                return (yield Attempt(plan(True), anew=True))
            except ConnectionLost as error:
                if time.monotonic() > end:
                    raise unknown(turn, error) from lost
            except Unavailable as error:
                raise unknown(turn, error) from lost

    def _plan(self, turn: list[Slot]) -> Callable[[bool], Plan[Sequence[Outcome]]]:
        """Made from `settle`. Waits for the tail no longer than the first of the turn may, who came first."""
        make = turn[0].alone
        if make is None:
            drafts = [each for slot in turn for each in slot.drafts]

            def make(settle: bool, tail_timeout: float) -> Plan[Sequence[Outcome]]:
                return self.appender.append(drafts, settle=settle, tail_timeout=tail_timeout)

        return lambda settle: make(settle, max(self._left(turn[0]), self._negligible))  # the tail may be free by now

    def give_up(self, turn: list[Slot], error: TailBusy) -> None:
        """After a turn that could not have the tail: leaves in it those that have waited for as long as they may.

        They fail. The first of the turn is one of them. The others of the turn stand in line again, before those who
        came later.
        """
        self.waiting.extendleft([slot for slot in reversed(turn[1:]) if not slot.left])
        del turn[1:]
        while self.waiting and self._left(self.waiting[0]) <= self._negligible:
            self._move(turn)
        fail(turn, error)

    def _move(self, turn: list[Slot]) -> None:
        """From the line into a turn; at no moment it is in neither (Ctrl-C)."""
        turn.append(self.waiting[0])
        self.waiting.popleft()

    @property
    def _negligible(self) -> float:
        """Seconds that are as good as none."""
        return (1 - NEARLY) * self.appender.lock_timeout

    def _left(self, slot: Slot) -> float:
        """Seconds for which a slot may still wait for the tail."""
        return slot.since + self.appender.lock_timeout - time.monotonic()


def _share_out(turn: list[Slot], outcomes: Sequence[Outcome]) -> None:
    """One outcome each to those that share a turn; all of them to one that is alone."""
    if turn[0].alone is not None:
        turn[0].outcomes = outcomes
    else:
        for slot, outcome in zip(turn, outcomes, strict=True):
            slot.outcomes = [outcome]


def fail(turn: list[Slot], error: Exception) -> None:
    for slot in turn:
        slot.error = error


def unknown(turn: list[Slot], error: Exception) -> OutcomeUnknown:
    """The error for a turn of which nobody knows whether it was recorded."""
    ids = [each.id for slot in turn for each in slot.drafts]
    some = ", ".join(map(str, ids[:3])) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return OutcomeUnknown(
        f"the connection was lost while recording {some}, and whether they were recorded could not be learnt "
        f"({error}): append the same ids again when Postgres is back"
    )
