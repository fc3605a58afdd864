"""Locks a ledger's tail until the transaction ends, within a limit of time, and says who holds it otherwise. Plans.

The tail is one row of `ledger.tails`. The transaction that has updated it is the ledger's only writer until COMMIT or
ROLLBACK. Our own transactions stand in line for it, on an advisory lock that ends with them, and are served in turn.
Others (the quick way, a caller's transaction) take the row as they find it. Whoever may connect can take an advisory
lock and keep it, so nobody stands in line for long: after LINE_SECONDS the row alone is waited for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ledger.effects import Begin, LentTransactions, Pipeline, Plan, Query, Refused, Rollback, Row
from ledger.errors import TailBusy
from ledger.events import Tail
from ledger.store.ledgers import BEGIN, LOCK_TIMEOUT, SQL, LedgerRef, only
from ledger.store.stuck_sessions import end_silent_sessions

LINE_SECONDS = 1.0
"""Seconds to stand in line, at most, and no more than half of the time that there is."""
_CANCELLED, _DENIED = "57014", "42501"
_WHO = "'auditledger status' says who holds it"


class LockedTail(NamedTuple):
    """The tail, the time by the database's clock, and the rows of each statement that was sent after the lock.

    in_turn: False if the line was left.
    """

    tail: Tail
    now: datetime
    results: list[list[Row]]
    in_turn: bool = True


def lock_tail(
    ledger: LedgerRef,
    *,
    begin: bool,
    after: Sequence[Query],
    deadline: float | None,
    lock_timeout: float,
    in_line: bool = True,
) -> Plan[LockedTail]:
    """Locks the tail in one round trip with the statements `after`. Raises TailBusy, UnknownLedger.

    begin: in a new transaction. deadline: on the monotonic clock, until when to wait for the tail; None in the caller's
    transaction, which waits as its connection says. lock_timeout: the connection's, in seconds. It alone would not do:
    who stands in line waits twice, for the others in line and for the holder of the row. in_line: stand in line, which
    only a new transaction does: it can be begun again without that.
    """
    in_line = in_line and begin
    limit: list[Query] = []
    lock = Query(SQL["lock_tail"], (ledger.ledger_id,))
    if deadline is not None and deadline < math.inf:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _busy(ledger, lock_timeout)
        milliseconds = math.ceil(left * 1000)
        first = math.ceil(min(LINE_SECONDS, left / 2) * 1000) if in_line else milliseconds
        limit = [Query(SQL["limit_wait"], (str(first),))]
        if in_line:
            limit.append(Query(SQL["queue_in_time"], (ledger.ledger_id, milliseconds)))
        lock = Query(SQL["lock_tail_in_time"], (ledger.ledger_id,))
    elif in_line:
        limit = [Query(SQL["queue"], (ledger.ledger_id,))]
    before: list[Query | Begin] = [*([BEGIN] if begin else []), *limit]
    queries = (*before, lock, *after)
    try:
        results = (yield Pipeline(queries)) if len(queries) > 1 else [(yield lock)]
    except Refused as refused:
        busy = deadline is not None and refused.sqlstate in (LOCK_TIMEOUT, _CANCELLED)
        if in_line and deadline is not None and (refused.sqlstate == _DENIED or (busy and time.monotonic() < deadline)):
            yield Rollback()
            locked = yield from lock_tail(
                ledger, begin=True, after=after, deadline=deadline, lock_timeout=lock_timeout, in_line=False
            )
            return locked._replace(in_turn=False)
        if busy:
            yield Rollback()
            raise (yield from tail_busy(ledger, lock_timeout)) from refused
        raise
    results = results[len(before) :]
    position, hash_, recorded_at, now = only(results[0], ledger)[:4]
    return LockedTail(Tail(position, hash_, recorded_at), now, results[1:])


def tail_busy(ledger: LedgerRef, lock_timeout: float) -> Plan[TailBusy]:
    """After a wait in vain, outside of a transaction: ends silent sessions, and returns the error.

    It names the caller's own transaction, if that holds the tail: one on a connection that was lent to an append.
    """
    yield from end_silent_sessions()
    ours = yield LentTransactions()
    if not ours:
        return _busy(ledger, lock_timeout)
    try:
        rows = yield Query(SQL["tail_holder"], (ledger.ledger_id,))
    except Refused:
        rows = []
    if any(pid in ours for (pid,) in rows):
        return _busy(
            ledger,
            lock_timeout,
            f"your own transaction (appended to with connection=, backend {rows[0][0]})",
            "commit or roll it back first, or give connection= to this append too",
        )
    # Behind a pooler a connection does not know its backend.
    advice = f"{_WHO}; is it a transaction of your own, on a connection= that you gave?"
    return _busy(ledger, lock_timeout, advice=advice)


def _busy(ledger: LedgerRef, lock_timeout: float, holder: str = "another transaction", advice: str = _WHO) -> TailBusy:
    return TailBusy(
        f"{holder} holds the tail of ledger {ledger.name!r} for longer than the lock timeout ({lock_timeout:g} s): "
        f"nothing was recorded, appending again is safe; {advice}"
    )
