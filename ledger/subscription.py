"""Consumer groups for side effects: at least once, acknowledged, stale claims taken over, poison entries parked.

Redis keeps who has which entry; Postgres keeps up to where the group has dealt with everything
(`ledger.subscriptions`), so that a group lost with its Redis goes on where it was.

An erased entry is deleted from the stream, so Redis does not hand it out. Whoever gets the entry after it gets it
first, without its body, from Postgres. Redis keeps no claim on it: it is handed out once, acknowledged or not.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from ledger import stream
from ledger.chain import check_entry
from ledger.effects import Command, Plan, Query, Refused, Wait
from ledger.errors import ChainBroken, UsageError
from ledger.events import Entry
from ledger.store import SQL, LedgerRef, read
from ledger.stream import StreamId

log = logging.getLogger(__name__)

CLAIMS = 10
"""Entries that a consumer takes at once; those it has not come to when it dies are handed out again."""
SAVE_EVERY = 1.0
"""Seconds between notes of the group's progress in Postgres."""
AWAY = 0.5
"""Seconds to wait before a Redis that is away is tried again."""


class Claim(NamedTuple):
    """An entry that this consumer holds until it is acknowledged. tries: as in Delivery."""

    id: StreamId
    entry: Entry
    tries: int


class Delivery:
    """An entry to deal with: do, then `ack()`. tries: how often it was handed out, this time included."""

    def __init__(self, claim: Claim, acknowledge: Callable[[], None]) -> None:
        self.entry = claim.entry
        self.tries = claim.tries
        self._acknowledge = acknowledge

    def ack(self) -> None:
        """It is dealt with, and will not be handed out to this group again."""
        self._acknowledge()


class AsyncDelivery:
    """`Delivery` for asyncio."""

    def __init__(self, claim: Claim, acknowledge: Callable[[], Awaitable[None]]) -> None:
        self.entry = claim.entry
        self.tries = claim.tries
        self._acknowledge = acknowledge

    async def ack(self) -> None:
        """It is dealt with, and will not be handed out to this group again."""
        await self._acknowledge()


def consumer_name() -> str:
    """A name that no other consumer has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Subscription:
    """One consumer of one group. Its methods are plans.

    claim_after: seconds after which another consumer's unacknowledged entry is taken over.
    max_tries: an entry handed out so often without being acknowledged is parked: noted in the hash
    `ledger:{<name>}:parked:<group>` (position → tries) and not handed out again.
    """

    def __init__(
        self, ledger: LedgerRef, group: str, consumer: str, *, after: int, claim_after: float, max_tries: int
    ) -> None:
        self._ledger = ledger
        self._key = stream.key(ledger.name)
        self._parked_key = f"ledger:{{{ledger.name}}}:parked:{group}"
        self._group = group
        self._consumer = consumer
        self._after = after
        self._claim_after = claim_after
        self._max_tries = max_tries
        self._newest: StreamId | None = None
        self._next_claim = 0.0
        self._next_save = time.monotonic() + SAVE_EVERY

    def next_claims(self, count: int, wait: float) -> Plan[list[Claim]]:
        """Entries to deal with; none after `wait` seconds without any, or while Redis is away."""
        try:
            return (yield from self._next_claims(count, wait))
        except Refused as refused:
            if refused.away:
                log.warning("Redis cannot be reached (%s); trying again", refused)
                yield Wait(AWAY)
            elif str(refused).startswith("NOGROUP"):
                yield from self._create_group()
            else:
                raise
            return []

    def acknowledge(self, claim: Claim) -> Plan[None]:
        yield Command(("XACK", self._key, self._group, str(claim.id)))

    def save(self) -> Plan[None]:
        """Notes in Postgres up to where every entry was acknowledged or parked."""
        pending, first, _, _ = yield Command(("XPENDING", self._key, self._group))
        if pending:
            done = StreamId.parse(first).position - 1
        else:
            groups = yield Command(("XINFO", "GROUPS", self._key))
            named = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
            delivered = {group[b"name"]: group[b"last-delivered-id"] for group in named}
            done = StreamId.parse(delivered.get(self._group.encode(), b"0-0")).position
        yield Query(SQL["save_subscription"], (done, self._ledger.ledger_id, self._group))

    def _next_claims(self, count: int, wait: float) -> Plan[list[Claim]]:
        now = time.monotonic()
        if now > self._next_save:
            yield from self.save()
            self._next_save = now + SAVE_EVERY
        if now > self._next_claim:
            claims = yield from self._take_over(count)
            if claims:
                return claims
            self._next_claim = now + self._claim_after / 2
        reply = yield Command(
            (
                *("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count),
                *("BLOCK", stream.milliseconds(wait), "STREAMS", self._key, ">"),
            )
        )
        rows = [(id_, fields, 1) for id_, fields in reply[0][1]] if reply else []
        if not rows:
            return []
        rows += yield from self._passed_over([StreamId.parse(id_) for id_, _, _ in rows])
        return (yield from self._claims(rows))

    def _passed_over(self, ids: Sequence[StreamId]) -> Plan[list[tuple[bytes, Any, int]]]:
        """Entries deleted from the stream that stand before these, which were handed out together, or between them.

        Each follows directly on one that is still there, so each is found by one consumer only.
        """
        before, self._newest = self._newest, ids[-1]
        if before is None or before.position + 1 != ids[0].position:
            found = yield Command(("XREVRANGE", self._key, f"({ids[0]}", "-", "COUNT", 1))
            before = StreamId.parse(found[0][0]) if found else StreamId(ids[0].epoch, 0)
        gaps = [
            (first, last)
            for first, last in pairwise((before, *ids))
            if first.epoch == last.epoch and first.position + 1 < last.position
        ]
        if not gaps:
            return []
        # What was dealt with before it was deleted, by erasure or by trimming, is not handed out again.
        done = yield from self._saved()
        return [
            (str(StreamId(last.epoch, position)).encode(), None, 1)
            for first, last in gaps
            for position in range(max(first.position, done) + 1, last.position)
        ]

    def _take_over(self, count: int) -> Plan[list[Claim]]:
        """What others, or this consumer before a crash, left unacknowledged for too long."""
        idle = round(self._claim_after * 1000)
        _, rows, deleted = yield Command(
            ("XAUTOCLAIM", self._key, self._group, self._consumer, idle, "0-0", "COUNT", count)
        )
        kept = yield from self._deleted([StreamId.parse(id_) for id_ in deleted])
        if not rows:
            return (yield from self._claims(kept))
        pending = yield Command(
            ("XPENDING", self._key, self._group, rows[0][0], rows[-1][0], 10 * count, self._consumer)
        )
        tries = {id_: times for id_, _, _, times in pending}
        for id_, fields in rows:
            if tries.get(id_, 1) > self._max_tries:
                position = StreamId.parse(id_).position
                log.error("entry %d was handed out %d times to group %r: parked", position, tries[id_], self._group)
                yield Command(("HSET", self._parked_key, position, tries[id_] - 1))
                yield Command(("XACK", self._key, self._group, id_))
            else:
                kept.append((id_, fields, tries.get(id_, 1)))
        return (yield from self._claims(kept))

    def _deleted(self, ids: Sequence[StreamId]) -> Plan[list[tuple[bytes, Any, int]]]:
        """Entries that nobody acknowledged before they were deleted; those of an epoch that is over count no more."""
        if not ids:
            return []
        [(_, epoch, _)] = yield Query(SQL["tails"], ([self._ledger.ledger_id],))
        return [(str(id_).encode(), None, 2) for id_ in ids if id_.epoch == epoch]

    def _claims(self, rows: Sequence[tuple[bytes, Any, int]]) -> Plan[list[Claim]]:
        """The entries of stream ids, fields (None where they were deleted) and tries, in order."""
        claims = []
        for stream_id, fields, tries in sorted(
            ((StreamId.parse(id_), fields, tries) for id_, fields, tries in rows), key=itemgetter(0)
        ):
            entry = stream.parse(fields)
            if entry is None or not _true(entry, self._ledger, stream_id):
                # Erased, trimmed or false in Redis: Postgres is the truth.
                entries = yield from read(self._ledger, stream_id.position - 1, 1, stream_id.position)
                if not entries:
                    raise ChainBroken(stream_id.position, "published, but not in the database")
                [entry] = entries
                check_entry(entry)
            claims.append(Claim(stream_id, entry, tries))
        return claims

    def _create_group(self) -> Plan[None]:
        position = yield from self._saved()
        state = yield from stream.state(self._ledger.name)
        if state.first is not None and (yield from self._trimmed(position, state.first.position)):
            raise UsageError(
                f"the stream begins at position {state.first.position}: group {self._group!r} cannot start after "
                f"{position}. Start it with after={state.first.position - 1} or later, and read() what is older"
            )
        [(position, epoch)] = yield Query(
            SQL["subscribe"], (self._ledger.ledger_id, self._group, position, self._ledger.ledger_id)
        )
        try:
            yield Command(("XGROUP", "CREATE", self._key, self._group, str(StreamId(epoch, position)), "MKSTREAM"))
        except Refused as refused:
            if not str(refused).startswith("BUSYGROUP"):
                raise

    def _saved(self) -> Plan[int]:
        """Up to where the group has dealt with everything, as Postgres knows it; a new one up to where it begins."""
        rows = yield Query(SQL["subscription"], (self._ledger.ledger_id, self._group))
        return rows[0][0] if rows else self._after

    def _trimmed(self, after: int, until: int) -> Plan[bool]:
        """Is more than erased entries missing between two positions?"""
        if until <= after + 1:
            return False
        [(more,)] = yield Query(SQL["whole_between"], (self._ledger.ledger_id, after, until))
        return bool(more)


def _true(entry: Entry, ledger: LedgerRef, id_: StreamId) -> bool:
    try:
        check_entry(entry)
    except ChainBroken:
        return False
    return entry.position == id_.position and entry.ledger == ledger.name
