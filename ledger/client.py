"""Ledger and AsyncLedger: what an application holds. Each method makes a plan and drives it in its own colour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ledger import embedded, migrate, store
from ledger.canonical import Draft
from ledger.drive import AsyncConnection, AsyncServers, Connection, Servers, adrive, drive
from ledger.effects import Plan
from ledger.errors import InvalidEvent, InvalidSetting, LedgerError
from ledger.events import Appended, Entry, Event, Receipt, Tail
from ledger.settings import Settings
from ledger.store import Appender, Condition, LedgerRef, Outcome
from ledger.writer import AsyncWriter, Writer, prepare

T = TypeVar("T")
BATCH = 10_000
BATCH_BYTES = 8 * 1024 * 1024
"""append_many commits after so many entries, or about so many bytes, whichever comes first."""


class _Gathering:
    """Takes events for append_many batch by batch and counts what came of them. Shared by both colours.

    Whatever ends the events early (a bad one, the caller's own exception) is kept until all before it are recorded.
    """

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self.taken = 0
        self.failure: Exception | None = None
        self.stopped = False
        self.count = 0
        self.last: Receipt | None = None

    def batch(self, events: Iterator[Event]) -> list[Draft]:
        """The next batch; empty at the end."""
        drafts: list[Draft] = []
        size = 0
        while self.failure is None and len(drafts) < BATCH and size < BATCH_BYTES:
            try:
                event = next(events)
            except StopIteration:
                break
            except Exception as error:
                self.failure = error
                break
            try:
                drafts.append(prepare(event, self.ledger))
            except InvalidEvent as error:
                self.failure = InvalidEvent(f"event {self.taken + 1}: {error.path}", error.problem)
                break
            self.taken += 1
            size += drafts[-1].size
        return drafts

    def add(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, LedgerError):
                self.stop(outcome)
                break
            self.count += isinstance(outcome, Receipt)
            self.last = _receipt(outcome)

    def stop(self, error: Exception) -> None:
        """Nothing more may be recorded: it would stand behind what failed."""
        self.failure, self.stopped = error, True

    def result(self) -> Appended:
        if self.failure is not None:
            where = f"up to position {self.last.position}" if self.last else "nothing"
            self.failure.add_note(f"Recorded before it: {self.count} entries, {where}.")
            raise self.failure
        return Appended(self.count, self.last)


def _receipt(outcome: Outcome) -> Receipt:
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome if isinstance(outcome, Receipt) else outcome.receipt


def _settings(database_url: str | None, redis_url: str | None, name: str | None, home: str | Path | None) -> Settings:
    """Settings whose URLs are there; the embedded servers are started for a home, and their schema brought up to date."""
    settings = Settings.load(database_url=database_url, redis_url=redis_url, name=name, home=home)
    if settings.database_url is None and settings.home is not None:
        servers = embedded.start(settings.home)
        settings = replace(settings, database_url=servers.database_url, redis_url=servers.redis_url)
        migrate.migrate(settings)
    if settings.database_url is None:
        raise InvalidSetting(
            "no database is set: give database_url or LEDGER_DATABASE_URL "
            "(or home= or LEDGER_HOME for the embedded servers)"
        )
    return settings


def _open(name: str) -> Plan[LedgerRef]:
    """The ledger of that name, once the schema is known to be this package's."""
    yield from migrate.check_schema(migrate.load())
    return (yield from store.find_ledger(name))


class Ledger:
    """One ledger of one database, for threads. Opened lazily: the first call connects."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._servers = Servers(settings)
        self._opening = threading.Lock()
        self._opened: tuple[LedgerRef, Writer] | None = None

    @classmethod
    def open(
        cls,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        name: str | None = None,
        home: str | Path | None = None,
    ) -> Self:
        """From arguments, else LEDGER_DATABASE_URL, LEDGER_REDIS_URL, LEDGER_NAME, LEDGER_HOME.

        home: starts the embedded Postgres and Valkey in that folder. Raises InvalidSetting where no database is set.
        """
        return cls(_settings(database_url, redis_url, name, home))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the connections. Every receipt that was handed out is durable already."""
        self._servers.close()

    @property
    def ref(self) -> LedgerRef:
        """The ledger's id and name in the database. Raises UnknownLedger, SchemaMismatch, Unavailable."""
        return self._open()[0]

    def run(self, plan: Plan[T]) -> T:
        """Runs a plan (see effects.py), such as a view's query, on a pooled connection."""
        return self._servers.run(plan)

    def append(self, event: Event, *, connection: Connection | None = None, expect: Condition | None = None) -> Receipt:
        """Records one event and returns its receipt once it is durable.

        connection: take part in this connection's open transaction instead: recorded if and only if that commits, and
        the tail stays locked until then, so append last.
        expect: a tail position, or Unchanged(...); else ConditionFailed.
        Raises InvalidEvent, IdempotencyConflict, ConditionFailed; Unavailable and its kinds, after which appending the
        same event with the same id is safe.
        """
        ref, writer = self._open()
        drafts = [prepare(event, ref.name)]
        if connection is None:
            [outcome] = writer.write(drafts, expect=expect)
        else:
            [outcome] = drive(Appender(ref).append_within(drafts, expect), lambda: connection, raw_errors=True)
        return _receipt(outcome)

    def append_many(self, events: Iterable[Event], *, connection: Connection | None = None) -> Appended:
        """Records any number of events, in batches, in constant memory: how many were new, and the last one's receipt.

        The next batch is encoded while Postgres takes this one. At a bad event or a conflict everything before it is
        recorded and nothing after it; the error says which event it was and what was recorded.
        connection: as in append; then everything is recorded or nothing.
        """
        ref, writer = self._open()
        gathering = _Gathering(ref.name)
        iterator = iter(events)
        if connection is not None:
            appender = Appender(ref)
            while drafts := gathering.batch(iterator):
                gathering.add(drive(appender.append_within(drafts), lambda: connection, raw_errors=True))
            return gathering.result()
        with ThreadPoolExecutor(1) as executor:
            under_way: Future[list[Outcome]] | None = None
            while True:
                drafts = gathering.batch(iterator)
                if under_way is not None:
                    try:
                        gathering.add(under_way.result())
                    except LedgerError as error:
                        gathering.stop(error)
                if not drafts or gathering.stopped:
                    return gathering.result()
                under_way = executor.submit(writer.write, drafts, stop=True)

    def tail(self) -> Tail:
        """Position, hash and time of the newest entry."""
        return self.run(store.tail_of(self.ref))

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Entry]:
        """The entries after position `after` in order, from Postgres, page by page."""
        ref = self.ref
        left = store.FAR if limit is None else limit
        while left > 0:
            page = self.run(store.read(ref, after, min(left, store.PAGE)))
            yield from page
            if len(page) < min(left, store.PAGE):
                return
            left -= len(page)
            after = page[-1].position

    def _open(self) -> tuple[LedgerRef, Writer]:
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    ref = self._servers.run(_open(self.settings.name))
                    self._opened = ref, Writer(self._servers, Appender(ref))
        return self._opened


class AsyncLedger:
    """`Ledger` for asyncio: the same names, awaited."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._servers = AsyncServers(settings)
        self._opening = asyncio.Lock()
        self._opened: tuple[LedgerRef, AsyncWriter] | None = None

    @classmethod
    def open(
        cls,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        name: str | None = None,
        home: str | Path | None = None,
    ) -> Self:
        """As Ledger.open. With `home` it blocks until the embedded servers are up."""
        return cls(_settings(database_url, redis_url, name, home))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for the appends under way, then gives up the connections."""
        if self._opened is not None:
            await self._opened[1].close()
        await self._servers.close()

    async def ref(self) -> LedgerRef:
        """The ledger's id and name in the database. Raises UnknownLedger, SchemaMismatch, Unavailable."""
        return (await self._open())[0]

    async def run(self, plan: Plan[T]) -> T:
        """Runs a plan (see effects.py), such as a view's query, on a pooled connection."""
        return await self._servers.run(plan)

    async def append(
        self, event: Event, *, connection: AsyncConnection | None = None, expect: Condition | None = None
    ) -> Receipt:
        """As Ledger.append. Cancelling it does not take back what was said: the entry may still be recorded."""
        ref, writer = await self._open()
        drafts = [prepare(event, ref.name)]
        if connection is None:
            [outcome] = await writer.write(drafts, expect=expect)
        else:
            [outcome] = await adrive(Appender(ref).append_within(drafts, expect), _given(connection), raw_errors=True)
        return _receipt(outcome)

    async def append_many(
        self,
        events: Iterable[Event] | AsyncIterable[Event],
        *,
        connection: AsyncConnection | None = None,
    ) -> Appended:
        """As Ledger.append_many; the events may come from an async iterable."""
        ref, writer = await self._open()
        gathering = _Gathering(ref.name)
        appender = Appender(ref)
        under_way: asyncio.Task[list[Outcome]] | None = None
        source = aiter(events) if isinstance(events, AsyncIterable) else iter(events)
        while not gathering.stopped:
            pulled, failure = await _pull(source, ASYNC_BATCH)
            iterator = iter(pulled)
            while drafts := await asyncio.to_thread(gathering.batch, iterator):
                if connection is not None:
                    gathering.add(await adrive(appender.append_within(drafts), _given(connection), raw_errors=True))
                    continue
                await _finish(under_way, gathering)
                if gathering.stopped:
                    break
                under_way = asyncio.create_task(writer.write(drafts, stop=True))
            gathering.failure = gathering.failure or failure
            if not pulled or gathering.failure is not None:
                break
        await _finish(under_way, gathering)
        return gathering.result()

    async def tail(self) -> Tail:
        """Position, hash and time of the newest entry."""
        return await self.run(store.tail_of(await self.ref()))

    async def read(self, after: int = 0, limit: int | None = None) -> AsyncIterator[Entry]:
        """The entries after position `after` in order, from Postgres, page by page."""
        ref = await self.ref()
        left = store.FAR if limit is None else limit
        while left > 0:
            page = await self.run(store.read(ref, after, min(left, store.PAGE)))
            for entry in page:
                yield entry
            if len(page) < min(left, store.PAGE):
                return
            left -= len(page)
            after = page[-1].position

    async def _open(self) -> tuple[LedgerRef, AsyncWriter]:
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    ref = await self._servers.run(_open(self.settings.name))
                    self._opened = ref, AsyncWriter(self._servers, Appender(ref))
        return self._opened


ASYNC_BATCH = 1000
"""AsyncLedger.append_many encodes in a thread so many events at a time, so that the event loop stays free."""


async def _pull(source: Iterator[Event] | AsyncIterator[Event], most: int) -> tuple[list[Event], Exception | None]:
    """The next events, and what the source raised after them, if it did."""
    pulled: list[Event] = []
    try:
        if isinstance(source, AsyncIterator):
            while len(pulled) < most:
                pulled.append(await anext(source))
        else:
            pulled.extend(islice(source, most))
    except StopAsyncIteration:
        pass
    except Exception as error:
        return pulled, error
    return pulled, None


async def _finish(under_way: asyncio.Task[list[Outcome]] | None, gathering: _Gathering) -> None:
    if under_way is not None and not gathering.stopped:
        try:
            gathering.add(await under_way)
        except LedgerError as error:
            gathering.stop(error)


def _given(connection: AsyncConnection) -> Callable[[], Awaitable[AsyncConnection]]:
    async def given() -> AsyncConnection:
        return connection

    return given
