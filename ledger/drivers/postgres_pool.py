"""Pools of Postgres connections, sync and async. They open lazily, and replace connections that died while idle."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from ledger.drivers import forks
from ledger.drivers.connections import OPTIONS, aconfigure, aconnect, configure, connect, conninfo
from ledger.drivers.cursors import AsyncConnection, Connection
from ledger.drivers.liveness import AnsweringConnection, AsyncAnsweringConnection
from ledger.drivers.postgres import IN_TRANSACTION
from ledger.errors import OutcomeUnknown, Unavailable, UsageError
from ledger.settings import Settings

# The pool reports each failed attempt as a warning; the error that reaches the caller says it once.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "kwargs": OPTIONS,
        "min_size": 0,
        "max_size": settings.pool_max_size,
        "max_idle": settings.pool_max_idle,
        "timeout": settings.connect_timeout,
        # Failed attempts are repeated at once, then by the next caller that needs a connection. The pool's own way, to
        # wait 1, 2, 4 … s, would go on failing appends for as long as that after Postgres is back.
        "reconnect_timeout": 0.0,
    }


def _all_busy(settings: Settings) -> Unavailable:
    return Unavailable(
        f"all {settings.pool_max_size} connections of the pool were busy for {settings.connect_timeout:g} s"
    )


def _closed() -> UsageError:
    return UsageError("this ledger was closed: open another")


def _is_dead(connection: AnsweringConnection | AsyncAnsweringConnection, lost: float) -> bool:
    """Whether an idle connection must not be used. lost: when another one was lost last, on the monotonic clock.

    One that has something to read was ended by the server while nobody looked, as in a restart. One that last worked
    before another was lost may have been hit by the same.
    """
    if connection.well < lost:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class PostgresPool:
    """The connections of one Connector. The first call of `lend` that needs one opens the pool."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begin()
        forks.register(self)

    def _begin(self, pool: ConnectionPool[AnsweringConnection] | None = None) -> None:
        self._pool = pool
        self._lent: set[AnsweringConnection] = set()
        self._lost = 0.0  # when a connection was lost last
        self._opening = threading.Lock()

    def after_fork(self) -> object:
        had = vars(self).copy()
        self._begin(self._pool if self._pool is not None and self._pool.closed else None)  # what was closed stays so
        return had

    @contextmanager
    def lend(self, answer_timeout: float | None) -> Iterator[Callable[[], Connection]]:
        """Gives a function that takes a connection at its first call, and puts that back at the block's end.

        answer_timeout: seconds of silence after which it is given up; None for the caller's own statements, which may
        take any time, and each of which gets the settings of a transaction of ours.
        The function raises Unavailable; UsageError once the pool is closed.
        """
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
                self._lent.discard(taken[0])
                self._pool.putconn(taken[0])

    def _get(self) -> AnsweringConnection:
        if self._pool is None:
            with self._opening:
                if self._pool is None:
                    self._pool = self._open()
        waited = False
        while True:
            try:
                connection = self._pool.getconn()
            except PoolTimeout:
                connect(self._settings).close()  # says why, where it cannot be reached
                if waited or len(self._lent) >= self._settings.pool_max_size:
                    raise _all_busy(self._settings) from None
                waited = True  # Postgres was unreachable until now, and the pool has not noticed yet that it is back
                continue
            except PoolClosed:
                raise _closed() from None
            if not _is_dead(connection, self._lost):
                self._lent.add(connection)
                return connection
            connection.close()
            self._pool.putconn(connection)

    def _open(self) -> ConnectionPool[AnsweringConnection]:
        # The first connection is made by hand: the pool itself cannot say why one fails.
        connect(self._settings).close()
        return ConnectionPool(
            conninfo(self._settings),
            connection_class=AnsweringConnection,
            configure=partial(configure, self._settings),
            open=True,
            **_options(self._settings),
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


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
                    raise _all_busy(self._settings) from None
                waited = True
                continue
            except PoolClosed:
                raise _closed() from None
            if not _is_dead(connection, self._lost):
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
            **_options(self._settings),
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


def _quietly(undo: Callable[[], None]) -> None:
    try:
        undo()
    except psycopg.Error:
        return
