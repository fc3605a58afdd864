"""Plans in the caller's own transaction, on the caller's own connection.

The connection is checked before anything is sent: one that cannot give a true receipt is refused with UsageError.
Errors of Postgres' then pass through as they are, because the caller's code handles them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from ledger.drivers.cursors import AsyncConnection, AsyncCursor, Connection, Cursor, note, wants_to_know
from ledger.drivers.lent import lent
from ledger.drivers.run import adrive, drive
from ledger.effects import Plan
from ledger.errors import UsageError
from ledger.statements import sql

T = TypeVar("T")

SQL = sql(__file__)


def drive_within(plan: Plan[T], connection: Connection) -> T:
    """Runs a plan in the open transaction of a caller's connection. Raises UsageError, psycopg.Error."""
    lent(connection, psycopg.Connection)
    _check(connection)
    with _in_utf8(connection):
        if wants_to_know(connection):
            [(backend,)] = Cursor(connection).execute(SQL["backend"], prepare=False).fetchall()
            note(connection, backend)
        return drive(plan, connection, raw_errors=True)


async def adrive_within(plan: Plan[T], connection: AsyncConnection) -> T:
    """`drive_within`, awaited."""
    lent(connection, psycopg.AsyncConnection)
    _check(connection)
    async with _ain_utf8(connection):
        if wants_to_know(connection):
            cursor = await AsyncCursor(connection).execute(SQL["backend"], prepare=False)
            [(backend,)] = await cursor.fetchall()
            note(connection, backend)
        return await adrive(plan, connection, raw_errors=True)


def _check(connection: Connection | AsyncConnection) -> None:
    """Raises UsageError where the connection is in no state to record an entry."""
    if connection.closed:
        raise UsageError("the connection is closed: nothing was recorded")
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise UsageError("the connection is in pipeline mode: append before or after the block of its pipeline()")
    if connection._tpc is not None and connection._tpc[1]:
        raise UsageError("the connection is between the two phases of a transaction: append before it is prepared")
    status = connection.pgconn.transaction_status
    if connection.lock.locked() or status == TransactionStatus.ACTIVE:
        raise UsageError(
            "the connection is in use: another thread or task, a stream() or a copy() has not finished with it"
        )
    if status == TransactionStatus.IDLE and connection.autocommit:
        raise UsageError("the connection is not in a transaction: open one with connection.transaction()")


# Texts go as UTF-8: they can all be said in it, and the bytes of a COPY are made without looking at the connection. The
# caller's own statements, before and after, keep the encoding that the caller chose.


def _encoding(connection: Connection | AsyncConnection) -> str | None:
    """The client's encoding; None for UTF-8."""
    name = (connection.pgconn.parameter_status(b"client_encoding") or b"").decode()
    return None if name in ("UTF8", "UNICODE") else name


def _is_over(connection: Connection | AsyncConnection) -> bool:
    """Whether the transaction has failed. Then Postgres has put the encoding back."""
    return connection.closed or connection.pgconn.transaction_status != TransactionStatus.INTRANS


@contextmanager
def _in_utf8(connection: Connection) -> Iterator[None]:
    encoding = _encoding(connection)
    if encoding is None:
        yield
        return
    Cursor(connection).execute(SQL["set_encoding"], ("UTF8",), prepare=False)
    try:
        yield
    finally:
        if not _is_over(connection):
            Cursor(connection).execute(SQL["set_encoding"], (encoding,), prepare=False)


@asynccontextmanager
async def _ain_utf8(connection: AsyncConnection) -> AsyncIterator[None]:
    encoding = _encoding(connection)
    if encoding is None:
        yield
        return
    await AsyncCursor(connection).execute(SQL["set_encoding"], ("UTF8",), prepare=False)
    try:
        yield
    finally:
        if not _is_over(connection):
            await AsyncCursor(connection).execute(SQL["set_encoding"], (encoding,), prepare=False)
