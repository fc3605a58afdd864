"""Runs plans, sync and async. The only place that touches psycopg and redis.

A plan runs on two sides: a Postgres connection, which is asked for when the plan first needs it, and a Redis client.
Either may be missing where the plan does not need it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar, cast

import psycopg
import redis
import redis.asyncio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
from redis.backoff import NoBackoff
from redis.retry import Retry

from ledger.effects import (
    Apply,
    Command,
    CopyIn,
    CopyOut,
    Effect,
    InTransaction,
    LuaScript,
    Pipeline,
    Plan,
    Query,
    Refused,
    Row,
    SqlScript,
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
from ledger.settings import Settings

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
Redis: TypeAlias = redis.Redis
AsyncRedis: TypeAlias = redis.asyncio.Redis

_IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)
# The server is going away: the connection is as good as lost.
_SHUTDOWN = ("57P01", "57P02", "57P03", "57P05")
# The pool reports each failed attempt as a warning; the error that reaches the caller says it once.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


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
            except (psycopg.Error, redis.RedisError, OSError) as error:
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
            except (psycopg.Error, redis.RedisError, OSError) as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        plan.close()


def _throw(plan: Plan[Any], error: Exception, raw: bool) -> Effect:
    """Lets the plan handle a refusal. An error that it does not handle goes on in our words, from the original."""
    refused = _as_refused(error)
    if refused is not None:
        try:
            return plan.throw(refused)
        except Refused as unhandled:
            if unhandled is not refused:
                raise
    if raw:
        raise error
    raise translate(error) from error


def _as_refused(error: Exception) -> Refused | None:
    if isinstance(error, psycopg.Error) and error.sqlstate and error.sqlstate not in _SHUTDOWN:
        return Refused(str(error), error.sqlstate)
    if isinstance(error, redis.RedisError | OSError):
        return Refused(str(error), away=not isinstance(error, redis.ResponseError))
    return None


def translate(error: Exception) -> LedgerError:
    """A driver's error as one of ours. Messages name neither password nor URL."""
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, psycopg.Error):
        return _translate_postgres(error)
    if isinstance(error, redis.AuthenticationError):
        return Unavailable(f"Redis refuses the user or password: {error}")
    if isinstance(error, redis.ResponseError):
        return LedgerError(f"Redis: {error}")
    return Unavailable(f"Redis cannot be reached: {error}")


def _translate_postgres(error: psycopg.Error) -> LedgerError:
    state, text = error.sqlstate or "", error.diag.message_primary or " ".join(str(error).split())
    if state.startswith("LE"):
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        return RecordRefused(f"the database refused the entry: {text}{hint}")
    if state == "55P03":
        return Unavailable(f"Postgres: {text}: another transaction holds what this one needs")
    if state in ("42P01", "3F000", "42883", "42703"):
        return SchemaMismatch(f"the database lacks part of the schema ({text}): run 'auditledger migrate'")
    if state == "42501":
        return UsageError(f"this database user may not do that: {text}")
    if not state or state in _SHUTDOWN or state.startswith("08"):
        return ConnectionLost(f"the connection to Postgres was lost: {text}")
    if state.startswith(("28", "3D", "53", "57")):
        return Unavailable(f"Postgres: {text}")
    return LedgerError(f"Postgres: {text} (SQLSTATE {state})")


# ---------------------------------------------------------------------------------------------------------- effects


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
            with postgres.pipeline():
                cursors = [_cursor(postgres).execute(query.sql, query.params) for query in effect.queries]
            return [_rows(cursor) for cursor in cursors]
        case CopyIn():
            with _cursor(postgres).copy(effect.sql) as copy:
                for data in effect.data:
                    copy.write(data)
            return None
        case CopyOut():
            with _cursor(postgres).copy(effect.sql, effect.params) as copy:
                copy.set_types(effect.types)
                for row in copy.rows():
                    effect.take(row)
            return None
        case SqlScript():
            postgres.execute(effect.sql)
            return None
        case Apply():
            effect.function(Transaction(postgres))
            return None
        case InTransaction():
            if not isinstance(postgres, psycopg.Connection):
                raise UsageError(f"a Ledger takes a psycopg.Connection, not {type(postgres).__name__}")
            return postgres.info.transaction_status in _IN_TRANSACTION or not postgres.autocommit


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
            async with postgres.pipeline():
                cursors = [await _acursor(postgres).execute(query.sql, query.params) for query in effect.queries]
            return [await _arows(cursor) for cursor in cursors]
        case CopyIn():
            async with _acursor(postgres).copy(effect.sql) as copy:
                for data in effect.data:
                    await copy.write(data)
            return None
        case CopyOut():
            async with _acursor(postgres).copy(effect.sql, effect.params) as copy:
                copy.set_types(effect.types)
                async for row in copy.rows():
                    effect.take(row)
            return None
        case SqlScript():
            await postgres.execute(effect.sql)
            return None
        case InTransaction():
            if not isinstance(postgres, psycopg.AsyncConnection):
                raise UsageError(f"an AsyncLedger takes a psycopg.AsyncConnection, not {type(postgres).__name__}")
            return postgres.info.transaction_status in _IN_TRANSACTION or not postgres.autocommit


class Transaction:
    """What a projection writes through: the transaction in which its checkpoint moves. Implements projection.Writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """One statement; its rows, as tuples."""
        return _rows(_cursor(self._connection).execute(sql, params))

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """One statement for each set of parameters, in few round trips."""
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


def _rows(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if cursor.description else []


async def _arows(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    return await cursor.fetchall() if cursor.description else []


def _redis_args(effect: Command | LuaScript) -> tuple[Any, ...]:
    if isinstance(effect, Command):
        return effect.args
    return ("EVAL", effect.lua, len(effect.keys), *effect.keys, *effect.args)


def _needed(side: T | None, name: str) -> T:
    if side is None:
        raise InvalidSetting(f"this needs {name}, and none was given: set LEDGER_{name.upper()}_URL")
    return side


# ------------------------------------------------------------------------------------------------------ connections


def _conninfo(settings: Settings) -> str:
    if settings.database_url is None:
        raise InvalidSetting(
            "no database is set: give database_url or LEDGER_DATABASE_URL "
            "(or home= or LEDGER_HOME for the embedded servers)"
        )
    try:
        # Options of the caller's own stay; ours come after them.
        options = conninfo_to_dict(settings.database_url).get("options") or ""
        return make_conninfo(
            settings.database_url,
            connect_timeout=max(2, round(settings.connect_timeout)),
            client_encoding="utf8",
            application_name="auditledger",
            options=f"{options} -c timezone=UTC -c lock_timeout={round(settings.lock_timeout * 1000)}".strip(),
        )
    except psycopg.ProgrammingError:
        # libpq's own message may repeat parts of the URL, the password among them.
        raise InvalidSetting("the database URL cannot be read: check its form") from None


def connect(settings: Settings) -> Connection:
    """A connection of one's own, autocommit. Raises Unavailable, saying why."""
    try:
        return psycopg.connect(_conninfo(settings), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None


async def aconnect(settings: Settings) -> AsyncConnection:
    """`connect`, awaited."""
    try:
        return await psycopg.AsyncConnection.connect(_conninfo(settings), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None


def _why_not_connected(error: psycopg.Error) -> str:
    return "Postgres cannot be reached: " + " ".join(str(error).split())


def create_redis_connection(redis_url: str, *, connect_timeout: float = 5.0) -> Redis:
    """A Redis client for one worker, fit for blocking reads: no socket timeout, no hidden retries.

    redis-py's defaults (a socket timeout of 5 s, ten retries) would cut a blocking XREADGROUP and repeat commands
    behind the caller's back. Raises InvalidSetting for a malformed URL; connects when first used.
    """
    return cast(Redis, _redis_from_url(redis.Redis, redis_url, connect_timeout, Retry(NoBackoff(), 0)))


def create_async_redis_connection(redis_url: str, *, connect_timeout: float = 5.0) -> AsyncRedis:
    """`create_redis_connection` for asyncio."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return cast(AsyncRedis, _redis_from_url(redis.asyncio.Redis, redis_url, connect_timeout, retry))


def _for_plans(create: Callable[..., T], settings: Settings) -> T:
    """A client whose replies come as Redis sends them: plans read those, whatever redis-py makes of them by default."""
    client = create(_needed(settings.redis_url, "Redis"), connect_timeout=settings.connect_timeout)
    cast(Any, client).response_callbacks.clear()
    return client


def _redis_from_url(client: Any, url: str, connect_timeout: float, retry: Any) -> Any:
    try:
        return client.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=connect_timeout,
            socket_keepalive=True,
            retry=retry,
            protocol=2,
            client_name="auditledger",
        )
    except (ValueError, redis.RedisError) as error:
        raise InvalidSetting(f"the Redis URL cannot be used: {type(error).__name__}") from None


def _pool_options(settings: Settings) -> dict[str, Any]:
    return {
        "kwargs": {"autocommit": True},
        "min_size": 0,
        "max_size": settings.pool_max_size,
        "max_idle": settings.pool_max_idle,
        "timeout": settings.connect_timeout,
        # Failed attempts are repeated at once, then by whoever needs a connection next: the pool's own way, to wait
        # 1, 2, 4 … s, would go on failing appends for as long as that when Postgres has been back for long.
        "reconnect_timeout": 0.0,
    }


def _all_busy(settings: Settings) -> Unavailable:
    return Unavailable(
        f"all {settings.pool_max_size} connections of the pool were busy for {settings.connect_timeout:g} s"
    )


class Servers:
    """The servers of one Ledger: a lazily opened pool of Postgres connections and a shared Redis client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pool: ConnectionPool[Connection] | None = None
        self._redis: Redis | None = None
        self._lock = threading.Lock()

    @property
    def redis(self) -> Redis | None:
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self) -> Redis:
        """A client of one's own, for plans that block. Raises InvalidSetting where no Redis is set."""
        return _for_plans(create_redis_connection, self.settings)

    def run(self, plan: Plan[T], redis_client: Redis | None = None) -> T:
        """Drives a plan; a pooled connection is taken when the plan first needs one, and given back at its end."""
        with self._borrowed() as connection:
            return drive(plan, connection, redis_client or self.redis)

    @contextmanager
    def _borrowed(self) -> Iterator[Callable[[], Connection]]:
        taken: list[Connection] = []

        def connection() -> Connection:
            if not taken:
                taken.append(self._get())
            return taken[0]

        try:
            yield connection
        finally:
            if taken and self._pool is not None:
                # A plan that ended early left its transaction open: the pool rolls back what it is given so.
                if not taken[0].closed and taken[0].info.transaction_status in _IN_TRANSACTION:
                    _quietly(taken[0].rollback)
                self._pool.putconn(taken[0])

    def _get(self) -> Connection:
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = self._open()
        try:
            return self._pool.getconn()
        except PoolTimeout:
            connect(self.settings).close()  # says why, where it cannot be reached
            raise _all_busy(self.settings) from None

    def _open(self) -> ConnectionPool[Connection]:
        # The first connection is made by hand: the pool itself cannot say why one fails.
        connect(self.settings).close()
        return ConnectionPool(_conninfo(self.settings), open=True, **_pool_options(self.settings))

    def forget_broken(self) -> None:
        """After a connection was lost: drops the pool's other dead ones (the server may have been restarted)."""
        if self._pool is not None:
            self._pool.check()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._redis is not None:
            self._redis.close()


class AsyncServers:
    """`Servers` for asyncio."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._redis: AsyncRedis | None = None
        self._lock = asyncio.Lock()

    @property
    def redis(self) -> AsyncRedis | None:
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self) -> AsyncRedis:
        """A client of one's own, for plans that block. Raises InvalidSetting where no Redis is set."""
        return _for_plans(create_async_redis_connection, self.settings)

    async def run(self, plan: Plan[T], redis_client: AsyncRedis | None = None) -> T:
        async with self._borrowed() as connection:
            return await adrive(plan, connection, redis_client or self.redis)

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Callable[[], Awaitable[AsyncConnection]]]:
        taken: list[AsyncConnection] = []

        async def connection() -> AsyncConnection:
            if not taken:
                taken.append(await self._get())
            return taken[0]

        try:
            yield connection
        finally:
            if taken and self._pool is not None:
                if not taken[0].closed and taken[0].info.transaction_status in _IN_TRANSACTION:
                    try:
                        await taken[0].rollback()
                    except psycopg.Error:
                        await taken[0].close()
                await self._pool.putconn(taken[0])

    async def _get(self) -> AsyncConnection:
        async with self._lock:
            if self._pool is None:
                self._pool = await self._open()
        try:
            return await self._pool.getconn()
        except PoolTimeout:
            await (await aconnect(self.settings)).close()
            raise _all_busy(self.settings) from None

    async def _open(self) -> AsyncConnectionPool[AsyncConnection]:
        await (await aconnect(self.settings)).close()
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            _conninfo(self.settings), open=False, **_pool_options(self.settings)
        )
        await pool.open()
        return pool

    async def forget_broken(self) -> None:
        if self._pool is not None:
            await self._pool.check()

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
        if self._redis is not None:
            await self._redis.aclose()


def _quietly(undo: Callable[[], None]) -> None:
    try:
        undo()
    except psycopg.Error:
        return
