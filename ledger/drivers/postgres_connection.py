"""Our kind of connection to Postgres: given up once that has been silent for too long, whatever it is that hangs.

A kernel notices a dead network (connections.py). It does not notice a server that is stopped, nor something on the way
that takes bytes and delivers none: to TCP, all is well. psycopg waits in short turns, so a wait can be ended in any.

What a URL leaves out, libpq takes from its environment (PGSSLMODE, PGHOSTADDR, PGSERVICE …). For the user's servers
that is the user's choice. For the embedded servers the environment is overridden: it is meant for others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen, PQGenConn
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGconn

from ledger.drivers import forks
from ledger.effects import Query

T = TypeVar("T")


class _Answering:
    """A child of a fork cannot use it (forks.py).

    answer_timeout: seconds of silence after which it is closed and an OperationalError raised; None waits for ever.

    well: when it was known to work last, by the monotonic clock.
    direct: its session is the server's own, none that a pooler lends. settings: statements that go with each begin.
    differs: its role or database has settings under which our statements mean something else. wraps: a statement alone
    gets a transaction, with the settings. read_only_by_default: a transaction must say that it writes. connections.py
    finds all this out.
    """

    answer_timeout: float | None = None
    direct = False
    settings: tuple[Query, ...] = ()
    differs = False
    wraps = False
    read_only_by_default = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.well = time.monotonic()
        forks.register(self)

    def after_fork(self) -> object:
        pgconn: PGconn = self.pgconn  # type: ignore[attr-defined]
        if pgconn.status == ConnStatus.OK:
            forks.cut(pgconn.socket)
        return self

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
        # libpq reads its environment before anything is sent, which is before the first wait.
        gen = super()._connect_gen(conninfo)  # type: ignore[misc]
        with without_service(conninfo):
            awaited = next(gen)
        try:
            while True:
                awaited = gen.send((yield awaited))
        except StopIteration as stop:
            return stop.value


class AnsweringConnection(_Answering, psycopg.Connection[Any]):
    """A connection that is closed when Postgres does not answer in time."""

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        if self.answer_timeout is not None:
            gen = _answered(self, gen, self.answer_timeout)
        return super().wait(gen, *args, **options)


class AsyncAnsweringConnection(_Answering, psycopg.AsyncConnection[Any]):
    """`AnsweringConnection` for asyncio."""

    async def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        if self.answer_timeout is not None:
            gen = _answered(self, gen, self.answer_timeout)
        return await super().wait(gen, *args, **options)


def _answered(
    connection: AnsweringConnection | AsyncAnsweringConnection, gen: PQGen[T], answer_timeout: float
) -> PQGen[T]:
    """The conversation `gen`, broken off once nothing could be sent or received for so many seconds."""
    silent_since = None
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            if ready:
                silent_since = None
            elif silent_since is None:  # the end of a turn
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > answer_timeout:
                connection.pgconn.finish()
                raise psycopg.OperationalError(f"no answer for {answer_timeout:g} s")
            awaited = gen.send(ready)
    except StopIteration as stop:
        result: T = stop.value
        return result


# ---------------------------------------------------------------------------------------------------------- environment

_SAID: dict[str, str] = {
    "hostaddr": "127.0.0.1",
    "options": "",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "gssencmode": "disable",
    "channel_binding": "disable",
    "require_auth": "scram-sha-256",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}


def everything_said() -> dict[str, str]:
    """For a server on this host without TLS: what libpq else takes from its environment, where this libpq knows it."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    return {name: value for name, value in _SAID.items() if name in known}


_environment = threading.Lock()


@contextmanager
def without_service(conninfo: str) -> Iterator[None]:
    """While libpq begins to connect by a conninfo that has everything_said: PGSERVICE is heeded even then.

    Where there is no such service, that would be an error.
    """
    if "PGSERVICE" not in os.environ or not conninfo_to_dict(conninfo).items() >= everything_said().items():
        yield
        return
    with _environment:
        service = os.environ.pop("PGSERVICE", None)
        try:
            yield
        finally:
            if service is not None:
                os.environ["PGSERVICE"] = service
