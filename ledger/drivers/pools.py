"""The servers of one Ledger: lazily opened pools of Postgres connections, and shared Redis clients."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from ledger.drivers import forks
from ledger.drivers.connections import (
    OPTIONS,
    aconfigure,
    aconnect,
    configure,
    connect,
    conninfo,
    create_async_redis_connection,
    create_redis_connection,
    redis_for_plans,
)
from ledger.drivers.liveness import AnsweringConnection, AsyncAnsweringConnection
from ledger.drivers.run import IN_TRANSACTION, AsyncConnection, AsyncRedis, Connection, Redis, adrive, drive
from ledger.effects import Plan
from ledger.errors import OutcomeUnknown, Unavailable, UsageError
from ledger.settings import Settings

T = TypeVar("T")

# The pool reports each failed attempt as a warning; the error that reaches the caller says it once.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _pool_options(settings: Settings) -> dict[str, Any]:
    return {
        "kwargs": OPTIONS,
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


def _closed() -> UsageError:
    return UsageError("this ledger was closed: open another")


def _is_dead(connection: AnsweringConnection | AsyncAnsweringConnection, lost: float) -> bool:
    """Has an idle connection something to say? Then the server ended it while nobody looked, as in a restart.

    Nor is one used that was well last before another was lost: what hit that one may have hit all.
    """
    if connection.well < lost:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Connector:
    """The servers of one Ledger: a lazily opened pool of Postgres connections and a shared Redis client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._begin()
        forks.register(self)

    def _begin(self, pool: ConnectionPool[AnsweringConnection] | None = None) -> None:
        self._pool = pool
        self._out: set[AnsweringConnection] = set()
        self._lost = 0.0  # when a connection was lost last
        self._redis: Redis | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> object:
        had = vars(self).copy()
        self._begin(self._pool if self._pool is not None and self._pool.closed else None)  # what was closed stays so
        return had

    @property
    def redis(self) -> Redis | None:
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self, redis_timeout: float | None = None) -> Redis:
        """A client of one's own, for plans that block. Raises InvalidSetting where no Redis is set.

        redis_timeout: seconds in which Redis must connect and answer, for those who must not hang with it.
        """
        if redis_timeout is None:
            return redis_for_plans(create_redis_connection, self.settings)
        return redis_for_plans(
            create_redis_connection, self.settings, connect_timeout=redis_timeout, read_timeout=redis_timeout
        )

    def run(self, plan: Plan[T], redis_client: Redis | None = None, *, unlimited: bool = False) -> T:
        """Drives a plan; a pooled connection is taken when the plan first needs one, and given back at its end.

        A server that stays silent for longer than `settings.silence_timeout` ends it with ConnectionLost. unlimited:
        wait for as long as it takes, for the caller's own statements, each with the settings of a transaction of ours.
        """
        with self._borrowed(None if unlimited else self.settings.silence_timeout) as connection:
            return drive(plan, connection, redis_client or self.redis)

    def run_anew(self, plan: Plan[T]) -> T:
        """Drives a plan on a connection of its own, as long as the pool's may all be dying. Postgres alone."""
        forks.process()
        connection = connect(self.settings)
        connection.answer_timeout = self.settings.silence_timeout
        try:
            return drive(plan, lambda: connection)
        finally:
            connection.close()

    @contextmanager
    def _borrowed(self, answer_timeout: float | None) -> Iterator[Callable[[], Connection]]:
        taken: list[AnsweringConnection] = []
        here = forks.process()

        def connection() -> Connection:
            if not taken:
                taken.append(self._get())
                taken[0].answer_timeout = answer_timeout
                taken[0].wraps = taken[0].differs or answer_timeout is None
            return taken[0]

        try:
            yield connection
        except OutcomeUnknown:
            if taken:
                taken[0].close()  # what answers there is not what was asked
            raise
        finally:
            if taken and self._pool is not None and forks.process() is here:
                # A plan that ended early left its transaction open: the pool rolls back what it is given so.
                if not taken[0].closed and taken[0].info.transaction_status in IN_TRANSACTION:
                    _quietly(taken[0].rollback)
                if taken[0].closed:
                    self._lost = time.monotonic()
                else:
                    taken[0].well = time.monotonic()
                self._out.discard(taken[0])
                self._pool.putconn(taken[0])

    def _get(self) -> AnsweringConnection:
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = self._open()
        waited = False
        while True:
            try:
                connection = self._pool.getconn()
            except PoolTimeout:
                connect(self.settings).close()  # says why, where it cannot be reached
                if waited or len(self._out) >= self.settings.pool_max_size:
                    raise _all_busy(self.settings) from None
                waited = True  # Postgres was away until now, and the pool has not noticed yet that it is back
                continue
            except PoolClosed:
                raise _closed() from None
            if not _is_dead(connection, self._lost):
                self._out.add(connection)
                return connection
            connection.close()
            self._pool.putconn(connection)

    def _open(self) -> ConnectionPool[AnsweringConnection]:
        # The first connection is made by hand: the pool itself cannot say why one fails.
        connect(self.settings).close()
        return ConnectionPool(
            conninfo(self.settings),
            connection_class=AnsweringConnection,
            configure=partial(configure, self.settings),
            open=True,
            **_pool_options(self.settings),
        )

    @contextmanager
    def own_redis(self) -> Iterator[Callable[[], Redis]]:
        """Gives the client of one conversation; in a child of a fork another one, and its parent's stays open."""
        clients: dict[forks.Process, Redis] = {}

        def client() -> Redis:
            here = forks.process()
            if here not in clients:
                clients[here] = self.new_redis()
            return clients[here]

        try:
            yield client
        finally:
            if forks.process() in clients:
                clients[forks.process()].close()

    def close(self) -> None:
        forks.process()
        if self._pool is not None:
            self._pool.close()
        if self._redis is not None:
            self._redis.close()


class AsyncConnector:
    """`Connector` for asyncio."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._begin()
        forks.register(self)

    def _begin(self, pool: AsyncConnectionPool[AsyncAnsweringConnection] | None = None) -> None:
        self._pool = pool
        self._out: set[AsyncAnsweringConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it was used first
        self._lost = 0.0
        self._redis: AsyncRedis | None = None
        self._lock = asyncio.Lock()

    def after_fork(self) -> object:
        had = vars(self).copy()
        self._begin(self._pool if self._pool is not None and self._pool.closed else None)
        return had

    @property
    def redis(self) -> AsyncRedis | None:
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self) -> AsyncRedis:
        """A client of one's own, for plans that block. Raises InvalidSetting where no Redis is set."""
        return redis_for_plans(create_async_redis_connection, self.settings)

    async def run(self, plan: Plan[T], redis_client: AsyncRedis | None = None, *, unlimited: bool = False) -> T:
        """`Connector.run`, awaited."""
        self._loop = self._loop or asyncio.get_running_loop()
        async with self._borrowed(None if unlimited else self.settings.silence_timeout) as connection:
            return await adrive(plan, connection, redis_client or self.redis)

    async def run_anew(self, plan: Plan[T]) -> T:
        """`Connector.run_anew`, awaited."""
        forks.process()
        connection = await aconnect(self.settings)
        connection.answer_timeout = self.settings.silence_timeout

        async def made() -> AsyncConnection:
            return connection

        try:
            return await adrive(plan, made)
        finally:
            await connection.close()

    @asynccontextmanager
    async def _borrowed(self, answer_timeout: float | None) -> AsyncIterator[Callable[[], Awaitable[AsyncConnection]]]:
        taken: list[AsyncAnsweringConnection] = []
        here = forks.process()

        async def connection() -> AsyncConnection:
            if not taken:
                taken.append(await self._get())
                taken[0].answer_timeout = answer_timeout
                taken[0].wraps = taken[0].differs or answer_timeout is None
            return taken[0]

        try:
            yield connection
        except OutcomeUnknown:
            if taken:
                await taken[0].close()
            raise
        finally:
            if taken and self._pool is not None and forks.process() is here:
                if not taken[0].closed and taken[0].info.transaction_status in IN_TRANSACTION:
                    try:
                        await taken[0].rollback()
                    except psycopg.Error:
                        await taken[0].close()
                if taken[0].closed:
                    self._lost = time.monotonic()
                else:
                    taken[0].well = time.monotonic()
                self._out.discard(taken[0])
                await self._pool.putconn(taken[0])

    async def _get(self) -> AsyncAnsweringConnection:
        async with self._lock:
            if self._pool is None:
                self._pool = await self._open()
        waited = False
        while True:
            try:
                connection = await self._pool.getconn()
            except PoolTimeout:
                await (await aconnect(self.settings)).close()
                if waited or len(self._out) >= self.settings.pool_max_size:
                    raise _all_busy(self.settings) from None
                waited = True
                continue
            except PoolClosed:
                raise _closed() from None
            if not _is_dead(connection, self._lost):
                self._out.add(connection)
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def _open(self) -> AsyncConnectionPool[AsyncAnsweringConnection]:
        await (await aconnect(self.settings)).close()
        pool = AsyncConnectionPool(
            conninfo(self.settings),
            connection_class=AsyncAnsweringConnection,
            configure=partial(aconfigure, self.settings),
            open=False,
            **_pool_options(self.settings),
        )
        await pool.open()
        return pool

    @asynccontextmanager
    async def own_redis(self) -> AsyncIterator[Callable[[], AsyncRedis]]:
        """`Connector.own_redis` for asyncio."""
        clients: dict[forks.Process, AsyncRedis] = {}

        def client() -> AsyncRedis:
            here = forks.process()
            if here not in clients:
                clients[here] = self.new_redis()
            return clients[here]

        try:
            yield client
        finally:
            if forks.process() in clients:
                await clients[forks.process()].aclose()

    async def close(self) -> None:
        forks.process()
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            # The loop in which they were opened is over: nothing of theirs can be awaited any more.
            for connection in (*self._idle(), *self._out):
                connection.pgconn.finish()
            return
        if self._pool is not None:
            await self._pool.close()
        if self._redis is not None:
            await self._redis.aclose()

    def _idle(self) -> tuple[AsyncAnsweringConnection, ...]:
        return () if self._pool is None else tuple(self._pool._pool)


def _quietly(undo: Callable[[], None]) -> None:
    try:
        undo()
    except psycopg.Error:
        return
