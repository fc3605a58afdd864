"""Runs plans, sync and async. The only place that touches psycopg and redis.

A plan runs on two sides: a Postgres connection, which is asked for when the plan first needs it, and a Redis client.
Either may be missing where the plan does not need it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus

from ledger.effects import (
    Apply,
    Command,
    CopyIn,
    Effect,
    InTransaction,
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
from ledger.errors import (
    ConnectionLost,
    InvalidSetting,
    LedgerError,
    RecordRefused,
    SchemaMismatch,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
# redis-py takes long to load and 10 MiB; most processes that verify or append need none of it.
Redis: TypeAlias = "redis.Redis"
AsyncRedis: TypeAlias = "redis.asyncio.Redis"

IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)
_CHUNK = 100 if psycopg.capabilities.has_stream_chunked() else 1
"""Rows that a long result brings at a time: at most some 25 MB, should every body have its 256 KiB."""
# The server is going away, or has ended a session that it found silent: the connection is as good as lost.
_SHUTDOWN = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_DAMAGED = "XX001"
"""data_corrupted."""
_UNWILLING = {
    "ReadOnlyError": "is a replica and takes no writes: give the master's URL, or promote it",
    "OutOfMemoryError": "is out of memory and takes no writes: raise its maxmemory, or keep less (LEDGER_STREAM_KEEP)",
    "MasterDownError": "is a replica that has lost its master: give another one's URL, or promote it",
    "MISCONF": "takes no writes because it cannot save its data: look at its log and its disk",
    "NOREPLICAS": "takes no writes because too few replicas are connected: see min-replicas-to-write",
}
"""By redis-py's class, or by the code with which the answer begins where it has none."""


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
            except _driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
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
            except _driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        plan.close()


def _driver_errors() -> tuple[type[Exception], ...]:
    """What may go wrong outside. Redis has no errors where it was never loaded."""
    loaded = sys.modules.get("redis")
    return (psycopg.Error, OSError, UnicodeError, *(() if loaded is None else (loaded.RedisError,)))


def _throw(plan: Plan[Any], error: Exception, raw: bool) -> Effect:
    """Lets the plan handle a refusal. An error that it does not handle goes on in our words, from the original."""
    refused = _as_refused(error)
    if refused is not None:
        refused.__cause__ = error
        try:
            return plan.throw(refused)
        except Refused as unhandled:
            if unhandled is not refused:
                raise
    if raw:
        raise error
    raise translate(error) from error


def _as_refused(error: Exception) -> Refused | None:
    if isinstance(error, psycopg.Error):
        state = error.sqlstate or ""
        return None if _is_libpqs(error) or state in _SHUTDOWN else Refused(str(error), state)
    if isinstance(error, UnicodeDecodeError):
        return Refused(str(error), _DAMAGED)
    if isinstance(error, UnicodeError):
        return None
    why = _unwilling(error)
    return Refused(why or str(error), away=why is not None or not _is_redis(error, "ResponseError"))


def _is_libpqs(error: psycopg.Error) -> bool:
    """Is it said by libpq, which lost the server, and not by the server, nor by psycopg of what it was given?

    What libpq says while a broken pipeline is cleared away comes without a class of its own.
    """
    plain = type(error) is psycopg.DatabaseError
    return not error.sqlstate and (plain or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError))


def _is_redis(error: Exception, kind: str) -> bool:
    loaded = sys.modules.get("redis")
    return loaded is not None and isinstance(error, getattr(loaded, kind))


def translate(error: Exception) -> LedgerError:
    """A driver's error as one of ours. Messages name neither password nor URL."""
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, psycopg.Error):
        return _translate_postgres(error)
    if isinstance(error, UnicodeDecodeError):
        return Unavailable(f"a text that Postgres stores is damaged: {error}")
    if isinstance(error, UnicodeError):
        return UsageError(f"a text that no server takes, such as one with a lone surrogate: {error}")
    if _is_redis(error, "AuthenticationError"):
        return Unavailable(f"Redis refuses the user or password: {error}")
    if (why := _unwilling(error)) is not None:
        return Unavailable(f"Redis {why} ({error})")
    if _is_redis(error, "ResponseError"):
        return LedgerError(f"Redis: {error}")
    return Unavailable(f"Redis cannot be reached: {error}")


def _unwilling(error: Exception) -> str | None:
    """Why Redis, which answers, does not do now what it may do later."""
    if not _is_redis(error, "ResponseError"):
        return None
    code = str(error).partition(" ")[0]
    return next((why for kind, why in _UNWILLING.items() if kind in (code, type(error).__name__)), None)


def _translate_postgres(error: psycopg.Error) -> LedgerError:
    state, text = error.sqlstate or "", error.diag.message_primary or " ".join(str(error).split())
    if state.startswith("LE"):
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        return RecordRefused(f"the database refused it: {text}{hint}")
    # A standby refuses `begin … read write` as a setting that is not supported.
    if state == "25006" or (state == "0A000" and error.diag.source_function == "call_bool_check_hook"):
        return Unavailable(
            f"this Postgres takes no writes ({text}): it is a standby, or default_transaction_read_only is on. Give "
            "the primary's URL, or one that names both hosts and ends with ?target_session_attrs=read-write"
        )
    if state == "40001":  # our own transactions cannot fail so on a primary
        return Unavailable(f"Postgres: {text}. On a standby set hot_standby_feedback = on; then try again")
    if state == "55P03":
        return Unavailable(f"Postgres: {text}: another transaction holds what this one needs")
    if state in ("42P01", "3F000", "42883", "42703"):
        return SchemaMismatch(f"the database lacks part of the schema ({text}): run 'auditledger migrate'")
    if state == "42501":
        return UsageError(f"this database user may not do that: {text} ('auditledger grant' gives a user a role)")
    if not state and not _is_libpqs(error):
        return UsageError(f"Postgres cannot take that: {text}")
    if not state or state in _SHUTDOWN or state.startswith("08"):
        return ConnectionLost(f"the connection to Postgres was lost: {text}")
    if state.startswith(("XX", "58")):
        return Unavailable(
            f"Postgres cannot read or write what it stores: {text} (SQLSTATE {state}). Its log says more; damaged "
            "files are restored from a backup or a standby, damaged indexes made anew by REINDEX"
        )
    if state.startswith(("28", "3D", "53", "57")):
        return Unavailable(f"Postgres: {text}")
    return LedgerError(f"Postgres: {text} (SQLSTATE {state})")


def _perform(effect: Effect, connection: Callable[[], Connection] | None, client: Redis | None) -> Any:
    if isinstance(effect, Wait):
        return time.sleep(effect.seconds)
    if isinstance(effect, Command | LuaScript):
        return cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
    postgres = _needed(connection, "Postgres")()
    match effect:
        case Query():
            return _rows(_cursor(postgres).execute(effect.sql, effect.params))
        case Pipeline():
            with postgres.pipeline() as pipeline:
                _never_flush(pipeline)
                cursors = [_cursor(postgres).execute(query.sql, query.params) for query in effect.queries]
            return [_rows(cursor) for cursor in cursors]
        case CopyIn():
            with _cursor(postgres).copy(effect.sql) as copy:
                for data in effect.data:
                    copy.write(data)
            return None
        case Stored():
            for row in _stored_cursor(postgres).stream(effect.sql, effect.params, binary=True, size=_CHUNK):
                effect.take(row)
            return None
        case SqlScript():
            postgres.execute(effect.sql)
            return None
        case Apply():
            return _applied(effect, postgres)
        case Rollback():
            return postgres.rollback()
        case InTransaction():
            if not isinstance(postgres, psycopg.Connection):
                raise UsageError(f"a Ledger takes a psycopg.Connection, not {type(postgres).__name__}")
            return postgres.info.transaction_status in IN_TRANSACTION or not postgres.autocommit


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
    if isinstance(effect, Command | LuaScript):
        return await cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
    postgres = await _needed(connection, "Postgres")()
    match effect:
        case Query():
            return await _arows(await _acursor(postgres).execute(effect.sql, effect.params))
        case Pipeline():
            async with postgres.pipeline() as pipeline:
                _never_flush(pipeline)
                cursors = [await _acursor(postgres).execute(query.sql, query.params) for query in effect.queries]
            return [await _arows(cursor) for cursor in cursors]
        case CopyIn():
            async with _acursor(postgres).copy(effect.sql) as copy:
                for data in effect.data:
                    await copy.write(data)
            return None
        case SqlScript():
            await postgres.execute(effect.sql)
            return None
        case Rollback():
            return await postgres.rollback()
        case InTransaction():
            if not isinstance(postgres, psycopg.AsyncConnection):
                raise UsageError(f"an AsyncLedger takes a psycopg.AsyncConnection, not {type(postgres).__name__}")
            return postgres.info.transaction_status in IN_TRANSACTION or not postgres.autocommit


class Transaction:
    """What a projection writes through: the transaction in which its checkpoint moves. Implements projection.Writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """One statement; its rows, as tuples."""
        return _rows(_cursor(self._connection).execute(sql, params))

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """One statement for each set of parameters, in few round trips."""
        with self._connection.pipeline() as pipeline:
            _never_flush(pipeline)
            _cursor(self._connection).executemany(sql, params)

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Many rows into one table: the fastest way in."""
        names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns))
        into = psycopg.sql.SQL("copy {} ({}) from stdin").format(psycopg.sql.Identifier(table), names)
        with self._connection.cursor().copy(into) as copy:
            for row in rows:
                copy.write_row(row)


# The caller's connection may have row and cursor factories of its own: plans want plain tuples.


def _cursor(connection: Connection) -> psycopg.Cursor[Row]:
    cursor = psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row)
    cursor.format = psycopg.pq.Format.BINARY
    return cursor


def _acursor(connection: AsyncConnection) -> psycopg.AsyncCursor[Row]:
    cursor = psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row)
    cursor.format = psycopg.pq.Format.BINARY
    return cursor


def _never_flush(pipeline: psycopg.Pipeline | psycopg.AsyncPipeline) -> None:
    """psycopg ends a pipeline with a Sync, which brings all results, and a Flush behind it. At that Postgres (18) drops
    idle_in_transaction_session_timeout: a process that stopped there would hold its locks for ever.
    """
    fetch = pipeline._fetch_gen
    pipeline._fetch_gen = lambda *, flush: fetch(flush=False)  # type: ignore[method-assign]


def _stored_cursor(connection: Connection) -> psycopg.Cursor[Row]:
    cursor = _cursor(connection)
    as_bytes = psycopg.adapters.get_loader(psycopg.adapters.types["bytea"].oid, psycopg.pq.Format.BINARY)
    as_integer = psycopg.adapters.get_loader(psycopg.adapters.types["int8"].oid, psycopg.pq.Format.BINARY)
    for name, loader in (("uuid", as_bytes), ("json", as_bytes), ("timestamptz", as_integer)):
        cursor.adapters.register_loader(name, cast(Any, loader))
    return cursor


def _rows(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if cursor.description else []


async def _arows(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
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
