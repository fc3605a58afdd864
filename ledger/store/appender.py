"""Appends to one ledger: the quick way and the locked way of design.md, "Appending"."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from ledger.effects import Begin, CopyIn, Effect, LentTransactions, Pipeline, Plan, Query, Refused, Rollback, Row
from ledger.errors import ConditionFailed, ConnectionLost, OutcomeUnknown, TailBusy, Unavailable
from ledger.events import Entry, Event, Tail, Unchanged
from ledger.format import chain
from ledger.format.canonical import Draft
from ledger.format.chain import ChainedDraft
from ledger.store.copy_rows import copy_data, insert_params, row_params
from ledger.store.idempotency import Outcome, Recorded, Repeat, bodies, difference, resolved, sift
from ledger.store.ledgers import BEGIN, COMMIT, LOCK_TIMEOUT, SQL, LedgerRef, only
from ledger.store.stuck_sessions import end_silent_sessions

Condition: TypeAlias = int | Unchanged

_WRONG_TIME = "LE003"
_CANCELLED = "57014"
NEARLY = 0.95
"""Of lock_timeout: who has so much of it left is as good as new."""
_CONTENDED_FOR = 0.5
"""Seconds to stay with the locked way after another writer was faster."""
_WHO = "'auditledger status' says who holds it"


class Appender:
    """Appends to one ledger from where this process last saw its tail.

    The tail held here is a guess: the database confirms or refuses it. One plan at a time may run on it, but for
    append_within, which the callers' own connections may run beside one another.
    lock_timeout: the connections', in seconds: an append that has a transaction of its own waits for no longer.
    """

    def __init__(self, ledger: LedgerRef, lock_timeout: float = math.inf) -> None:
        self.ledger = ledger
        self.lock_timeout = lock_timeout
        self._tail: Tail | None = None
        self._clock_offset = timedelta()
        self._contended_until = 0.0

    def append(
        self, drafts: Sequence[Draft], *, settle: bool = False, stop: bool = False, tail_timeout: float = math.inf
    ) -> Plan[list[Outcome]]:
        """Records the drafts in a transaction of its own; an outcome for each, in order. Raises TailBusy.

        A draft whose id is there already gets the first receipt, or an IdempotencyConflict where its content differs.
        stop: record nothing after the first conflict; outcomes end with it.
        settle: an earlier try may have recorded some: look all ids up.
        tail_timeout: seconds to wait for the tail, where some of lock_timeout is over already.
        """
        began = time.monotonic()
        deadline = began + min(tail_timeout, self.lock_timeout)
        # How long the quick way waits is the connection's to say.
        in_time = tail_timeout > NEARLY * self.lock_timeout or tail_timeout == math.inf
        if self._tail is not None and not settle and in_time and began > self._contended_until:
            try:
                return (yield from self._append_quickly(self._tail, drafts))
            except Refused as refused:
                # The tail moved or is held by another, an id is there, or it is a real refusal: with the tail locked it
                # shows which. What Postgres did not refuse (no SQLSTATE) it may have recorded. Who has waited so long
                # already, for an entry that is not committed, does not wait again.
                now = time.monotonic()
                if refused.sqlstate == LOCK_TIMEOUT and now >= deadline:
                    yield from end_silent_sessions()
                    raise (yield from self._busy()) from refused
                self._contended_until = now + max(_CONTENDED_FOR, 10 * (now - began))
                settle = not refused.sqlstate
        return (yield from self._append_locked(drafts, None, deadline, settle=settle, stop=stop))

    def append_if(
        self, draft: Draft, expect: Condition | None, *, settle: bool = False, tail_timeout: float = math.inf
    ) -> Plan[list[Outcome]]:
        """Records one draft in a transaction of its own if the condition holds. Raises ConditionFailed, TailBusy."""
        deadline = time.monotonic() + min(tail_timeout, self.lock_timeout)
        return (yield from self._append_locked([draft], expect, deadline, settle=settle))

    def append_within(self, drafts: Sequence[Draft], expect: Condition | None = None) -> Plan[list[Outcome]]:
        """Records the drafts in the caller's open transaction, which holds the tail until it ends. See
        drivers/callers.py.

        Nothing after the first conflict: the caller may go on and commit. Raises ConditionFailed.
        """
        if self._tail is not None and expect is None and len(drafts) == 1 and not drafts[0].named:
            return (yield from self._append_guessing(self._tail, drafts[0]))
        return (yield from self._append_locked(drafts, expect, None, stop=True))

    def _append_guessing(self, tail: Tail, draft: Draft) -> Plan[list[Outcome]]:
        """Locks the tail and writes in one round trip if it is `tail`; else in a second one."""
        [link] = chain.extend(tail, [draft], self._now())
        rows = yield Query(SQL["insert_after"], insert_params(self.ledger.ledger_id, link))
        position, hash_, recorded_at, now, *recorded = only(rows, self.ledger)
        self._learn_clock(now)
        if recorded[0] is None:
            [link] = chain.extend(Tail(position, hash_, recorded_at), [draft], self._now())
            yield from self._write([draft], [link])
        else:
            _confirm([link], [tuple(recorded)])
        self._recorded([link], tail)
        return [link]

    def append_own(
        self, draft: Draft, function: str, tail_timeout: float = math.inf, *, begun: bool = False
    ) -> Plan[Entry]:
        """Records one of the ledger's own entries through a function of the database, in a transaction of its own.

        function: the statement that calls it. tail_timeout: as in append. begun: in the open transaction, and commits
        that. Returns the entry that says so: the draft's, or an earlier one where there was nothing left to do.
        """
        deadline = time.monotonic() + min(tail_timeout, self.lock_timeout)
        tail, _ = yield from self._locked(not begun, [], deadline)
        [link] = chain.extend(tail, [draft], self._now())
        rows = yield from self._send(Query(function, row_params(self.ledger.ledger_id, link)))
        yield COMMIT
        entry = Entry(self.ledger.name, *only(rows, self.ledger))
        is_new = entry.position == link.position
        if is_new:
            _confirm([link], [(entry.position, entry.id, entry.hash)])
        elif entry.position > link.position or _about(entry) != _about(draft.event):
            raise _unconfirmed([link], rows)
        self._recorded([link] if is_new else [], tail)
        return entry

    def _append_quickly(self, tail: Tail, drafts: Sequence[Draft]) -> Plan[list[Outcome]]:
        self._tail = None
        links: list[ChainedDraft] = []
        noted = _noting(chain.extend(tail, drafts, self._now()), links)
        _confirm(links, (yield _write(self.ledger, drafts, noted, alone=self._milliseconds)))
        self._recorded(links, tail)
        return list(links)

    def _append_locked(
        self,
        drafts: Sequence[Draft],
        expect: Condition | None,
        deadline: float | None,
        *,
        settle: bool = False,
        stop: bool = False,
    ) -> Plan[list[Outcome]]:
        """deadline: as in _locked."""
        own = deadline is not None
        ids = [draft.id for draft in drafts if draft.named or settle]
        queries = []
        if ids:
            queries.append(Query(SQL["recorded"], (self.ledger.ledger_id, ids)))
        if isinstance(expect, Unchanged):
            queries.append(Query(SQL["changed"], (self.ledger.ledger_id, *expect)))
        tail, results = yield from self._locked(own, queries, deadline)
        found = [Recorded(*row) for row in results[0]] if ids else []
        repeats = (yield from _compare(self.ledger, drafts, found, stop)) if found else {}
        fresh, outcomes = sift(drafts, repeats, stop)
        if fresh:
            _check(expect, tail, results[-1] if results else [])
            links = list(chain.extend(tail, fresh, self._now()))
            yield from self._write(fresh, links, commit=own)
            recorded: dict[UUID, ChainedDraft | Repeat] = {link.draft.id: link for link in links}
            self._recorded(links, tail)
        else:
            recorded = {}
            if own:
                # The tail's lock is a write: where a synchronous standby is demanded, this commit waits for it, and so
                # for the entries found here, whose own commit may have been interrupted while it waited.
                yield COMMIT
                self._tail = tail
        return [resolved(outcome, recorded) for outcome in outcomes]

    def _locked(
        self, begin: bool, after: Sequence[Query], deadline: float | None
    ) -> Plan[tuple[Tail, list[list[Row]]]]:
        """Locks the tail in one round trip with what is asked after it; what came of that.

        begin: in a new transaction. deadline: on the monotonic clock, until when to wait for the tail (TailBusy); None
        in the caller's transaction, which waits as its connection says. lock_timeout alone would not do: whoever stands
        in line waits twice, for the others in line and for whoever holds the row.
        """
        self._tail = None
        limit: list[Query | Begin] = []
        lock = Query(SQL["lock_tail"], (self.ledger.ledger_id,))
        if deadline is not None and deadline < math.inf:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._busy_by()
            limit = [Query(SQL["limit_wait"], (str(math.ceil(left * 1000)),))]
            lock = Query(SQL["lock_tail_in_time"], (self.ledger.ledger_id,))
        before = ([BEGIN] if begin else []) + limit
        queries = (*before, lock, *after)
        try:
            results = (yield Pipeline(queries)) if len(queries) > 1 else [(yield lock)]
        except Refused as refused:
            if deadline is not None and refused.sqlstate in (LOCK_TIMEOUT, _CANCELLED):
                yield Rollback()
                yield from end_silent_sessions()
                raise (yield from self._busy()) from refused
            raise
        results = results[len(before) :]
        position, hash_, recorded_at, now = only(results[0], self.ledger)[:4]
        self._learn_clock(now)
        return Tail(position, hash_, recorded_at), results[1:]

    def _write(self, drafts: Sequence[Draft], links: list[ChainedDraft], commit: bool = False) -> Plan[None]:
        """Records entries made for the locked tail, in the open transaction. commit: and ends that."""
        write = _write(self.ledger, drafts, links)
        if isinstance(write, Query):
            tail = Query(SQL["tail"], (self.ledger.ledger_id,))
            rows, tails, *_ = yield from self._send(Pipeline((write, tail, *([COMMIT] if commit else []))))
            _confirm(links, [(str(position), hash_.hex()) for position, hash_, _ in tails])
        else:
            rows = yield from self._send(write)
            if commit:
                yield COMMIT
        _confirm(links, rows)

    def _send(self, effect: Effect) -> Plan[Any]:
        """Writes entries made for the locked tail.

        Raises Unavailable where they came too late to be believed: this process stood still, or the network, since
        Postgres told it the time.
        """
        try:
            return (yield effect)
        except Refused as refused:
            if not refused.sqlstate:
                raise ConnectionLost(f"nobody can say what became of a statement: {refused}") from refused
            if refused.sqlstate != _WRONG_TIME:
                raise
            raise Unavailable(
                "the entry reached Postgres too long after the tail was locked for it: nothing was recorded, "
                f"appending again is safe, in a new transaction ({refused})"
            ) from refused

    @property
    def _milliseconds(self) -> str:
        """Of lock_timeout, as Postgres takes it."""
        return "0" if self.lock_timeout == math.inf else str(math.ceil(self.lock_timeout * 1000))

    def _busy(self) -> Plan[TailBusy]:
        """Names the caller's own transaction, if it is that: one on a connection lent to an append of this process."""
        ours = yield LentTransactions()
        if not ours:
            return self._busy_by()
        try:
            rows = yield Query(SQL["tail_holder"], (self.ledger.ledger_id,))
        except Refused:
            rows = []
        if any(pid in ours for (pid,) in rows):
            return self._busy_by(
                f"your own transaction (appended to with connection=, backend {rows[0][0]})",
                "commit or roll it back first, or give connection= to this append too",
            )
        # Behind a pooler a connection does not know its backend.
        return self._busy_by(do=f"{_WHO}; is it a transaction of your own, on a connection= that you gave?")

    def _busy_by(self, who: str = "another transaction", do: str = _WHO) -> TailBusy:
        return TailBusy(
            f"{who} holds the tail of ledger {self.ledger.name!r} for longer than the lock timeout "
            f"({self.lock_timeout:g} s): nothing was recorded, appending again is safe; {do}"
        )

    def _recorded(self, links: list[ChainedDraft], before: Tail) -> None:
        self._tail = Tail(links[-1].position, links[-1].hash, links[-1].recorded_at) if links else before

    # recorded_at follows the database's clock: its distance from our monotonic clock, which no one sets back.

    def _learn_clock(self, database_now: datetime) -> None:
        self._clock_offset = database_now - _MONOTONIC_ZERO - timedelta(seconds=time.monotonic())

    def _now(self) -> datetime:
        return _MONOTONIC_ZERO + timedelta(seconds=time.monotonic()) + self._clock_offset


_MONOTONIC_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


def _check(expect: Condition | None, tail: Tail, rows: list[Row]) -> None:
    """rows: the last result of the locked round trip, which is `changed` where that was asked for."""
    if isinstance(expect, Unchanged):
        if rows[0][0] is not None:
            raise ConditionFailed(
                f"{expect.resource_type}:{expect.resource_id} changed at position {rows[0][0]}, after {expect.since}: "
                "nothing was recorded; look at the change and append again"
            )
    elif expect is not None and expect != tail.position:
        raise ConditionFailed(
            f"the ledger stands at position {tail.position}, not at {expect}: nothing was recorded; "
            "read on and append again"
        )


def _compare(
    ledger: LedgerRef, drafts: Sequence[Draft], found: Sequence[Recorded], stop: bool
) -> Plan[dict[int, tuple[Recorded, str | None]]]:
    """Of each repeated draft, by its place: what is recorded, and the first field that differs, None where none does.

    Of an erased entry only the envelope can be compared. Of bodies the database says which is the first that differs,
    and compares each id once a question. stop: what comes after the first that differs does not matter.
    """
    known = {recorded.id: recorded for recorded in found}
    repeats = {
        place: (known[draft.id], difference(draft, known[draft.id]))
        for place, draft in enumerate(drafts)
        if draft.id in known
    }
    places = [place for place, (recorded, field) in repeats.items() if field is None and not recorded.erased]
    while places:
        once = {drafts[place].id: place for place in reversed(places)}
        asked = sorted(once.values())
        params = (ledger.ledger_id, *bodies([drafts[place] for place in asked]))
        [(number,)] = yield Query(SQL["first_difference"], params)
        known_now = set(asked[:number])
        places = [place for place in places if place not in known_now]
        if number is not None:
            differs = asked[number - 1]
            repeats[differs] = (repeats[differs][0], "body (before, after or metadata)")
            if stop:
                places = [place for place in places if place < differs]
    return repeats


def _noting(links: Iterable[ChainedDraft], notes: list[ChainedDraft]) -> Iterator[ChainedDraft]:
    for link in links:
        notes.append(link)
        yield link


def _write(
    ledger: LedgerRef, drafts: Sequence[Draft], links: Iterable[ChainedDraft], alone: str | None = None
) -> Query | CopyIn:
    """Brings what `_confirm` takes. alone: in a transaction of its own, which waits so many milliseconds for a lock."""
    if len(drafts) == 1:
        [link] = links
        params, echo = insert_params(ledger.ledger_id, link), (link.position, link.draft.id, link.hash)
        if alone is None:
            return Query(SQL["insert"], (*params, *echo))
        return Query(SQL["insert_alone"], (*params, alone, *echo))
    statements = SQL["copy"] if alone is None else f"{SQL['copy_alone']};\n{SQL['copy']}"
    copy = statements.format(ledger_id=ledger.ledger_id, lock_timeout=alone)
    return CopyIn(copy, copy_data(ledger.ledger_id, links))


def _confirm(links: Sequence[ChainedDraft], rows: Sequence[Row]) -> None:
    """Compares what Postgres says that it recorded with what it was given: no receipt is made of anything else.

    rows: of an INSERT the entry; of a COPY, which the tail follows within its transaction, position and hash of that.
    The last entry's hash names all before it.
    """
    if not links:
        return
    last = links[-1]
    said = rows[0] if len(rows) == 1 else None
    if said not in ((last.position, last.draft.id, last.hash), (str(last.position), last.hash.hex())):
        raise _unconfirmed(links, rows)


def _unconfirmed(links: Sequence[ChainedDraft], rows: Sequence[Row]) -> OutcomeUnknown:
    last = links[-1]
    return OutcomeUnknown(
        f"entry {last.draft.id} was to be recorded at position {last.position} with hash {last.hash.hex()[:16]}…, and "
        f"Postgres, or what stands before it, answered {[row[:2] for row in rows]}: whether it was recorded "
        "is not known; append the same ids again"
    )


def _about(said: Entry | Event) -> tuple[str, str | None, str | None]:
    return said.action, said.resource_type, said.resource_id
