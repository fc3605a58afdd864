"""Runs plans, sync and async: asks psycopg and redis for each effect, and says what goes wrong in our own words.

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
from psycopg.pq.abc import PGconn

from ledger import cursors
from ledger.cursors import AsyncCursor, Cursor, copying, prepares, stored_cursor
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
from ledger.errors import (
    ConnectionLost,
    InvalidSetting,
    LedgerError,
    RecordRefused,
    SchemaMismatch,
    StreamUnusable,
    Unavailable,
    UnknownProjection,
    UsageError,
)
from ledger.lent import open_transactions

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
# The server is going away, or has ended a session that it found silent: the connection is as good as lost.
_SHUTDOWN = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_DAMAGED = "XX001"
"""data_corrupted."""
_OF_A_VIEW = '"ledger_views.'
_UNWILLING = {
    "ReadOnlyError": "is a replica and takes no writes: give the master's URL, or promote it",
    "OutOfMemoryError": "is out of memory and takes no writes: raise its maxmemory, or keep less (LEDGER_STREAM_KEEP)",
    "MasterDownError": "is a replica that has lost its master: give another one's URL, or promote it",
    "MISCONF": "takes no writes because it cannot save its data: look at its log and its disk",
    "NOREPLICAS": "takes no writes because too few replicas are connected: see min-replicas-to-write",
}
"""By redis-py's class, or by the code with which the answer begins where it has none."""
_UNUSABLE = {
    "WRONGTYPE": ", because a key of the ledger's holds something else (rename or delete that)",
    "MOVED": ", because this node of a cluster does not have the key (give the URL of one that has)",
    "ASK": ", because this node of a cluster does not have the key (give the URL of one that has)",
    "CROSSSLOT": ", because a cluster does not take keys of several slots at once",
    "CLUSTERDOWN": ", because its cluster is down",
    "NOPERM": ", because this user lacks a permission (ACL SETUSER gives it)",
}
"""By the code with which the answer begins: what may be right with another key or user."""


_ANEW = "nothing was recorded; roll back, and run the whole transaction again, with the same event ids"
_REMARKS = {
    "40001": "this transaction is REPEATABLE READ or SERIALIZABLE, and another append came after its snapshot: "
    f"{_ANEW}, as for any serialization failure (docs/deploying.md); or append at READ COMMITTED",
    "40P01": f"{_ANEW}. Transactions that append last, after all other locks, do not deadlock over the ledger's tail",
    "55P03": "another transaction holds the ledger's tail ('auditledger status' says who), and this connection's "
    f"lock_timeout ended the wait: {_ANEW}",
    "57014": f"if it waited for the ledger's tail, 'auditledger status' says who holds that: {_ANEW}",
    "42501": "'auditledger grant ledger_writer USER' lets a database user append",
    "42P01": "the database lacks part of the ledger's schema: is it the right one, and was 'auditledger migrate' run?",
    "3F000": "this database has no ledger: is it the right one, and was 'auditledger migrate' run?",
    "25P02": "an earlier statement of this transaction failed: roll back",
    "25006": "this transaction or this server is read-only: append on the primary, in a READ WRITE transaction",
}
"""What we say, as a note, of errors of the database that pass through in the caller's own transaction."""


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
            except _driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    except Refused as refused:
        raise translate(refused) from refused
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
        if (remark := _REMARKS.get(getattr(error, "sqlstate", None) or "")) is not None:
            error.add_note(f"auditledger: {remark}")
        raise error
    raise translate(error) from error


def _as_refused(error: Exception) -> Refused | None:
    if isinstance(error, psycopg.Error):
        return None if _is_lost(error) else Refused(str(error), error.sqlstate or "")
    if isinstance(error, UnicodeDecodeError):
        return Refused(str(error), _DAMAGED)
    if isinstance(error, UnicodeError):
        return None
    return Refused(_unwilling(error) or str(error), away=True)


def _is_lost(error: psycopg.Error) -> bool:
    """Is the connection, so that what was under way may have happened? FATAL ends a session, whatever its reason.

    08: as poolers say that the server behind them is gone.
    """
    state = error.sqlstate or ""
    severity = error.diag.severity_nonlocalized or error.diag.severity
    return _is_libpqs(error) or state in _SHUTDOWN or state.startswith("08") or severity in ("FATAL", "PANIC")


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
    if isinstance(error, Refused) or _is_redis(error, "ResponseError") or _is_redis(error, "InvalidResponse"):
        why = next((f" {why}" for code, why in _UNUSABLE.items() if str(error).startswith(code)), "")
        return StreamUnusable(f"Redis cannot be used{why}: {error}")
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
    if state == "42P01" and _OF_A_VIEW in text:
        return UnknownProjection(
            f"a projection's table is missing ({text}): 'auditledger replay NAME' (or --all) makes it anew"
        )
    if state in ("42P01", "3F000", "42883", "42703"):
        return SchemaMismatch(f"the database lacks part of the schema ({text}): run 'auditledger migrate'")
    if state == "42501":
        return UsageError(f"this database user may not do that: {text} ('auditledger grant' gives a user a role)")
    if not state and not _is_libpqs(error):
        return UsageError(f"Postgres cannot take that: {text}")
    if _is_lost(error):
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
