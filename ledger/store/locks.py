"""Locks that outlast a transaction: of one migrator, of one rebuild of a view.

A session's lock would do, were the session ours: behind a pooler it stays with whoever is lent that session next. So a
lock is held by a transaction that stays open and does nothing else, on a connection of its own. Postgres takes it back
when that connection ends, or when its process is silent for too long; so a thread says once a second that it is alive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledger.drivers.postgres_connection import AnsweringConnection
from ledger.drivers.run import drive
from ledger.effects import Pipeline, Plan, Query, Refused, Rollback
from ledger.errors import ConnectionLost, LedgerError, Unavailable
from ledger.statements import sql
from ledger.store.ledgers import BEGIN, LOCK_TIMEOUT
from ledger.store.stuck_sessions import end_silent_sessions

SQL = sql(__file__)
ALIVE = 1.0
"""Seconds between two signs of life."""
ANSWER_SECONDS = 5.0
"""Seconds, at most, to wait for a second connection: less than the first, which is silent meanwhile, may be (8)."""


def take(lock: Query) -> Plan[bool]:
    """Begins the transaction that holds a lock. False where another one holds it.

    Waits for a moment, because the lock of a process that was killed lasts until Postgres has seen that.
    """
    try:
        yield Pipeline((BEGIN, Query(SQL["hold_on"]), Query(SQL["wait_briefly"]), lock))
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
        yield from end_silent_sessions()
        return False
    return True


@contextmanager
def kept(
    connection: AnsweringConnection, worker: AnsweringConnection, answer_timeout: float
) -> Iterator[Callable[[], None]]:
    """Keeps what `take` took on this connection. Gives a function that raises ConnectionLost where it is lost.

    What a lock is for must be sound without it: whoever lost it may find out late.
    worker: the connection on which the work is done meanwhile. Raises Unavailable where a pooler has no session for it
    in time: both would wait for each other. answer_timeout: seconds, at most.
    """
    if not worker.direct:
        _answers(worker, min(answer_timeout, ANSWER_SECONDS))
    over = threading.Event()

    def check() -> None:
        drive(_still_there(), connection)

    def keep_on() -> None:
        while not over.wait(ALIVE):
            try:
                check()
            except LedgerError:
                return  # who needs it finds out

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        over.set()
        thread.join()


def _answers(worker: AnsweringConnection, answer_timeout: float) -> None:
    before, worker.answer_timeout = worker.answer_timeout, answer_timeout
    try:
        drive(_still_there(), worker)
    except ConnectionLost as error:
        raise Unavailable(
            f"the pooler before Postgres had no second connection within {answer_timeout:g} s, and this needs two at "
            "once: nothing was done. Raise its pool's size (PgBouncer: default_pool_size), or give Postgres' own URL"
        ) from error
    worker.answer_timeout = before


def _still_there() -> Plan[None]:
    yield Query(SQL["still_there"])
