"""Connectors: the servers of one Ledger, for threads. A pool of Postgres connections and a shared Redis client.

Both open lazily; the pool replaces connections that died while idle. async_pools.py has the same for asyncio.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ledger.drivers import forks
from ledger.drivers.connections import (
    OPTIONS,
    configure,
    connect,
    conninfo,
    create_redis_connection,
    redis_for_plans,
)
from ledger.drivers.cursors import Connection
from ledger.drivers.postgres import IN_TRANSACTION
from ledger.drivers.postgres_connection import AnsweringConnection, AsyncAnsweringConnection
from ledger.drivers.run import Redis, drive
from ledger.effects import Plan
from ledger.errors import OutcomeUnknown, Unavailable, UsageError
from ledger.settings import Settings

T = TypeVar("T")


class Connector:
    """The servers of one Ledger, for threads. Runs plans on them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._silence_timeout = settings.silence_timeout
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
        with self._postgres.lend(None if unlimited else self._silence_timeout) as connection:
            return drive(plan, connection, redis_client or self.redis)

    def run_anew(self, plan: Plan[T]) -> T:
        """Drives a plan on a new connection of its own, because all of the pool's may be dying. Postgres alone."""
        forks.process()
        connection = connect(self.settings)
        connection.answer_timeout = self._silence_timeout
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
                    raise all_busy(self._settings) from None
                waited = True  # Postgres was unreachable until now, and the pool has not noticed yet that it is back
                continue
            except PoolClosed:
                raise pool_closed() from None
            if not is_dead(connection, self._lost):
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
            **pool_options(self._settings),
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


# The pool reports each failed attempt as a warning; the error that reaches the caller says it once.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def pool_options(settings: Settings) -> dict[str, Any]:
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


def all_busy(settings: Settings) -> Unavailable:
    return Unavailable(
        f"all {settings.pool_max_size} connections of the pool were busy for {settings.connect_timeout:g} s"
    )


def pool_closed() -> UsageError:
    return UsageError("this ledger was closed: open another")


def is_dead(connection: AnsweringConnection | AsyncAnsweringConnection, lost: float) -> bool:
    """Whether an idle connection must not be used. lost: when another one was lost last, on the monotonic clock.

    One that has something to read was ended by the server while nobody looked, as in a restart. One that last worked
    before another was lost may have been hit by the same.
    """
    if connection.well < lost:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _quietly(undo: Callable[[], None]) -> None:
    try:
        undo()
    except psycopg.Error:
        return
