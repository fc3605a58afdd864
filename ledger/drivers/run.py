"""Runs plans, sync and async: asks psycopg and redis for each effect.

A plan runs on two sides: a Postgres connection, which is asked for when the plan first needs it, and a Redis client.
Either may be missing where the plan does not need it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from ledger.drivers import cursors
from ledger.drivers.cursors import AsyncCursor, Cursor, copying, prepares, stored_cursor
from ledger.drivers.errors import as_refused, driver_errors, remark, translate
from ledger.drivers.lent import open_transactions
from ledger.effects import (
    Apply,
    Begin,
    Command,
    CopyIn,
    Effect,
    LentTransactions,
    LuaScript,
    Pipeline,
    Plan,
    Query,
    Refused,
    Rollback,
    Row,
    SqlScript,
    Stored,
    Wait,
)
from ledger.errors import InvalidSetting

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")
Connection: TypeAlias = cursors.Connection
AsyncConnection: TypeAlias = cursors.AsyncConnection
# redis-py takes long to load and 10 MiB; most processes that verify or append need none of it.
Redis: TypeAlias = "redis.Redis"
AsyncRedis: TypeAlias = "redis.asyncio.Redis"

IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)
_CHUNK = 100 if psycopg.capabilities.has_stream_chunked() else 1
"""Rows that a long result brings at a time: at most some 25 MB, should every body have its 256 KiB."""


def drive(
    plan: Plan[T],
    connection: Callable[[], Connection] | None = None,
    redis_client: Redis | None = None,
    *,
    raw_errors: bool = False,
) -> T:
    """Runs a plan to its end and returns its result. The plan sees Refused; whatever else goes wrong ends it.

    raw_errors: let the drivers' own errors out, for plans in the caller's transaction.
    """
    try:
        effect = next(plan)
        while True:
            try:
                brought = _perform(effect, connection, redis_client)
            except driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    except Refused as refused:  # the plan's own: a reply that it had not foreseen
        raise translate(refused) from refused
    finally:
        plan.close()


async def adrive(
    plan: Plan[T],
    connection: Callable[[], Awaitable[AsyncConnection]] | None = None,
    redis_client: AsyncRedis | None = None,
    *,
    raw_errors: bool = False,
) -> T:
    """`drive`, awaited."""
    try:
        effect = next(plan)
        while True:
            try:
                brought = await _aperform(effect, connection, redis_client)
            except driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    except Refused as refused:
        raise translate(refused) from refused
    finally:
        plan.close()


def _throw(plan: Plan[Any], error: Exception, raw: bool) -> Effect:
    """Lets the plan handle a refusal. An error that it does not handle goes on in our words, from the original."""
    refused = as_refused(error)
    if refused is not None:
        refused.__cause__ = error
        try:
            return plan.throw(refused)
        except Refused as unhandled:
            if unhandled is not refused:
                raise
    if raw:
        if (said := remark(error)) is not None:
            error.add_note(f"auditledger: {said}")
        raise error
    raise translate(error) from error


def _perform(effect: Effect, connection: Callable[[], Connection] | None, client: Redis | None) -> Any:
    if isinstance(effect, Wait):
        return time.sleep(effect.seconds)
    if isinstance(effect, LentTransactions):
        return open_transactions()
    if isinstance(effect, Command | LuaScript):
        try:
            return cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
        except _SENSELESS as error:
            raise _senseless(error) from error
    postgres = _needed(connection, "Postgres")()
    try:
        brought = _ask(effect, postgres)
    except (psycopg.Error, UnicodeError):
        raise
    except Exception as error:
        if isinstance(effect, Stored):
            raise  # it writes nothing, and `take` is ours
        raise _lost(postgres.pgconn, error) from error
    return _unless_failed(effect, brought)


def _ask(effect: Effect, postgres: Connection) -> Any:
    """What it is asked for is done by psycopg alone, but for the function of Apply, whose errors are brought."""
    match effect:
        case Query() if not _is_wrapped(postgres):
            return _rows(_execute(postgres, effect))
        case Query() | Begin() | Pipeline():
            sent, failed, cursors = _statements(effect, postgres), None, []
            try:
                with postgres.pipeline() as pipeline:
                    _never_flush(pipeline)
                    try:
                        cursors = [_execute(postgres, query) for query, _ in sent]
                    except psycopg.Error as error:
                        failed = error  # psycopg would print what goes wrong at the block's end besides
            except psycopg.Error as error:
                failed = failed or error
            if failed is not None:
                if isinstance(effect, Query) and not postgres.closed:
                    postgres.rollback()
                raise failed
            return _brought(
                effect, [_rows(cursor) for cursor, (_, wanted) in zip(cursors, sent, strict=True) if wanted]
            )
        case CopyIn():
            with postgres.lock:
                return postgres.wait(copying(postgres, effect.sql, effect.data))
        case Stored():
            for row in stored_cursor(postgres).stream(effect.sql, effect.params, binary=True, size=_CHUNK):
                effect.take(row)
            return None
        case SqlScript():
            Cursor(postgres).execute(effect.sql, prepare=False, binary=False)
            return None
        case Apply():
            return _applied(effect, postgres)
        case Rollback():
            return postgres.rollback()


def _applied(effect: Apply, postgres: Connection) -> Exception | None:
    try:
        effect.function(Transaction(postgres))
    except Exception as error:
        if postgres.closed:
            raise
        return error
    if postgres.info.transaction_status == TransactionStatus.INERROR:
        return psycopg.errors.InFailedSqlTransaction("an error of the database was passed over")
    return None


async def _aperform(
    effect: Effect, connection: Callable[[], Awaitable[AsyncConnection]] | None, client: AsyncRedis | None
) -> Any:
    if isinstance(effect, Wait):
        return await asyncio.sleep(effect.seconds)
    if isinstance(effect, LentTransactions):
        return open_transactions()
    if isinstance(effect, Command | LuaScript):
        try:
            return await cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
        except _SENSELESS as error:
            raise _senseless(error) from error
    postgres = await _needed(connection, "Postgres")()
    try:
        brought = await _aask(effect, postgres)
    except (psycopg.Error, UnicodeError):
        raise
    except Exception as error:
        raise _lost(postgres.pgconn, error) from error
    return _unless_failed(effect, brought)


async def _aask(effect: Effect, postgres: AsyncConnection) -> Any:
    match effect:
        case Query() if not _is_wrapped(postgres):
            return await _arows(await _aexecute(postgres, effect))
        case Query() | Begin() | Pipeline():
            sent, failed, cursors = _statements(effect, postgres), None, []
            try:
                async with postgres.pipeline() as pipeline:
                    _never_flush(pipeline)
                    try:
                        cursors = [await _aexecute(postgres, query) for query, _ in sent]
                    except psycopg.Error as error:
                        failed = error
            except psycopg.Error as error:
                failed = failed or error
            if failed is not None:
                if isinstance(effect, Query) and not postgres.closed:
                    await postgres.rollback()
                raise failed
            results = [await _arows(cursor) for cursor, (_, wanted) in zip(cursors, sent, strict=True) if wanted]
            return _brought(effect, results)
        case CopyIn():
            async with postgres.lock:
                return await postgres.wait(copying(postgres, effect.sql, effect.data))
        case SqlScript():
            await AsyncCursor(postgres).execute(effect.sql, prepare=False, binary=False)
            return None
        case Rollback():
            return await postgres.rollback()


def _lost(pgconn: PGconn, error: Exception) -> psycopg.OperationalError:
    """For what no driver should raise: what it was asked for may have been done, and who knows where it stands."""
    pgconn.finish()
    return psycopg.OperationalError(f"the driver failed: {type(error).__name__}: {error}")


def _unless_failed(effect: Effect, brought: Any) -> Any:
    """Raises what the data of a COPY raised, which is not the driver's doing."""
    if isinstance(effect, CopyIn) and isinstance(brought, Exception):
        raise brought
    return brought


# A transaction of ours begins with what its connection wants to be set in it; elsewhere nothing is.


def _statements(effect: Query | Begin | Pipeline, connection: Any) -> list[tuple[Query, bool]]:
    """The statements that do it, and of which the plan is to get the rows."""
    if isinstance(effect, Query):
        begin = _ALONE_WRITING if getattr(connection, "read_only_by_default", False) else _ALONE
        queries: Sequence[Query | Begin] = (begin, effect, Query("commit"))
    else:
        queries = effect.queries if isinstance(effect, Pipeline) else (effect,)
    sent = []
    for query in queries:
        wanted = not isinstance(effect, Query) or query is effect
        if isinstance(query, Begin):
            sent.append((Query(query.sql), wanted))
            sent += ((setting, False) for setting in getattr(connection, "settings", ()))
        else:
            sent.append((query, wanted))
    return sent


_ALONE = Begin("begin isolation level read committed")
_ALONE_WRITING = Begin("begin isolation level read committed read write")
"""A standby, which has nothing but read-only transactions, refuses it."""


def _is_wrapped(connection: Any) -> bool:
    """Is a statement outside of a transaction to have one, for the sake of its settings?"""
    return getattr(connection, "wraps", False) and connection.pgconn.transaction_status == TransactionStatus.IDLE


def _brought(effect: Query | Begin | Pipeline, results: list[list[Row]]) -> Any:
    return results if isinstance(effect, Pipeline) else results[0]


def _execute(connection: Connection, query: Query) -> Cursor:
    return Cursor(connection).execute(query.sql, query.params, prepare=prepares(connection))


async def _aexecute(connection: AsyncConnection, query: Query) -> AsyncCursor:
    return await AsyncCursor(connection).execute(query.sql, query.params, prepare=prepares(connection))


_SENSELESS = (ArithmeticError, AttributeError, EOFError, LookupError, RecursionError, TypeError, UnicodeDecodeError)
"""What redis-py lets out, besides errors of its own, when something else than Redis listens there."""


def _senseless(error: Exception) -> Exception:
    import redis  # noqa: PLC0415 - loaded already: it raised that

    return redis.InvalidResponse(f"the answer was none of Redis ({type(error).__name__}): what listens there?")


class Transaction:
    """What a projection writes through: the transaction in which its checkpoint moves. Implements projection.Writes.

    Values are converted as psycopg does by default, whatever the application has registered; times are in UTC.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """One statement; its rows, as tuples."""
        return _rows(Cursor(self._connection).execute(sql, params, prepare=prepares(self._connection)))

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """One statement for each set of parameters, in few round trips."""
        with self._connection.pipeline() as pipeline:
            _never_flush(pipeline)
            Cursor(self._connection).executemany(sql, params)

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Many rows into one table: the fastest way in."""
        names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns))
        into = psycopg.sql.SQL("copy {} ({}) from stdin").format(psycopg.sql.Identifier(table), names)
        with Cursor(self._connection).copy(into) as copy:
            for row in rows:
                copy.write_row(row)


def _never_flush(pipeline: psycopg.Pipeline | psycopg.AsyncPipeline) -> None:
    """psycopg ends a pipeline with a Sync, which brings all results, and a Flush behind it. At that Postgres (18) drops
    idle_in_transaction_session_timeout: a process that stopped there would hold its locks for ever.
    """
    fetch = pipeline._fetch_gen
    pipeline._fetch_gen = lambda *, flush: fetch(flush=False)  # type: ignore[method-assign]


def _rows(cursor: Cursor) -> list[Row]:
    return cursor.fetchall() if cursor.description else []


async def _arows(cursor: AsyncCursor) -> list[Row]:
    return await cursor.fetchall() if cursor.description else []


def _redis_args(effect: Command | LuaScript) -> list[Any]:
    """Numbers as text: hiredis 3.5 crashes the process where a signal's handler raises while it packs an int."""
    if isinstance(effect, Command):
        args: Iterable[Any] = effect.args
    else:
        args = ("EVAL", effect.lua, len(effect.keys), *effect.keys, *effect.args)
    return [str(arg) if arg.__class__ is int else arg for arg in args]


def _needed(side: T | None, name: str) -> T:
    if side is None:
        raise InvalidSetting(f"this needs {name}, and none was given: set LEDGER_{name.upper()}_URL")
    return side
