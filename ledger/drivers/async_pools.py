"""Connectors for asyncio: the same as in pools.py, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from ledger.drivers import forks
from ledger.drivers.connections import aconfigure, aconnect, conninfo, create_async_redis_connection, redis_for_plans
from ledger.drivers.cursors import AsyncConnection
from ledger.drivers.pools import all_busy, is_dead, pool_closed, pool_options
from ledger.drivers.postgres import IN_TRANSACTION
from ledger.drivers.postgres_connection import AsyncAnsweringConnection
from ledger.drivers.run import AsyncRedis, adrive
from ledger.effects import Plan
from ledger.errors import OutcomeUnknown
from ledger.settings import Settings

T = TypeVar("T")


class AsyncConnector:
    """`Connector` for asyncio."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._silence_timeout = settings.silence_timeout
        self._postgres = AsyncPostgresPool(settings)
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it was used first
        self._redis: AsyncRedis | None = None

    def after_fork(self) -> object:
        had = self._loop, self._redis
        self._begin()
        return had

    @property
    def redis(self) -> AsyncRedis | None:
        """The shared client; None if no Redis is set."""
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self) -> AsyncRedis:
        """A client of one's own, for plans that block. Raises InvalidSetting if no Redis is set."""
        return redis_for_plans(create_async_redis_connection, self.settings)

    async def run(self, plan: Plan[T], redis_client: AsyncRedis | None = None, *, unlimited: bool = False) -> T:
        """`Connector.run`, awaited."""
        self._loop = self._loop or asyncio.get_running_loop()
        async with self._postgres.lend(None if unlimited else self._silence_timeout) as connection:
            return await adrive(plan, connection, redis_client or self.redis)

    async def run_anew(self, plan: Plan[T]) -> T:
        """`Connector.run_anew`, awaited."""
        forks.process()
        connection = await aconnect(self.settings)
        connection.answer_timeout = self._silence_timeout
        try:
            return await adrive(plan, connection)
        finally:
            await connection.close()

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
            self._postgres.abandon()
            return
        await self._postgres.close()
        if self._redis is not None:
            await self._redis.aclose()


class AsyncPostgresPool:
    """`PostgresPool` for asyncio."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begin()
        forks.register(self)

    def _begin(self, pool: AsyncConnectionPool[AsyncAnsweringConnection] | None = None) -> None:
        self._pool = pool
        self._lent: set[AsyncAnsweringConnection] = set()
        self._lost = 0.0
        self._opening = asyncio.Lock()

    def after_fork(self) -> object:
        had = vars(self).copy()
        self._begin(self._pool if self._pool is not None and self._pool.closed else None)
        return had

    @asynccontextmanager
    async def lend(self, answer_timeout: float | None) -> AsyncIterator[Callable[[], Awaitable[AsyncConnection]]]:
        """`PostgresPool.lend`, awaited."""
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
                self._lent.discard(taken[0])
                await self._pool.putconn(taken[0])

    async def _get(self) -> AsyncAnsweringConnection:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._open()
        waited = False
        while True:
            try:
                connection = await self._pool.getconn()
            except PoolTimeout:
                await (await aconnect(self._settings)).close()
                if waited or len(self._lent) >= self._settings.pool_max_size:
                    raise all_busy(self._settings) from None
                waited = True
                continue
            except PoolClosed:
                raise pool_closed() from None
            if not is_dead(connection, self._lost):
                self._lent.add(connection)
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def _open(self) -> AsyncConnectionPool[AsyncAnsweringConnection]:
        await (await aconnect(self._settings)).close()
        pool = AsyncConnectionPool(
            conninfo(self._settings),
            connection_class=AsyncAnsweringConnection,
            configure=partial(aconfigure, self._settings),
            open=False,
            **pool_options(self._settings),
        )
        await pool.open()
        return pool

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    def abandon(self) -> None:
        """Closes all sockets at once: the event loop in which they were opened is over, and nothing can be awaited."""
        idle = () if self._pool is None else tuple(self._pool._pool)
        for connection in (*idle, *self._lent):
            connection.pgconn.finish()
