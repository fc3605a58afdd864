"""AsyncLedger: what an asyncio application holds. `Ledger`, awaited: the same methods, on the same plans and feeds.

Longer than other files, because it has a method for each of Ledger's; none has logic of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from ledger.bootstrap import open_ledger, open_settings
from ledger.capture.context import all_in_context, in_context
from ledger.capture.record import ReceiptWait, record, record_many, unknown, with_id
from ledger.checkpoints import proof
from ledger.checkpoints.proof import Consistency, Proof
from ledger.drivers import forks
from ledger.drivers.async_pools import AsyncConnector
from ledger.drivers.callers import adrive_within
from ledger.drivers.cursors import AsyncConnection
from ledger.effects import Feed, Plan
from ledger.errors import ConnectionLost, LedgerError, Unavailable
from ledger.events import Appended, Entry, Event, Receipt, Tail
from ledger.projection.base import ProjectionWait
from ledger.settings import Settings
from ledger.store import quarantine, tree
from ledger.store.appender import Appender, Condition
from ledger.store.drafts import Gathering, prepare, pull
from ledger.store.durability import Durable, read_all
from ledger.store.group_commit import AsyncWriter
from ledger.store.idempotency import Outcome
from ledger.store.ledgers import LedgerRef
from ledger.store.own_actions import erasing, holding, mismatch, rebuilding_tree, releasing, skipping
from ledger.stream import dead_letters, groups
from ledger.stream.consumer_group import BATCH
from ledger.stream.dead_letters import DeadLetter
from ledger.stream.delivery import AsyncDelivery
from ledger.stream.groups import Group
from ledger.stream.reader import follow
from ledger.stream.subscribe import deliveries
from ledger.verify.checkpoints import Trust, numbered
from ledger.verify.database import verify
from ledger.verify.report import Report

if TYPE_CHECKING:  # they bring cryptography, which takes long to load
    from ledger.checkpoints.keys import AnyKey
    from ledger.checkpoints.publishers import AnyPublisher
    from ledger.checkpoints.signer import Checkpointed
    from ledger.tlog.witness_protocol import Cosign

T = TypeVar("T")


class AsyncLedger:
    """`Ledger` for asyncio: the same names, awaited."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connector = AsyncConnector(settings)
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._opening = asyncio.Lock()
        self._opened: tuple[LedgerRef, AsyncWriter, Appender] | None = None
        self._durable = Durable()

    def after_fork(self) -> object:
        """As Ledger.after_fork."""
        had = self._opening, self._opened
        self._begin()
        return had

    def __reduce__(self) -> tuple[type[Self], tuple[Settings]]:
        """As Ledger.__reduce__."""
        return type(self), (self.settings,)

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
        return cls(open_settings(database_url, redis_url, name, home))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for the appends under way, then gives up the connections."""
        forks.process()
        if self._opened is not None:
            await self._opened[1].close()
        await self._connector.close()

    async def ref(self) -> LedgerRef:
        """The ledger's id and name in the database. Raises UnknownLedger, SchemaMismatch, Unavailable."""
        return (await self._open())[0]

    async def run(self, plan: Plan[T]) -> T:
        """Runs a plan (see effects.py), such as a view's query, on a pooled connection."""
        return await self._connector.run(plan, unlimited=True)

    async def append(
        self, event: Event, *, connection: AsyncConnection | None = None, expect: Condition | None = None
    ) -> Receipt:
        """As Ledger.append. If it is cancelled, the entry may still be recorded."""
        ref, writer, within = await self._open()
        draft = prepare(in_context(event), ref.name)
        if connection is None:
            return (await writer.write(draft, expect)).receipt()
        [outcome] = await adrive_within(within.append_within([draft], expect), connection)
        return outcome.receipt()

    async def append_many(
        self,
        events: Iterable[Event] | AsyncIterable[Event],
        *,
        connection: AsyncConnection | None = None,
    ) -> Appended:
        """As Ledger.append_many; the events may come from an async iterable."""
        ref, writer, within = await self._open()
        gathering = Gathering(ref.name)
        begun = forks.Begun("append_many()")
        events = all_in_context(events)
        source = aiter(events) if isinstance(events, AsyncIterable) else iter(events)
        if connection is not None:
            while not gathering.failed and (pulled := await pull(source, gathering)):
                gathering.add(await adrive_within(within.append_within(pulled), connection))
            return gathering.result()
        under_way: asyncio.Task[Sequence[Outcome]] | None = None
        while True:
            pulled = await pull(source, gathering)
            begun.check()
            if under_way is not None:
                try:
                    gathering.add(await under_way)
                except LedgerError as error:
                    gathering.fail(error)
            if not pulled or gathering.failed:
                return gathering.result()
            under_way = asyncio.create_task(writer.write_batch(pulled))

    async def record(self, event: Event, *, connection: AsyncConnection | None = None) -> UUID:
        """As Ledger.record."""
        ref = await self.ref()
        if connection is not None:
            return await adrive_within(record(ref, event), connection)
        event = with_id(event)
        return await self._record_surely([event], lambda: record(ref, event))

    async def record_many(self, events: Iterable[Event], *, connection: AsyncConnection | None = None) -> list[UUID]:
        """As Ledger.record_many."""
        ref = await self.ref()
        if connection is not None:
            return await adrive_within(record_many(ref, events), connection)
        named = [with_id(event) for event in events]
        return await self._record_surely(named, lambda: record_many(ref, named))

    async def receipt(self, id: UUID, *, timeout: float = 10.0) -> Receipt:
        """As Ledger.receipt."""
        [receipt] = [receipt async for receipt in self._feed(ReceiptWait(id, timeout).polls)]
        return receipt

    async def erase(
        self, position: int, actor: str, reason: str, *, actor_type: str = "user", mismatched: bool = False
    ) -> Receipt:
        """As Ledger.erase."""
        event = erasing(position, actor, reason, actor_type)
        stood = await self._connector.run(mismatch(await self.ref(), event, mismatched))
        return await self._record_own(erasing(position, actor, reason, actor_type, mismatched=stood))

    async def quarantine(self, position: int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """As Ledger.quarantine."""
        event = await self._connector.run(quarantine.describe(await self.ref(), position, actor, reason, actor_type))
        return await self._record_own(event)

    async def hold(self, held: tuple[str, str] | int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """As Ledger.hold."""
        return await self._record_own(holding(held, actor, reason, actor_type))

    async def release(
        self, held: tuple[str, str] | int, actor: str, reason: str, *, actor_type: str = "user"
    ) -> Receipt:
        """As Ledger.release."""
        return await self._record_own(releasing(held, actor, reason, actor_type))

    async def skip(
        self, projection: str, position: int, actor: str, reason: str, *, actor_type: str = "user"
    ) -> Receipt:
        """As Ledger.skip."""
        return await self._record_own(skipping(projection, position, actor, reason, actor_type))

    async def rebuild_tree(
        self, actor: str, reason: str, *, checkpoints: Sequence[int] = (), actor_type: str = "user"
    ) -> Receipt:
        """As Ledger.rebuild_tree."""
        ref = await self.ref()
        stands = await self._connector.run(tree.stands(ref, checkpoints))
        return await self._record_own(rebuilding_tree(ref.name, checkpoints, stands, actor, reason, actor_type))

    async def tail(self) -> Tail:
        """As Ledger.tail."""
        return await self._connector.run(self._durable.tail(await self.ref()))

    def read(self, after: int = 0, limit: int | None = None) -> AsyncIterator[Entry]:
        """As Ledger.read."""
        return self._feed(lambda ref: read_all(ref, self._durable, after, limit))

    def follow(self, after: int | None = None, *, idle: float | None = None) -> AsyncIterator[Entry]:
        """As Ledger.follow."""
        has_redis = self.settings.redis_url is not None
        return self._feed(lambda ref: follow(ref, self._durable, after, idle, has_redis), redis=has_redis)

    def subscribe(
        self,
        group: str,
        *,
        after: int | None = None,
        consumer: str | None = None,
        batch_size: int = BATCH,
        actions: Sequence[str] | None = None,
        claim_after: float = 60.0,
        max_tries: int = 5,
        idle: float | None = None,
    ) -> AsyncIterator[AsyncDelivery]:
        """As Ledger.subscribe; `await delivery.ack()`."""
        deliver = partial(AsyncDelivery, run=self._connector.run)
        return self._feed(
            lambda ref: deliveries(
                ref, self._durable, group, deliver,
                after=after, consumer=consumer, batch_size=batch_size, actions=actions, claim_after=claim_after,
                max_tries=max_tries, idle=idle,
            ),
            redis=True,
        )  # fmt: skip

    async def groups(self) -> list[Group]:
        """As Ledger.groups."""
        return await self._connector.run(groups.groups(await self.ref()))

    async def delete_group(self, name: str) -> None:
        """As Ledger.delete_group."""
        await self._connector.run(groups.delete_group(await self.ref(), name))

    async def reset_group(self, name: str, *, after: int) -> None:
        """As Ledger.reset_group."""
        await self._connector.run(groups.reset_group(await self.ref(), name, after))

    async def dead_letters(self, group: str) -> list[DeadLetter]:
        """As Ledger.dead_letters."""
        return await self._connector.run(dead_letters.dead_letters(await self.ref(), group))

    async def redeliver(self, group: str, position: int) -> None:
        """As Ledger.redeliver."""
        await self._connector.run(dead_letters.redeliver(await self.ref(), group, position))

    async def wait_for(self, receipt: Receipt | int, projection: str, *, timeout: float = 10.0) -> None:
        """As Ledger.wait_for."""
        async for _ in self._feed(ProjectionWait(receipt, projection, timeout).polls):
            pass

    async def verify(
        self,
        *,
        first: int = 1,
        workers: int = 1,
        checkpoints: Iterable[bytes] = (),
        keys: Iterable[str] = (),
        witnesses: Iterable[str] = (),
        quorum: int | None = None,
        incremental: bool = False,
    ) -> Report:
        """As Ledger.verify, in a thread."""
        return await asyncio.to_thread(
            verify,
            self.settings,
            first=first,
            workers=workers,
            checkpoints=numbered(checkpoints),
            trust=Trust.given(keys, witnesses, quorum),
            incremental=incremental,
        )

    async def prove(self, entry: int | UUID, *, with_body: bool = False) -> Proof:
        """As Ledger.prove."""
        return await self._connector.run(proof.prove(await self.ref(), entry, with_body))

    async def prove_between(self, old: int | bytes, new: int | bytes) -> Consistency:
        """As Ledger.prove_between."""
        return await self._connector.run(proof.prove_between(await self.ref(), old, new))

    async def checkpoint(
        self,
        *keys: AnyKey,
        publish: Sequence[AnyPublisher] = (),
        require: int | None = None,
        cosign: Cosign | None = None,
        new_state: bool = False,
    ) -> Checkpointed:
        """As Ledger.checkpoint, in a thread."""
        from ledger.checkpoints.signer import checkpoint  # noqa: PLC0415

        return await asyncio.to_thread(
            checkpoint, self.settings, keys, publish=publish, require=require, cosign=cosign, new_state=new_state
        )

    async def rotate_key(
        self, old: AnyKey, new: AnyKey, *, actor: str | None = None, actor_type: str = "user"
    ) -> Receipt:
        """As Ledger.rotate_key."""
        from ledger.checkpoints.keys import hand_over, key_of, rotating  # noqa: PLC0415

        before, after = key_of(old), key_of(new)
        event = rotating(before.signer, after.signer, actor, actor_type)
        await asyncio.to_thread(hand_over, before, after, self.settings.lock_timeout)
        return await self._record_own(event)

    async def _feed(self, make: Callable[[LedgerRef], Feed[T]], *, redis: bool = False) -> AsyncIterator[T]:
        """Hands out the items of a feed of this ledger, and runs its plans. redis: on a Redis client of its own."""
        async with self._connector.own_redis() if redis else nullcontext(lambda: None) as redis_client:
            with closing(make(await self.ref())) as feed:
                result: Any = None
                while True:
                    try:
                        step = feed.send(result)
                    except StopIteration:
                        return
                    result = None
                    if isinstance(step, list):
                        for item in step:
                            yield item
                    else:
                        result = await self._connector.run(step, redis_client())

    async def _record_surely(self, events: Sequence[Event], make: Callable[[], Plan[T]]) -> T:
        """As Ledger._record_surely."""
        try:
            return await self._connector.run(make())
        except ConnectionLost:
            try:
                return await self._connector.run_anew(make())
            except Unavailable as error:
                raise unknown(events, error) from error

    async def _record_own(self, event: Event) -> Receipt:
        ref, writer, _ = await self._open()
        return (await writer.write_own(prepare(event, ref.name, own=True))).receipt()

    async def _open(self) -> tuple[LedgerRef, AsyncWriter, Appender]:
        """The ledger; who appends on our own connections; who appends in callers' transactions."""
        forks.process()
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    ref = await self._connector.run(open_ledger(self.settings.name))
                    writer = AsyncWriter(self._connector, Appender(ref, self.settings.lock_timeout))
                    self._opened = ref, writer, Appender(ref)
        return self._opened
