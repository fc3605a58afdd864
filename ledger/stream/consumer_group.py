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
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from operator import itemgetter
from typing import Any, TypeAlias

from ledger.effects import Command, LuaScript, Plan, Query, Refused, Wait, foreseen
from ledger.errors import ChainBroken, UsageError
from ledger.events import Entry
from ledger.statements import lua
from ledger.store import quarantine
from ledger.store.ledgers import SQL, LedgerRef, read
from ledger.stream import commands, wire
from ledger.stream.delivery import PendingEntry
from ledger.stream.groups import check_group, groups_of
from ledger.stream.progress import Progress
from ledger.stream.wire import StreamId

log = logging.getLogger("ledger.subscription")

BATCH = 10
"""Entries that a consumer takes at once; those it has not come to when it dies are delivered again."""
MOST = 1000
"""The largest batch."""
SAVE_EVERY = 1.0
"""Seconds between notes of the group's progress in Postgres."""
LOOK_EVERY = 1.0
"""Seconds at most between looks for entries that are due to be delivered again."""
AWAY = 0.5
"""Seconds to wait before a Redis that is away is tried again."""
LONGEST_REASON = 500
"""Characters of a reason that are kept."""


_TAKE_OVER, _NEXT, _PASS = (
    lua(__file__, "take_over"),
    lua(__file__, "delivered", "next"),
    lua(__file__, "delivered", "pass"),
)
_Row: TypeAlias = tuple[StreamId, Any, int]
"""An entry's id, fields (None where it was deleted from the stream) and delivery attempts."""


def consumer_name() -> str:
    """A name that no other consumer has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Subscription:
    """One consumer of one group. Its methods are plans.

    after: where a new group begins; None for the ledger's end. batch_size: entries taken at once. actions: patterns, in
    which `*` stands for any characters; entries of other actions are acknowledged, and not delivered. claim_after: the
    visibility timeout: seconds after which an unacknowledged entry is delivered to another consumer. max_tries: an
    entry delivered so often without being acknowledged becomes a dead letter (dead_letters.py).
    Raises UsageError for what no consumer can be.
    """

    def __init__(
        self,
        ledger: LedgerRef,
        group: str,
        consumer: str | None,
        *,
        after: int | None,
        batch_size: int,
        actions: Sequence[str] | None,
        claim_after: float,
        max_tries: int,
    ) -> None:
        check_group(group)
        if not isinstance(batch_size, int) or not 1 <= batch_size <= MOST:
            raise UsageError(f"batch_size must be a whole number from 1 to {MOST}, not {batch_size!r}")
        if isinstance(actions, str):
            raise UsageError(f"actions is a list of patterns, such as [{actions!r}]")
        if not claim_after > 0 or max_tries < 1:
            raise UsageError("claim_after is more than 0 seconds, max_tries at least 1")
        self._ledger = ledger
        self._key = wire.key(ledger.name)
        self._keys = wire.group_keys(ledger.name, group)
        self._group = group
        self._progress = Progress(ledger, group, after)
        self._consumer = consumer or consumer_name()
        self._batch = batch_size
        self._wanted = None if actions is None else _pattern(actions)
        self._claim_after = claim_after
        self._max_tries = max_tries
        self._newest: StreamId | None = None
        self._next_claim = 0.0
        self._is_beyond = False
        self._next_save = time.monotonic() + SAVE_EVERY

    def begin(self) -> Plan[None]:
        """Where a new group begins is decided now. Raises UsageError where that is beyond the ledger's end."""
        yield from self._progress.begin()
        try:
            if self._group not in (yield from groups_of(self._ledger)):
                yield from self._progress.create_group()
        except Refused as refused:
            if not refused.away:
                raise

    def next_pending(self, wait: float) -> Plan[list[PendingEntry]]:
        """Entries to deal with; none after `wait` seconds without any, or while Redis is away."""
        try:
            try:
                while pendings := (yield from self._next_pending(wait)):
                    wanted = yield from self._matching(pendings)
                    if wanted:
                        return wanted
                return []
            except Refused as refused:
                if not str(refused).startswith("NOGROUP"):
                    raise
                yield from self._progress.create_group()
        except Refused as refused:
            if not refused.away:
                raise
            log.warning("Redis cannot be used (%s); trying again", refused)
            yield Wait(AWAY)
        return []

    def acknowledge(self, pending: PendingEntry) -> Plan[None]:
        """It is dealt with."""
        if pending.leased:
            yield from self._pass(pending.id)
        else:
            yield Command(("XACK", self._key, self._group, str(pending.id)))
        if pending.tries > 1:
            yield Command(("ZREM", self._keys.due, str(pending.id)))
            yield Command(("HDEL", self._keys.reasons, pending.id.position))

    def extend(self, pending: PendingEntry, seconds: float) -> Plan[None]:
        """Keeps it from being delivered again for so many seconds from now."""
        yield from self._due_in(pending, seconds)

    def refuse(self, pending: PendingEntry, reason: str, delay: float) -> Plan[None]:
        """Has it delivered again after `delay` seconds; a dead letter where that was the last attempt."""
        if not isinstance(reason, str):
            raise UsageError(f"the reason of a nack must be a string, not {type(reason).__name__}")
        yield Command(
            ("HSET", self._keys.reasons, pending.id.position, reason[:LONGEST_REASON].encode(errors="replace"))
        )
        if pending.tries >= self._max_tries:
            yield from self._bury(pending.id, pending.tries, leased=pending.leased)
        else:
            yield from self._due_in(pending, delay)
            self._next_claim = min(self._next_claim, time.monotonic() + delay)

    def _due_in(self, pending: PendingEntry, seconds: float) -> Plan[None]:
        if not 0 <= seconds <= 365 * 86_400:
            raise UsageError(f"0 seconds to a year, not {seconds}")
        if pending.leased:
            yield Command(("PEXPIRE", self._keys.lease, max(1, round(seconds * 1000))))
            return
        reply = yield Command(("TIME",))
        with foreseen("TIME"):
            due = int(reply[0]) * 1000 + int(reply[1]) // 1000 + round(seconds * 1000)
        yield Command(("ZADD", self._keys.due, due, str(pending.id)))

    def _matching(self, pendings: Sequence[PendingEntry]) -> Plan[list[PendingEntry]]:
        """The claims whose actions are wanted; the others are acknowledged."""
        wanted = [pending for pending in pendings if self._wanted is None or self._wanted(pending.entry.action)]
        if len(wanted) < len(pendings):
            others = [pending for pending in pendings if pending not in wanted]
            plain = [str(pending.id) for pending in others if not pending.leased]
            if plain:
                yield Command(("XACK", self._key, self._group, *plain))
            for pending in others:
                if pending.leased:
                    yield from self._pass(pending.id)
        return wanted

    def _pass(self, id_: StreamId) -> Plan[None]:
        keys = (self._key, self._keys.lease, self._keys.given)
        yield LuaScript(_PASS, keys, (self._group, id_.epoch, id_.position))
        summary = yield Command(("XPENDING", self._key, self._group))
        with foreseen("XPENDING"):
            done = not summary[0] or StreamId.parse(summary[1]) > id_
        rows = yield Query(SQL["hash_at"], (self._ledger.ledger_id, id_.position))
        if done and rows:
            group = (self._ledger.ledger_id, self._group)
            yield Query(SQL["save_subscription"], (id_.position, *group, id_.epoch, id_.position, rows[0][0]))

    def _bury(self, id_: StreamId, tries: int, *, leased: bool) -> Plan[None]:
        """Makes a dead letter of it."""
        log.error("entry %d was delivered %d times to group %r: now a dead letter", id_.position, tries, self._group)
        yield Command(("HSET", self._keys.parked, id_.position, tries))
        if leased:
            yield from self._pass(id_)
        else:
            yield Command(("XACK", self._key, self._group, str(id_)))

    def save(self) -> Plan[None]:
        """Notes the group's progress in Postgres.

        Of a group that Redis has forgotten, or does not tell of now, there is none to note.
        """
        try:
            yield from self._progress.save()
        except Refused as refused:
            if not refused.away:
                raise

    def _next_pending(self, wait: float) -> Plan[list[PendingEntry]]:
        now = time.monotonic()
        if now > self._next_save:
            yield from self.save()
            self._next_save = now + SAVE_EVERY
        if now > self._next_claim:
            pendings = yield from self._take_over(self._batch)
            if pendings:
                return pendings
            self._next_claim = now + min(self._claim_after / 2, LOOK_EVERY)
        # An entry from beyond the stream's end has others behind it, for which nobody needs to wait.
        block = () if self._is_beyond else ("BLOCK", commands.milliseconds(wait))
        read_group = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", self._batch, *block)
        reply = yield Command((*read_group, "STREAMS", self._key, ">"))
        with foreseen("XREADGROUP"):
            rows: list[_Row] = [(StreamId.parse(id_), fields, 1) for id_, fields in reply[0][1]] if reply else []
        if not rows:
            pendings = yield from self._beyond_the_stream()
            self._is_beyond = bool(pendings)
            return pendings
        self._is_beyond = False
        rows = yield from self._known(rows)
        if not rows:
            yield Wait(AWAY)
            return []
        rows += yield from self._passed_over([id_ for id_, _, _ in rows])
        return (yield from self._pending_of(rows))

    def _beyond_the_stream(self) -> Plan[list[PendingEntry]]:
        """What Postgres has next, where the stream has no more: its end was deleted, or nobody has published it yet."""
        end = yield from commands.end_of(self._ledger)
        if not (yield from self._progress.is_followed(end)):
            return []
        keys = (self._key, self._keys.lease, self._keys.given)
        lease = max(1, round(self._claim_after * 1000))
        found = yield LuaScript(_NEXT, keys, (self._group, self._consumer, lease, *end))
        if not found:
            return []
        with foreseen("a lease"):
            position, tries = map(int, found)
        id_ = end._replace(position=position)
        if tries > self._max_tries:
            yield from self._bury(id_, tries - 1, leased=True)
            return []
        entry = yield from self._stored(position)
        if entry is None:
            yield from self._pass(id_)
            return []
        return [PendingEntry(id_, entry, tries, leased=True)]

    def _passed_over(self, ids: Sequence[StreamId]) -> Plan[list[_Row]]:
        """Entries deleted from the stream that stand before these, which were handed out together, or between them.

        Each follows directly on one that is still there, so each is found by one consumer only.
        """
        before, self._newest = self._newest, ids[-1]
        if before is None or before.position + 1 != ids[0].position:
            before = (yield from self._id_before(ids[0])) or StreamId(ids[0].epoch, 0)
        return (yield from self._holes((*pair, 1) for pair in pairwise((before, *ids))))

    def _take_over(self, count: int) -> Plan[list[PendingEntry]]:
        """What others, or this consumer before a crash, left unacknowledged for too long, with the holes before it."""
        idle = round(self._claim_after * 1000)
        keys = (self._key, self._keys.tries, self._keys.due)
        reply = yield LuaScript(_TAKE_OVER, keys, (self._group, self._consumer, idle, count))
        with foreseen("XPENDING"):
            found = [
                (StreamId.parse(text), fields, int(tries), StreamId.parse(before) if before else None)
                for text, fields, tries, before in reply
            ]
        if not found:
            return []
        epoch, end = yield from commands.end_of(self._ledger)
        kept: list[_Row] = []
        pairs = []
        for id_, fields, tries, before in found:
            # Of an epoch that is over nothing counts any more; nor does what the ledger does not have.
            if (fields is None and id_.epoch != epoch) or not 1 <= id_.position <= end:
                yield Command(("XACK", self._key, self._group, str(id_)))
            elif tries > self._max_tries:
                yield from self._bury(id_, tries - 1, leased=False)
            else:
                kept.append((id_, fields, tries))
                pairs.append((before or StreamId(id_.epoch, 0), id_, tries))
        claimed = {id_ for id_, _, _ in kept}
        kept += [hole for hole in (yield from self._holes(pairs)) if hole[0] not in claimed]
        return (yield from self._pending_of(kept))

    def _holes(self, pairs: Iterable[tuple[StreamId, StreamId, int]]) -> Plan[list[_Row]]:
        """Entries deleted from the stream between two that followed one another in it when they were looked at.

        They have been handed out as often as the second of the two, of which that is given.
        """
        gaps = [pair for pair in pairs if pair[0].epoch == pair[1].epoch and pair[0].position + 1 < pair[1].position]
        if not gaps:
            return []
        # What was dealt with before it was deleted, by erasure or by trimming, is not handed out again.
        done = yield from self._progress.saved()
        return [
            (StreamId(last.epoch, position), None, tries)
            for first, last, tries in gaps
            for position in range(max(first.position, done) + 1, last.position)
        ]

    def _pending_of(self, rows: Sequence[_Row]) -> Plan[list[PendingEntry]]:
        """The rows' entries, in order, which are the ledger's whatever Redis says.

        Those that are quarantined are acknowledged, and handed out to nobody. Before one that does not hold it ends.
        """
        if not rows:
            return []
        pendings: list[PendingEntry] = []
        positions = [stream_id.position for stream_id, _, _ in rows]
        hashes = dict((yield Query(SQL["hashes"], (self._ledger.ledger_id, positions))))
        for stream_id, fields, tries in sorted(rows, key=itemgetter(0)):
            entry = wire.parse(fields)
            if entry is None or entry.hash != hashes.get(stream_id.position):
                try:
                    entry = yield from self._stored(stream_id.position)
                except ChainBroken:
                    if pendings:  # first what is before it
                        return pendings
                    raise
            if entry is None:
                yield Command(("XACK", self._key, self._group, str(stream_id)))
                continue
            pendings.append(PendingEntry(stream_id, entry, tries))
        return pendings

    def _stored(self, position: int) -> Plan[Entry | None]:
        """An entry that was erased, trimmed or false in Redis: Postgres is the truth. None where it is quarantined."""
        entries = yield from read(self._ledger, position - 1, 1, position)
        for entry in filter(quarantine.holds, entries):
            return entry
        if (yield from quarantine.passed(self._ledger, position, datetime.now(UTC))) is None:
            problem = "its hash or its body is not true" if entries else "it is not in the database"
            raise ChainBroken(position, problem, self._ledger.name)
        return None

    def _known(self, rows: Sequence[_Row]) -> Plan[list[_Row]]:
        """The new rows, up to the first that the ledger does not have: before that one the group goes on waiting.

        What comes from it on may be the ledger's one day, or stand in the stream of a database that was set back.
        """
        epoch, end = yield from commands.end_of(self._ledger)
        known = list(takewhile(lambda row: 1 <= row[0].position <= end, rows))
        others = [str(id_) for id_, _, _ in rows[len(known) :]]
        if not others:
            return known
        log.warning("entry %s of the stream is not the ledger's: group %r waits before it", others[0], self._group)
        yield Command(("XACK", self._key, self._group, *others))
        before = known[-1][0] if known else (yield from self._id_before(others[0]))
        if before is None or before.epoch != epoch or not 1 <= before.position <= end:
            before = StreamId(epoch, (yield from self._progress.saved()))
        yield Command(("XGROUP", "SETID", self._key, self._group, str(before)))
        return known

    def _id_before(self, id_: StreamId | str) -> Plan[StreamId | None]:
        found = yield Command(("XREVRANGE", self._key, f"({id_}", "-", "COUNT", 1))
        with foreseen("XREVRANGE"):
            return StreamId.parse(found[0][0]) if found else None


def _pattern(actions: Sequence[str]) -> Callable[[str], Any]:
    """Does an action match one of the patterns?"""
    either = "|".join(".*".join(map(re.escape, each.split("*"))) for each in actions)
    return re.compile(either or "(?!)", re.DOTALL).fullmatch
