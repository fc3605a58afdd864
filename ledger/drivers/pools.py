"""Connectors: the servers of one Ledger. A pool of Postgres connections and a shared Redis client, opened lazily."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from ledger.drivers import forks
from ledger.drivers.connections import (
    aconnect,
    connect,
    create_async_redis_connection,
    create_redis_connection,
    redis_for_plans,
)
from ledger.drivers.postgres_pool import AsyncPostgresPool, PostgresPool
from ledger.drivers.run import AsyncRedis, Redis, adrive, drive
from ledger.effects import Plan
from ledger.settings import Settings

T = TypeVar("T")


class Connector:
    """The servers of one Ledger, for threads. Runs plans on them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._postgres = PostgresPool(settings)
        self._redis: Redis | None = None
        forks.register(self)

    def after_fork(self) -> object:
        had, self._redis = self._redis, None
        return had

    @property
    def redis(self) -> Redis | None:
        """The shared client; None if no Redis is set."""
        if self._redis is None and self.settings.redis_url is not None:
            self._redis = self.new_redis()
        return self._redis

    def new_redis(self, redis_timeout: float | None = None) -> Redis:
        """A client of one's own, for plans that block. Raises InvalidSetting if no Redis is set.

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
        with self._postgres.lend(None if unlimited else self.settings.silence_timeout) as connection:
            return drive(plan, connection, redis_client or self.redis)

    def run_anew(self, plan: Plan[T]) -> T:
        """Drives a plan on a new connection of its own, because all of the pool's may be dying. Postgres alone."""
        forks.process()
        connection = connect(self.settings)
        connection.answer_timeout = self.settings.silence_timeout
        try:
            return drive(plan, connection)
        finally:
            connection.close()

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
        self._postgres.close()
        if self._redis is not None:
            self._redis.close()


class AsyncConnector:
    """`Connector` for asyncio."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
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
        async with self._postgres.lend(None if unlimited else self.settings.silence_timeout) as connection:
            return await adrive(plan, connection, redis_client or self.redis)

    async def run_anew(self, plan: Plan[T]) -> T:
        """`Connector.run_anew`, awaited."""
        forks.process()
        connection = await aconnect(self.settings)
        connection.answer_timeout = self.settings.silence_timeout
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
