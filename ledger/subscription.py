"""Consumer groups for side effects: at least once, acknowledged, stale claims taken over, poison entries parked.

Redis keeps who has which entry; Postgres keeps up to where the group has dealt with everything
(`ledger.subscriptions`), so that a group lost with its Redis goes on where it was.

An erased entry is deleted from the stream, so Redis does not hand it out. Whoever gets the entry after it gets it
first, without its body, from Postgres; and again with that one, should that have to be handed out again. What was
erased after it had been handed out is so until it is acknowledged or parked, as any other.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ledger import quarantine, stream
from ledger.effects import Command, LuaScript, Plan, Query, Refused, Wait
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

_TAKE_OVER = (Path(__file__).parent / "lua" / "take_over.lua").read_text(encoding="utf-8")
_Row: TypeAlias = tuple[StreamId, Any, int]
"""An entry's id, fields (None where it was deleted from the stream) and tries."""


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
    max_tries: an entry handed out so often without being acknowledged is parked, and not handed out again unless
    somebody asks for that (parked.py).
    """

    def __init__(
        self, ledger: LedgerRef, group: str, consumer: str, *, after: int, claim_after: float, max_tries: int
    ) -> None:
        self._ledger = ledger
        self._key = stream.key(ledger.name)
        self._parked_key = stream.parked_key(ledger.name, group)
        self._tries_key = f"ledger:{{{ledger.name}}}:tries:{group}"
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
            try:
                return (yield from self._next_claims(count, wait))
            except Refused as refused:
                if not str(refused).startswith("NOGROUP"):
                    raise
                yield from self._create_group()
        except Refused as refused:
            if not refused.away:
                raise
            log.warning("Redis cannot be used (%s); trying again", refused)
            yield Wait(AWAY)
        return []

    def acknowledge(self, claim: Claim) -> Plan[None]:
        yield Command(("XACK", self._key, self._group, str(claim.id)))

    def save(self) -> Plan[None]:
        """Notes in Postgres up to where every entry was acknowledged or parked, as far as the ledger has that.

        What was handed out from a stream that is ahead of a database that was set back is no progress in this ledger.
        Of a group that Redis has forgotten there is none to note.
        """
        try:
            yield from self._save()
        except Refused as refused:
            if not str(refused).startswith(("NOGROUP", "ERR no such key")):
                raise

    def _save(self) -> Plan[None]:
        pending, first, _, _ = yield Command(("XPENDING", self._key, self._group))
        if pending:
            first_id = StreamId.parse(first)
            done = first_id._replace(position=first_id.position - 1)
        else:
            groups = yield Command(("XINFO", "GROUPS", self._key))
            named = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
            delivered = {group[b"name"]: group[b"last-delivered-id"] for group in named}
            done = StreamId.parse(delivered.get(self._group.encode(), b"0-0"))
        newest = yield Command(("XREVRANGE", self._key, str(done), "-", "COUNT", 1))
        entry = stream.parse(newest[0][1]) if newest else None
        if entry is not None:
            # A hole before what is pending may have been handed out to nobody, if the answer that told of it got lost.
            position = entry.position if pending else done.position
            group = (self._ledger.ledger_id, self._group)
            yield Query(SQL["save_subscription"], (position, *group, done.epoch, entry.position, entry.hash))

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
        rows: list[_Row] = [(StreamId.parse(id_), fields, 1) for id_, fields in reply[0][1]] if reply else []
        if not rows:
            return []
        rows += yield from self._passed_over([id_ for id_, _, _ in rows])
        return (yield from self._claims(rows))

    def _passed_over(self, ids: Sequence[StreamId]) -> Plan[list[_Row]]:
        """Entries deleted from the stream that stand before these, which were handed out together, or between them.

        Each follows directly on one that is still there, so each is found by one consumer only.
        """
        before, self._newest = self._newest, ids[-1]
        if before is None or before.position + 1 != ids[0].position:
            found = yield Command(("XREVRANGE", self._key, f"({ids[0]}", "-", "COUNT", 1))
            before = StreamId.parse(found[0][0]) if found else StreamId(ids[0].epoch, 0)
        return (yield from self._holes((*pair, 1) for pair in pairwise((before, *ids))))

    def _take_over(self, count: int) -> Plan[list[Claim]]:
        """What others, or this consumer before a crash, left unacknowledged for too long, with the holes before it."""
        idle = round(self._claim_after * 1000)
        keys = (self._key, self._tries_key)
        found = yield LuaScript(_TAKE_OVER, keys, (self._group, self._consumer, idle, count))
        epoch = (yield from self._epoch()) if any(fields is None for _, fields, _, _ in found) else None
        kept: list[_Row] = []
        pairs = []
        for text, fields, tries, before in found:
            id_ = StreamId.parse(text)
            if fields is None and id_.epoch != epoch:  # of an epoch that is over nothing counts any more
                yield Command(("XACK", self._key, self._group, text))
            elif tries > self._max_tries:
                log.error("entry %d was handed out %d times to group %r: parked", id_.position, tries, self._group)
                yield Command(("HSET", self._parked_key, id_.position, tries - 1))
                yield Command(("XACK", self._key, self._group, text))
            else:
                kept.append((id_, fields, tries))
                pairs.append((StreamId.parse(before) if before else StreamId(id_.epoch, 0), id_, tries))
        claimed = {id_ for id_, _, _ in kept}
        kept += [hole for hole in (yield from self._holes(pairs)) if hole[0] not in claimed]
        return (yield from self._claims(kept))

    def _holes(self, pairs: Iterable[tuple[StreamId, StreamId, int]]) -> Plan[list[_Row]]:
        """Entries deleted from the stream between two that followed one another in it when they were looked at.

        They have been handed out as often as the second of the two, of which that is given.
        """
        gaps = [pair for pair in pairs if pair[0].epoch == pair[1].epoch and pair[0].position + 1 < pair[1].position]
        if not gaps:
            return []
        # What was dealt with before it was deleted, by erasure or by trimming, is not handed out again.
        done = yield from self._saved()
        return [
            (StreamId(last.epoch, position), None, tries)
            for first, last, tries in gaps
            for position in range(max(first.position, done) + 1, last.position)
        ]

    def _epoch(self) -> Plan[int]:
        [(_, epoch, _)] = yield Query(SQL["tails"], ([self._ledger.ledger_id],))
        return int(epoch)

    def _claims(self, rows: Sequence[_Row]) -> Plan[list[Claim]]:
        """The rows' entries, in order, which are the ledger's whatever Redis says.

        Those that are quarantined are acknowledged, and handed out to nobody. Before one that does not hold it ends.
        """
        claims: list[Claim] = []
        positions = [stream_id.position for stream_id, _, _ in rows]
        hashes = dict((yield Query(SQL["hashes"], (self._ledger.ledger_id, positions)))) if rows else {}
        for stream_id, fields, tries in sorted(rows, key=itemgetter(0)):
            entry = stream.parse(fields)
            if entry is None or entry.hash != hashes.get(stream_id.position):
                try:
                    entry = yield from self._stored(stream_id.position)
                except ChainBroken:
                    if claims:  # first what is before it
                        return claims
                    raise
            if entry is None:
                yield Command(("XACK", self._key, self._group, str(stream_id)))
                continue
            claims.append(Claim(stream_id, entry, tries))
        return claims

    def _stored(self, position: int) -> Plan[Entry | None]:
        """An entry that was erased, trimmed or false in Redis: Postgres is the truth. None where it is quarantined."""
        entries = yield from read(self._ledger, position - 1, 1, position)
        for entry in filter(quarantine.holds, entries):
            return entry
        if (yield from quarantine.passed(self._ledger, position, datetime.now(UTC))) is None:
            problem = "its hash or its body is not true" if entries else "published, but not in the database"
            raise ChainBroken(position, problem, self._ledger.name)
        return None

    def _create_group(self) -> Plan[None]:
        position = yield from self._saved()
        # What is left of an epoch that is over says nothing of where this one begins.
        epoch = yield from self._epoch()
        rows = yield Command(("XRANGE", self._key, f"{epoch}-0", "+", "COUNT", 1))
        first = StreamId.parse(rows[0][0]).position if rows else 0
        if (yield from self._trimmed(position, first)):
            raise UsageError(
                f"the stream begins at position {first}: group {self._group!r} cannot start after {position}. "
                f"Start it with after={first - 1} or later, and read() what is older"
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
