"""Appends to one ledger: the write path. There are five ways in, and each returns what Postgres confirmed, no more.

| way                  | taken by                                               | transaction    | round trips     |
|----------------------|--------------------------------------------------------|----------------|-----------------|
| quick                | drafts without a condition, while the tail is believed | its own, of    | 1               |
|                      | to be known                                            | one statement  |                 |
| locked               | all others: an unknown tail, a condition (`expect=`),  | its own        | 2; 3 for a COPY |
|                      | another writer who was faster just now, and an append  |                |                 |
|                      | whose connection was lost                              |                |                 |
| caller's transaction | `connection=`                                          | the caller's   | 1 or 2          |
| outbox               | the sealer: events that `ledger.record` put there      | its own        | 2; 3 for a COPY |
| own actions          | erase, hold, release, skip, quarantine, rotate_key …   | its own        | 3               |

- Group commit (group_commit.py) stands in front of all but the caller's transaction: the appends of one process form a
  line, and those that can share a commit do.
- Quick (`_append_quickly`), because nobody then waits for a lock that is held over a round trip: an INSERT or COPY of
  entries made for the tail last seen. Postgres refuses it unless that is the tail. A refusal does not say which id is
  known or whether it would help to try again, so the same drafts then go the locked way.
- Locked (`_append_locked`), because with the tail locked nothing changes any more: the first round trip begins, locks
  (tail_lock.py) and asks for known ids and the condition; the second writes and commits. If others append too, it
  flushes only then (durability.py): they have the tail while the disk, and a synchronous standby, are waited for.
- Caller's transaction (`append_within`), because the entry is to be recorded if and only if the caller's work is. The
  tail stays locked until the caller commits. A lone draft without a known id is written in the round trip that locks.
- Outbox (`append_from`), as locked, because the events leave the outbox in the same transaction. Its commit is not
  flushed: a crash takes the entries back, and puts the events into the outbox again.
- Own actions (`append_own`), because only functions of the database may record them, each with what it does. They end
  as the locked way does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from ledger.effects import Effect, Pipeline, Plan, Query, Refused, Row
from ledger.errors import ConditionFailed, ConnectionLost, IdempotencyConflict, Unavailable
from ledger.events import Entry, Event, Tail, Unchanged
from ledger.format import chain
from ledger.format.canonical import Draft
from ledger.format.chain import ChainedDraft
from ledger.store.durability import COMMIT_THEN_FLUSH, UNFLUSHED
from ledger.store.entry_rows import confirm, row_params, unconfirmed, write
from ledger.store.idempotency import Conflict, Outcome, Recorded, compare, compare_reading, resolved, sift
from ledger.store.ledgers import COMMIT, LOCK_TIMEOUT, SQL, LedgerRef, only
from ledger.store.tail_lock import lock_tail, tail_busy

Condition: TypeAlias = int | Unchanged

_WRONG_TIME = "LE003"
NEARLY = 0.95
"""The part of lock_timeout that is as good as all of it."""
_CONTENDED_FOR = 0.5
"""Seconds to stay with the locked way after another writer was faster."""
_OUT_OF_LINE_FOR = 10.0
"""Seconds without standing in line, after that had to be left."""


class Source(Protocol):
    """Where drafts come from, and leave in the transaction that records them."""

    def take(self) -> Query:
        """The statement that takes them, once the tail is locked."""

    def taken(self, rows: list[Row]) -> list[Draft]:
        """The drafts that it took. rows: of `take`."""

    def set_aside(self, conflicts: Mapping[int, IdempotencyConflict]) -> Plan[None]:
        """Keeps, in the same transaction, what is not recorded. conflicts: by the index of the draft that was taken."""


class Appender:
    """Appends to one ledger from where this process last saw its tail.

    The tail kept here is a guess, which the database confirms or refuses. One plan at a time may run on it, but for
    append_within, which the callers' own connections may run beside one another.
    lock_timeout: the connections', in seconds: an append that has a transaction of its own waits for no longer.
    """

    def __init__(self, ledger: LedgerRef, lock_timeout: float = math.inf) -> None:
        self.ledger = ledger
        self.lock_timeout = lock_timeout
        self._tail: Tail | None = None
        self._clock_offset = timedelta()
        self._contended_until = 0.0
        self._in_line_from = 0.0
        self._others = False  # appended since we last saw the tail, or may have

    def append(
        self, drafts: Sequence[Draft], *, settle: bool = False, stop: bool = False, tail_timeout: float = math.inf
    ) -> Plan[Sequence[Outcome]]:
        """Records the drafts in a transaction of its own; an outcome for each, in order. Raises TailBusy.

        A draft whose id is recorded already gets the first receipt, or a conflict if its content differs.
        stop: record nothing after the first conflict; outcomes end with it.
        settle: an earlier try may have recorded some: look all ids up.
        tail_timeout: seconds to wait for the tail, if some of lock_timeout is over already.
        """
        began = time.monotonic()
        deadline = began + min(tail_timeout, self.lock_timeout)
        # How long the quick way waits is the connection's to say.
        in_time = tail_timeout > NEARLY * self.lock_timeout or tail_timeout == math.inf
        if self._tail is not None and not settle and in_time and began > self._contended_until:
            try:
                return (yield from self._append_quickly(self._tail, drafts))
            except Refused as refused:
                # The tail moved or is held by another, an id is known, or it is a real refusal: with the tail locked it
                # shows which. What Postgres did not refuse (no SQLSTATE) it may have recorded. A caller that has waited
                # until its deadline does not wait again.
                now = time.monotonic()
                if refused.sqlstate == LOCK_TIMEOUT and now >= deadline:
                    raise (yield from tail_busy(self.ledger, self.lock_timeout)) from refused
                self._contended_until = now + max(_CONTENDED_FOR, 10 * (now - began))
                settle = not refused.sqlstate
        return (yield from self._append_locked(drafts, None, deadline, settle=settle, stop=stop))

    def append_if(
        self, draft: Draft, expect: Condition | None, *, settle: bool = False, tail_timeout: float = math.inf
    ) -> Plan[Sequence[Outcome]]:
        """Records one draft in a transaction of its own if the condition holds. Raises ConditionFailed, TailBusy."""
        deadline = time.monotonic() + min(tail_timeout, self.lock_timeout)
        return (yield from self._append_locked([draft], expect, deadline, settle=settle))

    def append_within(self, drafts: Sequence[Draft], expect: Condition | None = None) -> Plan[Sequence[Outcome]]:
        """Records the drafts in the caller's open transaction (drivers/callers.py), which then holds the tail.

        Nothing is recorded after the first conflict: the caller may go on and commit. Raises ConditionFailed.
        """
        if self._tail is not None and expect is None and len(drafts) == 1 and not drafts[0].named:
            return (yield from self._append_guessing(self._tail, drafts[0]))
        return (yield from self._append_locked(drafts, expect, None, stop=True))

    def append_from(self, source: Source, named: Sequence[UUID]) -> Plan[Sequence[Outcome]]:
        """Records what a source has, in a transaction of its own. Raises TailBusy.

        named: the ids that may have been recorded before. An outcome for each draft that was taken, in order.
        """
        queries = [source.take()]
        if named:
            queries.append(Query(SQL["recorded"], (self.ledger.ledger_id, named)))
        tail, results = yield from self._lock(True, queries, time.monotonic() + self.lock_timeout)
        drafts = source.taken(results[0])
        known = [Recorded(*row) for row in results[1]] if named else []
        duplicates = (yield from compare_reading(self.ledger, drafts, known)) if known else {}
        fresh, outcomes = sift(drafts, duplicates, False)
        links: Sequence[ChainedDraft] = chain.extend(tail, fresh, self._now()) if fresh else ()
        if fresh:
            yield from self._write(links)
        conflicts = {index: outcome.error for index, outcome in enumerate(outcomes) if isinstance(outcome, Conflict)}
        yield from source.set_aside(conflicts)
        yield Pipeline((UNFLUSHED, COMMIT))
        self._recorded(links, tail)
        return links if len(fresh) == len(drafts) else resolved(outcomes, links)

    def _append_guessing(self, tail: Tail, draft: Draft) -> Plan[Sequence[Outcome]]:
        """Locks the tail and writes in one round trip if it is `tail`; else in a second one."""
        [link] = chain.extend(tail, [draft], self._now())
        rows = yield Query(SQL["insert_after"], row_params(self.ledger.ledger_id, link))
        position, hash_, recorded_at, now, *echo = only(rows, self.ledger)
        self._learn_clock(now)
        if echo[0] is None:
            [link] = chain.extend(Tail(position, hash_, recorded_at), [draft], self._now())
            yield from self._write([link])
        else:
            confirm([link], [tuple(echo)])
        self._recorded([link], tail)
        return [link]

    def append_own(
        self, draft: Draft, function: str, tail_timeout: float = math.inf, *, begun: bool = False
    ) -> Plan[Entry]:
        """Records one of the ledger's own entries through a function of the database, in a transaction of its own.

        function: the statement that calls it. tail_timeout: as in append. begun: in the open transaction, and commits
        that. Returns the entry that records the action: the draft's, or an earlier one if it was done before.
        """
        deadline = time.monotonic() + min(tail_timeout, self.lock_timeout)
        tail, _ = yield from self._lock(not begun, [], deadline)
        [link] = chain.extend(tail, [draft], self._now())
        rows = yield from self._send(Query(function, row_params(self.ledger.ledger_id, link)))
        yield Pipeline(self._end)
        entry = Entry(self.ledger.name, *only(rows, self.ledger))
        is_new = entry.position == link.position
        if is_new:
            confirm([link], [(entry.position, entry.id, entry.hash)])
        elif entry.position > link.position or _about(entry) != _about(draft.event):
            raise unconfirmed([link], rows)
        self._recorded([link] if is_new else [], tail)
        return entry

    def _append_quickly(self, tail: Tail, drafts: Sequence[Draft]) -> Plan[Sequence[Outcome]]:
        self._tail = None
        links = chain.extend(tail, drafts, self._now())
        confirm(links, (yield write(self.ledger, links, alone=self._milliseconds)))
        self._recorded(links, tail)
        return links

    def _append_locked(
        self,
        drafts: Sequence[Draft],
        expect: Condition | None,
        deadline: float | None,
        *,
        settle: bool = False,
        stop: bool = False,
    ) -> Plan[Sequence[Outcome]]:
        """deadline: as in lock_tail; None in the caller's transaction."""
        own = deadline is not None
        ids = [draft.id for draft in drafts if draft.named or settle]
        queries: list[Query] = []
        if ids:
            queries.append(Query(SQL["recorded"], (self.ledger.ledger_id, ids)))
        if isinstance(expect, Unchanged):
            queries.append(Query(SQL["changed"], (self.ledger.ledger_id, *expect)))
        tail, results = yield from self._lock(own, queries, deadline)
        known = [Recorded(*row) for row in results[0]] if ids else []
        duplicates = (yield from compare(self.ledger, drafts, known, stop)) if known else {}
        fresh, outcomes = sift(drafts, duplicates, stop)
        links: Sequence[ChainedDraft] = ()
        if fresh:
            failed = _failed(expect, tail, results[-1] if results else [])
            if failed is not None:
                if own:
                    yield COMMIT  # as below: what the error tells of the ledger is durable
                raise failed
            links = chain.extend(tail, fresh, self._now())
            yield from self._write(links, commit=own)
            self._recorded(links, tail)
            if len(fresh) == len(drafts):
                return links
        elif own:
            # The tail's lock is a write, so this commit flushes, and waits for a synchronous standby if one is
            # demanded: for the entries known here, too, which may have been committed and not flushed yet.
            yield COMMIT
            self._tail = tail
        return resolved(outcomes, links)

    def _lock(self, begin: bool, after: Sequence[Query], deadline: float | None) -> Plan[tuple[Tail, list[list[Row]]]]:
        """Locks the tail; returns it, and the rows of the statements `after`. See lock_tail."""
        believed, self._tail = self._tail, None
        in_line = time.monotonic() >= self._in_line_from
        locked = yield from lock_tail(
            self.ledger, begin=begin, after=after, deadline=deadline, lock_timeout=self.lock_timeout, in_line=in_line
        )
        if in_line and not locked.in_turn:
            self._in_line_from = time.monotonic() + _OUT_OF_LINE_FOR
        self._others = believed is None or believed.hash != locked.tail.hash
        self._learn_clock(locked.now)
        return locked.tail, locked.results

    def _write(self, links: Sequence[ChainedDraft], commit: bool = False) -> Plan[None]:
        """Records entries made for the locked tail, in the open transaction. commit: ends that, and flushes."""
        effect = write(self.ledger, links)
        if isinstance(effect, Query):
            tail = Query(SQL["tail"], (self.ledger.ledger_id,))
            rows, tails, *_ = yield from self._send(Pipeline((effect, tail, *(self._end if commit else ()))))
            confirm(links, [(str(position), hash_.hex()) for position, hash_, _ in tails])
        else:
            rows = yield from self._send(effect)
            if commit:
                yield Pipeline(self._end)
        confirm(links, rows)

    def _send(self, effect: Effect) -> Plan[Any]:
        """Writes entries made for the locked tail.

        Raises Unavailable if they came too late to be believed: this process or the network was stopped since Postgres
        told it the time; ConnectionLost if the outcome is not known.
        """
        try:
            return (yield effect)
        except Refused as refused:
            if not refused.sqlstate:
                raise ConnectionLost(f"the outcome of a statement is not known: {refused}") from refused
            if refused.sqlstate != _WRONG_TIME:
                raise
            raise Unavailable(
                "the entry reached Postgres too long after the tail was locked for it: nothing was recorded, "
                f"appending again is safe, in a new transaction ({refused})"
            ) from refused

    @property
    def _end(self) -> tuple[Query, ...]:
        """Ends a transaction that wrote. Where nobody else appends, nobody is kept waiting by a commit that flushes."""
        return COMMIT_THEN_FLUSH if self._others else (COMMIT,)

    @property
    def _milliseconds(self) -> str:
        """Of lock_timeout, as Postgres takes it."""
        return "0" if self.lock_timeout == math.inf else str(math.ceil(self.lock_timeout * 1000))

    def _recorded(self, links: Sequence[ChainedDraft], before: Tail) -> None:
        self._tail = Tail(links[-1].position, links[-1].hash, links[-1].recorded_at) if links else before

    # recorded_at follows the database's clock: its distance from our monotonic clock, which no one sets back.

    def _learn_clock(self, database_now: datetime) -> None:
        self._clock_offset = database_now - _MONOTONIC_ZERO - timedelta(seconds=time.monotonic())

    def _now(self) -> datetime:
        return _MONOTONIC_ZERO + timedelta(seconds=time.monotonic()) + self._clock_offset


_MONOTONIC_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


def _failed(expect: Condition | None, tail: Tail, rows: list[Row]) -> ConditionFailed | None:
    """The error of a condition that does not hold.

    rows: the last result of the locked round trip, of `changed` if that was asked for.
    """
    if isinstance(expect, Unchanged):
        if rows[0][0] is not None:
            return ConditionFailed(
                f"{expect.resource_type}:{expect.resource_id} changed at position {rows[0][0]}, after {expect.since}: "
                "nothing was recorded; look at the change and append again"
            )
    elif expect is not None and expect != tail.position:
        return ConditionFailed(
            f"the ledger stands at position {tail.position}, not at {expect}: nothing was recorded; "
            "read on and append again"
        )
    return None


def _about(what: Entry | Event) -> tuple[str, str | None, str | None]:
    return what.action, what.resource_type, what.resource_id
