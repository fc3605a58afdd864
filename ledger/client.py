"""Ledger: what a threaded application holds. Each method makes a plan, or a feed of plans, and drives it.

Longer than other files, because it is the one place that documents every public method; none has logic of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ledger.drivers.callers import drive_within
from ledger.drivers.cursors import Connection
from ledger.drivers.pools import Connector
from ledger.effects import Feed, Plan
from ledger.errors import ConnectionLost, Unavailable
from ledger.events import Appended, Entry, Event, Receipt, Tail
from ledger.projection.base import ProjectionWait
from ledger.settings import Settings
from ledger.store import quarantine, tree
from ledger.store.appender import Appender, Condition
from ledger.store.drafts import Gathering, gather, prepare
from ledger.store.durability import Durable, read_all
from ledger.store.group_commit import Writer
from ledger.store.ledgers import LedgerRef
from ledger.store.own_actions import erasing, holding, mismatch, rebuilding_tree, releasing, skipping
from ledger.stream import dead_letters, groups
from ledger.stream.consumer_group import BATCH
from ledger.stream.dead_letters import DeadLetter
from ledger.stream.delivery import Delivery
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


class Ledger:
    """One ledger of one database, for threads. Opened lazily: the first call connects."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connector = Connector(settings)
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._opening = threading.Lock()
        self._opened: tuple[LedgerRef, Writer, Appender] | None = None
        self._durable = Durable()

    def after_fork(self) -> object:
        """In a child: connects anew when it is next used. See drivers/forks.py."""
        had = self._opening, self._opened
        self._begin()
        return had

    def __reduce__(self) -> tuple[type[Self], tuple[Settings]]:
        """Pickled by its settings, as multiprocessing does where it does not fork: another one on the same ledger."""
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
        """From arguments, else LEDGER_DATABASE_URL, LEDGER_REDIS_URL, LEDGER_NAME, LEDGER_HOME.

        home: starts the embedded Postgres and Valkey in that folder. Raises InvalidSetting where no database is set.
        """
        return cls(open_settings(database_url, redis_url, name, home))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the connections. Every entry with a receipt is durable already."""
        self._connector.close()

    @property
    def ref(self) -> LedgerRef:
        """The ledger's id and name in the database. Raises UnknownLedger, SchemaMismatch, Unavailable."""
        return self._open()[0]

    def run(self, plan: Plan[T]) -> T:
        """Runs a plan (see effects.py), such as a view's query, on a pooled connection."""
        return self._connector.run(plan, unlimited=True)

    def append(self, event: Event, *, connection: Connection | None = None, expect: Condition | None = None) -> Receipt:
        """Records one event and returns its receipt once it is durable.

        In an `audit_context` it takes that one's actor, if it has none, and its metadata (docs/vocabulary.md).
        connection: take part in this connection's open transaction instead: recorded if and only if that commits, and
        the tail stays locked until then, so append last. It waits for the tail as the connection's lock_timeout says.
        expect: a tail position, or Unchanged(...); else ConditionFailed.
        Raises InvalidEvent, IdempotencyConflict, ConditionFailed; Unavailable and its kinds, after which appending the
        same event with the same id is safe.
        """
        ref, writer, within = self._open()
        draft = prepare(in_context(event), ref.name)
        if connection is None:
            return writer.write(draft, expect).receipt()
        [outcome] = drive_within(within.append_within([draft], expect), connection)
        return outcome.receipt()

    def append_many(self, events: Iterable[Event], *, connection: Connection | None = None) -> Appended:
        """Records any number of events, in batches, in constant memory: how many were new, and the last one's receipt.

        Each is encoded as it is when the iterable gives it, while Postgres takes those before it. At a bad event or a
        conflict everything before it is recorded and nothing after it; the error says which event it was and what was
        recorded. They take the actor and metadata of the `audit_context` that runs when this is called, as in append.
        connection: as in append; then everything is recorded or nothing.
        """
        ref, writer, within = self._open()
        gathering = Gathering(ref.name)
        iterator = iter(all_in_context(events))
        if connection is not None:
            while not gathering.failed and (pulled := gathering.pull(iterator)):
                gathering.add(drive_within(within.append_within(pulled), connection))
            return gathering.result()
        return gather(gathering, iterator, writer.write_batch)

    def record(self, event: Event, *, connection: Connection | None = None) -> UUID:
        """Records one event in the outbox: the sealer appends it soon. Returns the id that its entry will have.

        In an `audit_context` it takes that one's actor and metadata, as in append.
        connection: take part in this connection's open transaction: the event becomes an entry if and only if that
        commits. Nobody waits for it, and the tail is not locked. Without it, in a transaction of its own, once, even
        if the connection is lost over it.
        Raises InvalidEvent, Unavailable, OutcomeUnknown. An id or key that stands for another event is found when the
        event is sealed.
        """
        ref = self.ref
        if connection is not None:
            return drive_within(record(ref, event), connection)
        event = with_id(event)
        return self._record_surely([event], lambda: record(ref, event))

    def record_many(self, events: Iterable[Event], *, connection: Connection | None = None) -> list[UUID]:
        """Records events in the outbox in one statement: all or none. Returns their ids, in order. As record."""
        ref = self.ref
        if connection is not None:
            return drive_within(record_many(ref, events), connection)
        named = [with_id(event) for event in events]
        return self._record_surely(named, lambda: record_many(ref, named))

    def receipt(self, id: UUID, *, timeout: float = 10.0) -> Receipt:
        """The receipt of a recorded event, once it is sealed and durable. timeout: in seconds.

        Raises WaitTimeout, EventRejected.
        """
        [receipt] = self._feed(ReceiptWait(id, timeout).polls)
        return receipt

    def erase(
        self, position: int, actor: str, reason: str, *, actor_type: str = "user", mismatched: bool = False
    ) -> Receipt:
        """Removes the body of the entry at a position, and records in the same transaction who did it and why.

        Envelope and hash stay, so the chain does. The stream's copy goes when the relay publishes the erasure, what
        views made of the body when they come to it; store/own_actions.py says what is not reached. Returns the
        erasure's receipt, or the first one where the same actor erased it before for the same reason.
        mismatched: also a body that does not match its envelope's hash. That was evidence: what it came to is
        recorded with the erasure, and `verify` goes on naming it.
        Raises ErasureRefused (no such entry, one of the ledger's own, erased already), UnderLegalHold, InvalidEvent.
        """
        event = erasing(position, actor, reason, actor_type)
        stood = self._connector.run(mismatch(self.ref, event, mismatched))
        return self._record_own(erasing(position, actor, reason, actor_type, mismatched=stood))

    def quarantine(self, position: int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """Records that the entry at a position does not hold: what is wrong, and the digests of what stands there.

        Workers, which stop before such an entry, go on past it as long as just that stands there; `verify` goes on
        naming it, as `quarantined`. Nothing is changed. Saying it again gets the first receipt.
        Raises QuarantineRefused where the entry holds or is not there yet, InvalidEvent.
        """
        event = self._connector.run(quarantine.describe(self.ref, position, actor, reason, actor_type))
        return self._record_own(event)

    def hold(self, held: tuple[str, str] | int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """Places a legal hold: nothing about a resource (type, id), or not the entry at a position, may be erased.

        One hold at a time: raises HoldRefused where another actor, or the same for another reason, placed one.
        """
        return self._record_own(holding(held, actor, reason, actor_type))

    def release(self, held: tuple[str, str] | int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """Releases a legal hold. Raises HoldRefused where there is none."""
        return self._record_own(releasing(held, actor, reason, actor_type))

    def skip(self, projection: str, position: int, actor: str, reason: str, *, actor_type: str = "user") -> Receipt:
        """Leaves out of a projection the entry at which it is blocked, and records who did that and why.

        projection: its name. It goes on behind that entry, and replays leave it out too. 'auditledger retry' takes it
        back. Raises SkipRefused (it is not blocked there, or was skipped by another), InvalidEvent.
        """
        return self._record_own(skipping(projection, position, actor, reason, actor_type))

    def rebuild_tree(
        self, actor: str, reason: str, *, checkpoints: Sequence[int] = (), actor_type: str = "user"
    ) -> Receipt:
        """Removes all tiles of the Merkle tree, and kept checkpoints of these sizes, and records what stood there.

        For tiles and checkpoints that `verify` finds wrong; the next signature makes the tiles again from the entries.
        What signers' state files and witnesses remember still holds. Raises UsageError, InvalidEvent.
        """
        ref = self.ref
        stands = self._connector.run(tree.stands(ref, checkpoints))
        return self._record_own(rebuilding_tree(ref.name, checkpoints, stands, actor, reason, actor_type))

    def tail(self) -> Tail:
        """Position, hash and time of the newest entry, once it is durable."""
        return self._connector.run(self._durable.tail(self.ref))

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Entry]:
        """The entries after position `after` in order, from Postgres, page by page, each once it is durable."""
        return self._feed(lambda ref: read_all(ref, self._durable, after, limit))

    def follow(self, after: int | None = None, *, idle: float | None = None) -> Iterator[Entry]:
        """Entries after a position (None: after the newest) as they come: from Redis, gaps filled from Postgres.

        Each is checked on arrival; one that is quarantined is passed over. idle: end after so many seconds without one;
        None goes on for ever.
        Raises ChainBroken, StreamDiverged, Unavailable.
        """
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
    ) -> Iterator[Delivery]:
        """A consumer of a consumer group, for side effects: at least once, in order for one consumer.

        Acknowledge each delivery. What is not acknowledged after `claim_after` seconds (the visibility timeout) is
        delivered again to whichever consumer asks first, and a dead letter after `max_tries` delivery attempts.
        after: where a new group begins: None with what comes next, 0 with the first entry. consumer: a name for this
        one, unique in the group. batch_size: entries taken at once. actions: patterns such as "invoice.*"; other
        entries are acknowledged and not delivered. idle: as in follow.
        Raises UsageError, where `after` is beyond the ledger's end too; ChainBroken, Unavailable.
        """
        deliver = partial(Delivery, run=self._connector.run)
        return self._feed(
            lambda ref: deliveries(
                ref, self._durable, group, deliver,
                after=after, consumer=consumer, batch_size=batch_size, actions=actions, claim_after=claim_after,
                max_tries=max_tries, idle=idle,
            ),
            redis=True,
        )  # fmt: skip

    def groups(self) -> list[Group]:
        """The consumer groups of this ledger, and where they stand."""
        return self._connector.run(groups.groups(self.ref))

    def delete_group(self, name: str) -> None:
        """Forgets a consumer group, its dead letters too. Raises UsageError where there is none of that name."""
        self._connector.run(groups.delete_group(self.ref, name))

    def reset_group(self, name: str, *, after: int) -> None:
        """Lets a consumer group go on after a position; what it had pending is forgotten. Raises UsageError."""
        self._connector.run(groups.reset_group(self.ref, name, after))

    def dead_letters(self, group: str) -> list[DeadLetter]:
        """What the consumer group was delivered too often, with the reason of the last `nack`."""
        return self._connector.run(dead_letters.dead_letters(self.ref, group))

    def redeliver(self, group: str, position: int) -> None:
        """Delivers a dead letter again. Raises UsageError where it is none, or no longer in the stream."""
        self._connector.run(dead_letters.redeliver(self.ref, group, position))

    def wait_for(self, receipt: Receipt | int, projection: str, *, timeout: float = 10.0) -> None:
        """Returns once the projection has reached the receipt (or position), for reading one's own writes.

        timeout: in seconds. Raises WaitTimeout, UnknownProjection.
        """
        for _ in self._feed(ProjectionWait(receipt, projection, timeout).polls):
            pass

    def verify(
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
        """Checks the whole ledger (or from `first` on): chain, bodies, tail, tree and protections.

        checkpoints: signed notes that were kept elsewhere, to compare it with; keys: the log's public keys (vkeys);
        witnesses: theirs, of whom `quorum` (None: all) must have cosigned. incremental: read only what is newer than
        the newest of these checkpoints.
        """
        return verify(
            self.settings,
            first=first,
            workers=workers,
            checkpoints=numbered(checkpoints),
            trust=Trust.given(keys, witnesses, quorum),
            incremental=incremental,
        )

    def prove(self, entry: int | UUID, *, with_body: bool = False) -> Proof:
        """Proves that an entry, by its position or id, is in the ledger, against the newest checkpoint that is kept.

        `encode()` gives the file, which anybody can check with `auditledger check` or ledger.check_proof.
        with_body: it holds the body too. Raises UsageError where there is no such entry or body, or no checkpoint that
        has it yet; ProofRefused where the ledger is not what was signed.
        """
        return self._connector.run(proof.prove(self.ref, entry, with_body))

    def prove_between(self, old: int | bytes, new: int | bytes) -> Consistency:
        """Proves that a newer checkpoint continues an older one. Each is a size that is kept, or a signed note.

        Raises UsageError where none of that size is kept, NoteRefused, and ProofRefused where it does not.
        """
        return self._connector.run(proof.prove_between(self.ref, old, new))

    def checkpoint(
        self,
        *keys: AnyKey,
        publish: Sequence[AnyPublisher] = (),
        require: int | None = None,
        cosign: Cosign | None = None,
        new_state: bool = False,
    ) -> Checkpointed:
        """Signs the ledger as it is now: a checkpoint of its Merkle tree, kept in the database and published.

        keys: a key file's path, or Key(signer, state file) for a key that is kept elsewhere; two while one is rotated.
        What is new since the last checkpoint is checked first, and that it continues what the keys' state files say.
        publish: folders, http(s) URLs, "redis", or objects with `publish(note)`; require: how many of them must take
        it, by default all. cosign: asks witnesses, as Witnesses(["URL+VKEY"], quorum=1) does. new_state: begin a state
        file where there is none.
        Raises SigningRefused, WitnessRefused, ChainBroken, InvalidSetting, PublishingFailed, CosignaturesMissing,
        Unavailable.
        """
        from ledger.checkpoints.signer import Checkpointer  # noqa: PLC0415

        signer = Checkpointer(
            self._connector, keys, publish=publish, require=require, cosign=cosign, new_state=new_state
        )
        return signer.checkpoint()

    def rotate_key(self, old: AnyKey, new: AnyKey, *, actor: str | None = None, actor_type: str = "user") -> Receipt:
        """Records that a new signing key takes an old one's place, and lets it remember what that one signed.

        From then on both sign, until everybody who verifies has the new one. actor: by default the old key itself.
        Saying it again gets the first receipt. Raises InvalidSetting, InvalidEvent, IdempotencyConflict.
        """
        from ledger.checkpoints.keys import hand_over, key_of, rotating  # noqa: PLC0415

        before, after = key_of(old), key_of(new)
        event = rotating(before.signer, after.signer, actor, actor_type)
        hand_over(before, after, self.settings.lock_timeout)
        return self._record_own(event)

    def _feed(self, make: Callable[[LedgerRef], Feed[T]], *, redis: bool = False) -> Iterator[T]:
        """Hands out the items of a feed of this ledger, and runs its plans. redis: on a Redis client of its own."""
        own_redis = self._connector.own_redis() if redis else nullcontext(lambda: None)
        with own_redis as redis_client, closing(make(self.ref)) as feed:
            result: Any = None
            while True:
                try:
                    step = feed.send(result)
                except StopIteration:
                    return
                result = None
                if isinstance(step, list):
                    yield from step
                else:
                    result = self._connector.run(step, redis_client())

    def _record_surely(self, events: Sequence[Event], make: Callable[[], Plan[T]]) -> T:
        """Runs a plan that records events, which have ids; again, where the connection was lost over it."""
        try:
            return self._connector.run(make())
        except ConnectionLost:
            try:
                return self._connector.run_anew(make())
            except Unavailable as error:
                raise unknown(events, error) from error

    def _record_own(self, event: Event) -> Receipt:
        ref, writer, _ = self._open()
        return writer.write_own(prepare(event, ref.name, own=True)).receipt()

    def _open(self) -> tuple[LedgerRef, Writer, Appender]:
        """The ledger; who appends on our own connections; who appends in callers' transactions."""
        forks.process()
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    ref = self._connector.run(open_ledger(self.settings.name))
                    writer = Writer(self._connector, Appender(ref, self.settings.lock_timeout))
                    self._opened = ref, writer, Appender(ref)
        return self._opened
