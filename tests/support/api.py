"""One face for Ledger and AsyncLedger, so that each case is written once and run against both.

AsyncLedger lives on an event loop in a thread of its own, so that it can be called from several threads at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import psycopg

from ledger import Appended, AsyncLedger, Entry, Event, Ledger, Receipt, Tail
from ledger.checkpoints.proof import Consistency, Proof
from ledger.settings import Settings
from ledger.store.appender import Condition
from ledger.verify.report import Report

T = TypeVar("T")


class Connected(Protocol):
    """The caller's own connection; `raw` is what is given to the ledger."""

    raw: Any

    def execute(self, query: str) -> list[Any]: ...
    @contextmanager
    def transaction(self) -> Iterator[None]: ...
    def close(self) -> None: ...


class Api(Protocol):
    """What both have in common."""

    def append(self, event: Event, *, connection: Any = None, expect: Condition | None = None) -> Receipt: ...
    def append_many(self, events: Iterable[Event], *, connection: Any = None) -> Appended: ...
    def record(self, event: Event, *, connection: Any = None) -> UUID: ...
    def record_many(self, events: Iterable[Event], *, connection: Any = None) -> list[UUID]: ...
    def receipt(self, id: UUID, *, timeout: float = 10.0) -> Receipt: ...
    def read(self, after: int = 0, limit: int | None = None) -> list[Entry]: ...
    def erase(self, position: int, actor: str, reason: str) -> Receipt: ...
    def hold(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt: ...
    def release(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt: ...
    def skip(self, projection: str, position: int, actor: str, reason: str) -> Receipt: ...
    def tail(self) -> Tail: ...
    def prove(self, entry: int | UUID, *, with_body: bool = False) -> Proof: ...
    def prove_between(self, old: int | bytes, new: int | bytes) -> Consistency: ...
    def verify(self, **options: Any) -> Report: ...
    def connect(self, **options: Any) -> Connected: ...
    def close(self) -> None: ...


class SyncApi:
    def __init__(self, settings: Settings) -> None:
        self.ledger = Ledger(settings)

    def append(self, event: Event, *, connection: Any = None, expect: Condition | None = None) -> Receipt:
        return self.ledger.append(event, connection=connection, expect=expect)

    def append_many(self, events: Iterable[Event], *, connection: Any = None) -> Appended:
        return self.ledger.append_many(events, connection=connection)

    def record(self, event: Event, *, connection: Any = None) -> UUID:
        return self.ledger.record(event, connection=connection)

    def record_many(self, events: Iterable[Event], *, connection: Any = None) -> list[UUID]:
        return self.ledger.record_many(events, connection=connection)

    def receipt(self, id: UUID, *, timeout: float = 10.0) -> Receipt:
        return self.ledger.receipt(id, timeout=timeout)

    def read(self, after: int = 0, limit: int | None = None) -> list[Entry]:
        return list(self.ledger.read(after, limit))

    def erase(self, position: int, actor: str, reason: str) -> Receipt:
        return self.ledger.erase(position, actor, reason)

    def hold(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt:
        return self.ledger.hold(held, actor, reason)

    def release(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt:
        return self.ledger.release(held, actor, reason)

    def skip(self, projection: str, position: int, actor: str, reason: str) -> Receipt:
        return self.ledger.skip(projection, position, actor, reason)

    def tail(self) -> Tail:
        return self.ledger.tail()

    def prove(self, entry: int | UUID, *, with_body: bool = False) -> Proof:
        return self.ledger.prove(entry, with_body=with_body)

    def prove_between(self, old: int | bytes, new: int | bytes) -> Consistency:
        return self.ledger.prove_between(old, new)

    def verify(self, **options: Any) -> Report:
        return self.ledger.verify(**options)

    def connect(self, **options: Any) -> SyncConnected:
        return SyncConnected(psycopg.connect(self.ledger.settings.database_url or "", **options))

    def close(self) -> None:
        self.ledger.close()


class SyncConnected:
    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.raw: Any = raw

    def execute(self, query: str) -> list[Any]:
        cursor = self.raw.execute(query)
        return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.raw.transaction():
            yield

    def close(self) -> None:
        self.raw.close()


class AsyncApi:
    def __init__(self, settings: Settings) -> None:
        self._start_loop()
        self.ledger = self.call(self._made(settings))

    @classmethod
    def of(cls, ledger: AsyncLedger) -> Self:
        """For a ledger that is there already, such as one that a forked child inherited."""
        made = cls.__new__(cls)
        made._start_loop()
        made.ledger = ledger
        return made

    def _start_loop(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def append(self, event: Event, *, connection: Any = None, expect: Condition | None = None) -> Receipt:
        return self.call(self.ledger.append(event, connection=connection, expect=expect))

    def append_many(self, events: Iterable[Event], *, connection: Any = None) -> Appended:
        return self.call(self.ledger.append_many(events, connection=connection))

    def record(self, event: Event, *, connection: Any = None) -> UUID:
        return self.call(self.ledger.record(event, connection=connection))

    def record_many(self, events: Iterable[Event], *, connection: Any = None) -> list[UUID]:
        return self.call(self.ledger.record_many(events, connection=connection))

    def receipt(self, id: UUID, *, timeout: float = 10.0) -> Receipt:
        return self.call(self.ledger.receipt(id, timeout=timeout))

    def append_many_async(self, events: AsyncIterator[Event]) -> Appended:
        return self.call(self.ledger.append_many(events))

    def read(self, after: int = 0, limit: int | None = None) -> list[Entry]:
        async def collect() -> list[Entry]:
            return [entry async for entry in self.ledger.read(after, limit)]

        return self.call(collect())

    def erase(self, position: int, actor: str, reason: str) -> Receipt:
        return self.call(self.ledger.erase(position, actor, reason))

    def hold(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt:
        return self.call(self.ledger.hold(held, actor, reason))

    def release(self, held: tuple[str, str] | int, actor: str, reason: str) -> Receipt:
        return self.call(self.ledger.release(held, actor, reason))

    def skip(self, projection: str, position: int, actor: str, reason: str) -> Receipt:
        return self.call(self.ledger.skip(projection, position, actor, reason))

    def tail(self) -> Tail:
        return self.call(self.ledger.tail())

    def prove(self, entry: int | UUID, *, with_body: bool = False) -> Proof:
        return self.call(self.ledger.prove(entry, with_body=with_body))

    def prove_between(self, old: int | bytes, new: int | bytes) -> Consistency:
        return self.call(self.ledger.prove_between(old, new))

    def verify(self, **options: Any) -> Report:
        return self.call(self.ledger.verify(**options))

    def connect(self, **options: Any) -> AsyncConnected:
        url = self.ledger.settings.database_url or ""
        return AsyncConnected(self, self.call(psycopg.AsyncConnection.connect(url, **options)))

    def close(self) -> None:
        try:
            self.call(self.ledger.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @staticmethod
    async def _made(settings: Settings) -> AsyncLedger:
        return AsyncLedger(settings)


class AsyncConnected:
    def __init__(self, api: AsyncApi, raw: psycopg.AsyncConnection[Any]) -> None:
        self._api = api
        self.raw: Any = raw

    def execute(self, query: str) -> list[Any]:
        async def run() -> list[Any]:
            cursor = await self.raw.execute(query)
            return list(await cursor.fetchall()) if cursor.description else []

        return self._api.call(run())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        transaction = self.raw.transaction()
        self._api.call(transaction.__aenter__())
        try:
            yield
        except BaseException as error:
            if not self._api.call(transaction.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._api.call(transaction.__aexit__(None, None, None))

    def close(self) -> None:
        self._api.call(self.raw.close())


class Opener:
    """Opens Apis of one kind and closes them all."""

    def __init__(self, kind: type[SyncApi] | type[AsyncApi], settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
        self._opened: list[Api | Connected] = []

    def __call__(self, **settings: Any) -> Api:
        """Another Ledger on the test's database, with other settings where they are given."""
        api = self.kind(replace(self.settings, **settings))
        self._opened.append(api)
        return api

    def connect(self, api: Api, **options: Any) -> Connected:
        """A connection of the caller's own, of the colour of `api`."""
        connected = api.connect(**options)
        self._opened.append(connected)
        return connected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._opened:
            self._opened.pop().close()
