"""What each effect does on a Postgres connection, sync and async.

`perform` asks psycopg, and `drivers/run.py` decides what an error means to the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from ledger.drivers.cursors import (
    ADAPTERS,
    AsyncConnection,
    AsyncCursor,
    Connection,
    Cursor,
    copying,
    copying_out,
    prepares,
    stored_cursor,
)
from ledger.effects import Apply, Begin, CopyIn, CopyOut, Effect, Pipeline, Query, Rollback, Row, SqlScript, Stored

IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)
_CHUNK = 100 if psycopg.capabilities.has_stream_chunked() else 1
"""Rows that a long result brings at a time: at most some 25 MB, should every body have its 256 KiB."""


def perform(effect: Effect, postgres: Connection) -> Any:
    """Performs an effect of Postgres' and returns what it brings. Raises psycopg.Error, UnicodeError.

    Any other error of the driver's closes the connection, and is raised as OperationalError: what it was asked for may
    have been done. What the data of a CopyIn or the `take` of a Stored raise passes through.
    """
    try:
        brought = _ask(effect, postgres)
    except (psycopg.Error, UnicodeError):
        raise
    except Exception as error:
        if isinstance(effect, Stored | CopyOut):
            raise  # it writes nothing, and `take` is ours
        raise _lost(postgres.pgconn, error) from error
    return _unless_failed(effect, brought)


async def aperform(effect: Effect, postgres: AsyncConnection) -> Any:
    """`perform`, awaited. Neither Stored nor Apply."""
    try:
        brought = await _aask(effect, postgres)
    except (psycopg.Error, UnicodeError):
        raise
    except Exception as error:
        raise _lost(postgres.pgconn, error) from error
    return _unless_failed(effect, brought)


def _ask(effect: Effect, postgres: Connection) -> Any:
    """Only psycopg raises here: what the function of Apply raises is returned."""
    match effect:
        case Query() if not _is_wrapped(postgres):
            return _rows(_execute(postgres, effect))
        case Query() | Begin() | Pipeline():
            sent, failed, cursors = _statements(effect, postgres), None, []
            try:
                with postgres.pipeline() as pipeline:
                    without_flush(pipeline)
                    try:
                        cursors = [_execute(postgres, query) for query, _ in sent]
                    except psycopg.Error as error:
                        failed = error  # else psycopg would also log the block's own error
            except psycopg.Error as error:
                failed = failed or error
            if failed is not None:
                if isinstance(effect, Query) and not postgres.closed:
                    postgres.rollback()
                raise _unless_committed(effect, postgres.pgconn, failed)
            return _brought(
                effect, [_rows(cursor) for cursor, (_, wanted) in zip(cursors, sent, strict=True) if wanted]
            )
        case CopyIn():
            with postgres.lock:
                return postgres.wait(copying(postgres, effect.sql, effect.data))
        case CopyOut() if _is_wrapped(postgres):
            _ask(Pipeline((_alone(postgres),)), postgres)
            try:
                _ask(effect, postgres)
            except BaseException:
                if not postgres.closed:
                    postgres.rollback()
                raise
            _ask(Query("commit"), postgres)
            return None
        case CopyOut():
            with postgres.lock:
                return postgres.wait(copying_out(postgres, effect.sql, effect.take))
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


async def _aask(effect: Effect, postgres: AsyncConnection) -> Any:
    match effect:
        case Query() if not _is_wrapped(postgres):
            return await _arows(await _aexecute(postgres, effect))
        case Query() | Begin() | Pipeline():
            sent, failed, cursors = _statements(effect, postgres), None, []
            try:
                async with postgres.pipeline() as pipeline:
                    without_flush(pipeline)
                    try:
                        cursors = [await _aexecute(postgres, query) for query, _ in sent]
                    except psycopg.Error as error:
                        failed = error
            except psycopg.Error as error:
                failed = failed or error
            if failed is not None:
                if isinstance(effect, Query) and not postgres.closed:
                    await postgres.rollback()
                raise _unless_committed(effect, postgres.pgconn, failed)
            results = [await _arows(cursor) for cursor, (_, wanted) in zip(cursors, sent, strict=True) if wanted]
            return _brought(effect, results)
        case CopyIn():
            async with postgres.lock:
                return await postgres.wait(copying(postgres, effect.sql, effect.data))
        case CopyOut() if _is_wrapped(postgres):
            await _aask(Pipeline((_alone(postgres),)), postgres)
            try:
                await _aask(effect, postgres)
            except BaseException:
                if not postgres.closed:
                    await postgres.rollback()
                raise
            await _aask(Query("commit"), postgres)
            return None
        case CopyOut():
            async with postgres.lock:
                return await postgres.wait(copying_out(postgres, effect.sql, effect.take))
        case SqlScript():
            await AsyncCursor(postgres).execute(effect.sql, prepare=False, binary=False)
            return None
        case Rollback():
            return await postgres.rollback()


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


def _lost(pgconn: PGconn, error: Exception) -> psycopg.OperationalError:
    """The error after an exception that no driver should raise. Closes the connection, whose state is unknown."""
    pgconn.finish()
    return psycopg.OperationalError(f"the driver failed: {type(error).__name__}: {error}")


def _unless_committed(effect: Effect, pgconn: PGconn, error: psycopg.Error) -> psycopg.Error:
    """The error of a pipeline; of one that goes on behind a COMMIT, and failed there, the error of a lost connection.

    What was committed stays, so the plan must not take it for refused.
    """
    ended = pgconn.transaction_status == TransactionStatus.IDLE
    if ended and isinstance(effect, Pipeline) and any(query.sql == "commit" for query in effect.queries[:-1]):
        return psycopg.OperationalError(f"an error came behind a COMMIT: {error}")
    return error


def _unless_failed(effect: Effect, brought: Any) -> Any:
    """Raises what the data of a CopyIn raised, as it is."""
    if isinstance(effect, CopyIn) and isinstance(brought, Exception):
        raise brought
    return brought


# A transaction of ours begins with its connection's settings. Other transactions get none.


def _statements(effect: Query | Begin | Pipeline, connection: Any) -> list[tuple[Query, bool]]:
    """The statements to send, each with whether the plan gets its rows."""
    if isinstance(effect, Query):
        queries: Sequence[Query | Begin] = (_alone(connection), effect, Query("commit"))
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


def _alone(connection: Any) -> Begin:
    """Begins the transaction of a statement that would have none."""
    return _ALONE_WRITING if getattr(connection, "read_only_by_default", False) else _ALONE


def _is_wrapped(connection: Any) -> bool:
    """Whether a statement outside of a transaction gets one, for the sake of its settings."""
    return getattr(connection, "wraps", False) and connection.pgconn.transaction_status == TransactionStatus.IDLE


def _brought(effect: Query | Begin | Pipeline, results: list[list[Row]]) -> Any:
    return results if isinstance(effect, Pipeline) else results[0]


def _execute(connection: Connection, query: Query) -> Cursor:
    return Cursor(connection).execute(query.sql, query.params, prepare=prepares(connection))


async def _aexecute(connection: AsyncConnection, query: Query) -> AsyncCursor:
    return await AsyncCursor(connection).execute(query.sql, query.params, prepare=prepares(connection))


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
            without_flush(pipeline)
            Cursor(self._connection).executemany(sql, params)

    def copy(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], types: Sequence[str] = ()
    ) -> None:
        """Many rows into one table: the fastest way in. types: of the columns; then the rows go in binary."""
        names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns))
        options = psycopg.sql.SQL(" (format binary)" if types else "")
        into = psycopg.sql.SQL("copy {} ({}) from stdin{}").format(psycopg.sql.Identifier(table), names, options)
        with Cursor(self._connection).copy(into) as copy:
            if types:
                copy.set_types([ADAPTERS.types.get_oid(name) for name in types])
            for row in rows:
                copy.write_row(row)


def without_flush(pipeline: psycopg.Pipeline | psycopg.AsyncPipeline) -> None:
    """Keeps psycopg from sending a Flush behind the Sync that ends this pipeline.

    At a Flush, Postgres (18) forgets idle_in_transaction_session_timeout: a process that stopped there would hold its
    locks for ever. The Sync alone brings all results. psycopg 3.3.9 sends a Flush in more than half of all pipelines,
    whenever the results are not there when everything is sent, and has no option for that.
    This leans on an internal of psycopg's: `Pipeline._exit_gen` ends with `_fetch_gen(flush=True)`. So pyproject.toml
    bounds psycopg's version, and tests/integration/drivers/test_pipelines.py reads what is sent.
    """
    fetch = pipeline._fetch_gen
    pipeline._fetch_gen = lambda *, flush: fetch(flush=False)  # type: ignore[method-assign]


def _rows(cursor: Cursor) -> list[Row]:
    return [] if cursor.rownumber is None else cursor.fetchall()


async def _arows(cursor: AsyncCursor) -> list[Row]:
    return [] if cursor.rownumber is None else await cursor.fetchall()
