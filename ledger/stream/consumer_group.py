"""Consumer groups for side effects: each entry is delivered at least once, until it is acknowledged.

An entry that stays unacknowledged for the visibility timeout (`claim_after`) is redelivered, to any consumer of the
group; after too many delivery attempts it becomes a dead letter. Redis keeps which consumer has which entry; Postgres
keeps the committed offset (`ledger.subscriptions`), at which a group goes on if Redis has lost it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from ledger.effects import Command, LuaScript, Plan, Refused, Wait, foreseen
from ledger.errors import UsageError
from ledger.statements import lua
from ledger.store.durability import Durable
from ledger.store.ledgers import LedgerRef
from ledger.stream import commands, wire
from ledger.stream.delivery import PendingEntry
from ledger.stream.group_entries import GroupEntries, Row
from ledger.stream.group_offset import GroupOffset
from ledger.stream.groups import check_group, groups_of
from ledger.stream.wire import StreamId

log = logging.getLogger("ledger.subscription")

BATCH = 10
"""Entries that a consumer takes at once; if it dies, those that it has not dealt with are redelivered."""
MOST = 1000
"""The largest batch."""
SAVE_SECONDS = 1.0
"""Seconds between commits of the group's offset to Postgres."""
CLAIM_SECONDS = 1.0
"""Seconds at most between looks for entries that are due to be redelivered."""
RETRY_SECONDS = 0.5
"""Seconds until an unreachable Redis is tried again."""
LONGEST_REASON = 500
"""Characters of a reason that are kept."""

_TAKE_OVER, _NEXT, _ADOPT, _PASS = (
    lua(__file__, "take_over"),
    lua(__file__, "delivered", "next"),
    lua(__file__, "adopt"),
    lua(__file__, "delivered", "pass"),
)


def consumer_name() -> str:
    """A name that no other consumer has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Subscription:
    """One consumer of one group. Its methods are plans.

    after: the position after which a new group begins; None for the ledger's end. batch_size: entries taken at once.
    actions: patterns, in which `*` stands for any characters; entries of other actions are acknowledged, and not
    delivered. claim_after: the visibility timeout, in seconds. max_tries: delivery attempts after which an entry that
    is not acknowledged becomes a dead letter (dead_letters.py).
    Raises UsageError for an invalid argument.
    """

    def __init__(
        self,
        ledger: LedgerRef,
        durable: Durable,
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
        self._durable = durable
        self._key = wire.key(ledger.name)
        self._keys = wire.group_keys(ledger.name, group)
        self._group = group
        self._offset = GroupOffset(ledger, durable, group, after)
        self._entries = GroupEntries(ledger, durable, group, self._offset)
        self._consumer = consumer or consumer_name()
        self._batch = batch_size
        self._wanted = None if actions is None else _pattern(actions)
        self._claim_after = claim_after
        self._max_tries = max_tries
        self._next_claim = 0.0
        self._is_beyond = False
        self._next_save = time.monotonic() + SAVE_SECONDS

    def begin(self) -> Plan[None]:
        """Decides where a new group begins. Raises UsageError if that is beyond the ledger's end."""
        yield from self._offset.begin()
        try:
            if self._group not in (yield from groups_of(self._ledger)):
                yield from self._offset.create_group()
        except Refused as refused:
            if not refused.away:
                raise

    def next_pending(self, wait: float) -> Plan[list[PendingEntry]]:
        """Entries to deal with; none after `wait` seconds without any, or while Redis is unreachable."""
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
                yield from self._offset.create_group()
        except Refused as refused:
            if not refused.away:
                raise
            log.warning("Redis cannot be used (%s); trying again", refused)
            yield Wait(RETRY_SECONDS)
        return []

    def acknowledge(self, pending: PendingEntry) -> Plan[None]:
        """Acknowledges an entry: it is not delivered again."""
        if pending.leased:
            yield from self._pass(pending.id)
        else:
            yield Command(("XACK", self._key, self._group, str(pending.id)))
        if pending.tries > 1:
            yield Command(("ZREM", self._keys.due, str(pending.id)))
            yield Command(("HDEL", self._keys.reasons, pending.id.position))

    def extend(self, pending: PendingEntry, seconds: float) -> Plan[None]:
        """Sets the entry's visibility timeout to so many seconds from now."""
        yield from self._due_in(pending, seconds)

    def refuse(self, pending: PendingEntry, reason: str, delay: float) -> Plan[None]:
        """Has the entry redelivered after `delay` seconds; makes it a dead letter if that was the last attempt."""
        if not isinstance(reason, str):
            raise UsageError(f"the reason of a nack must be a string, not {type(reason).__name__}")
        yield Command(
            ("HSET", self._keys.reasons, pending.id.position, reason[:LONGEST_REASON].encode(errors="replace"))
        )
        if pending.tries >= self._max_tries:
            yield from self._make_dead_letter(pending.id, pending.tries, leased=pending.leased)
        else:
            yield from self._due_in(pending, delay)
            self._next_claim = min(self._next_claim, time.monotonic() + delay)

    def _due_in(self, pending: PendingEntry, seconds: float) -> Plan[None]:
        if not 0 <= seconds <= 365 * 86_400:
            raise UsageError(f"0 seconds to a year, not {seconds}")
        if pending.leased and (yield Command(("PEXPIRE", self._keys.lease, max(1, round(seconds * 1000))))):
            return
        reply = yield Command(("TIME",))
        with foreseen("TIME"):
            due = int(reply[0]) * 1000 + int(reply[1]) // 1000 + round(seconds * 1000)
        yield Command(("ZADD", self._keys.due, due, str(pending.id)))

    def _matching(self, pendings: Sequence[PendingEntry]) -> Plan[list[PendingEntry]]:
        """The entries whose actions are wanted; the others are acknowledged."""
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
        """Acknowledges an entry that is held by a lease."""
        keys = (self._key, self._keys.lease, self._keys.given, self._keys.passed, self._keys.due)
        hash_ = yield from self._offset.hash_at(id_.position)
        yield LuaScript(_PASS, keys, (self._group, id_.epoch, id_.position, "" if hash_ is None else hash_.hex()))
        if hash_ is not None:
            yield from self._offset.commit_after(id_, hash_)

    def _make_dead_letter(self, id_: StreamId, tries: int, *, leased: bool) -> Plan[None]:
        log.error("entry %d was delivered %d times to group %r: now a dead letter", id_.position, tries, self._group)
        yield Command(("HSET", self._keys.parked, id_.position, tries))
        if leased:
            yield from self._pass(id_)
        else:
            yield Command(("XACK", self._key, self._group, str(id_)))

    def save(self) -> Plan[None]:
        """Commits the group's offset to Postgres; does nothing if Redis is unreachable or has lost the group."""
        try:
            yield from self._offset.commit()
        except Refused as refused:
            if not refused.away:
                raise

    def _next_pending(self, wait: float) -> Plan[list[PendingEntry]]:
        now = time.monotonic()
        if now > self._next_save:
            yield from self.save()
            self._next_save = now + SAVE_SECONDS
        if now > self._next_claim:
            pendings = yield from self._take_over(self._batch)
            if pendings:
                return pendings
            self._next_claim = now + min(self._claim_after / 2, CLAIM_SECONDS)
        # An entry from beyond the stream's end has others behind it, for which nobody needs to wait.
        block = () if self._is_beyond else ("BLOCK", commands.milliseconds(wait))
        read_group = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", self._batch, *block)
        reply = yield Command((*read_group, "STREAMS", self._key, ">"))
        with foreseen("XREADGROUP"):
            rows: list[Row] = [(StreamId.parse(id_), fields, 1) for id_, fields in reply[0][1]] if reply else []
        if not rows:
            pendings = yield from self._beyond_the_stream()
            self._is_beyond = bool(pendings)
            return pendings
        self._is_beyond = False
        rows = yield from self._entries.known(rows)
        if not rows:
            yield Wait(RETRY_SECONDS)
            return []
        rows = yield from self._without_leased(rows)
        return (yield from self._entries.new(rows)) if rows else []

    def _without_leased(self, rows: list[Row]) -> Plan[list[Row]]:
        """New rows without the first, if a consumer was given it before it was published."""
        (id_, _, _), *others = rows
        keys = (self._key, self._keys.lease, self._keys.given, self._keys.due)
        due = yield LuaScript(_ADOPT, keys, (self._group, self._consumer, str(id_), id_.position))
        if due is None:
            return rows
        with foreseen("an entry that was leased"):
            self._next_claim = min(self._next_claim, time.monotonic() + int(due) / 1000)
        return others

    def _beyond_the_stream(self) -> Plan[list[PendingEntry]]:
        """The ledger's next entry after the stream's end: that was deleted, or the relay has not published it yet."""
        end = yield from commands.end_of(self._ledger)
        if not (yield from self._offset.is_followed(end)):
            return []
        # Redis keeps what the group was delivered: not beyond what no crash can take back.
        tail = yield from self._durable.tail(self._ledger)
        end = end._replace(position=min(end.position, tail.position))
        keys = (self._key, self._keys.lease, self._keys.given)
        lease = max(1, round(self._claim_after * 1000))
        reply = yield LuaScript(_NEXT, keys, (self._group, self._consumer, lease, *end))
        if not reply:
            return []
        with foreseen("a lease"):
            position, tries = map(int, reply)
        id_ = end._replace(position=position)
        if tries > self._max_tries:
            yield from self._make_dead_letter(id_, tries - 1, leased=True)
            return []
        entry = yield from self._entries.stored(position)
        if entry is None:
            yield from self._pass(id_)
            return []
        return [PendingEntry(id_, entry, tries, leased=True)]

    def _take_over(self, count: int) -> Plan[list[PendingEntry]]:
        """Entries that were left unacknowledged for too long, with the gaps before them."""
        idle = round(self._claim_after * 1000)
        keys = (self._key, self._keys.tries, self._keys.due)
        reply = yield LuaScript(_TAKE_OVER, keys, (self._group, self._consumer, idle, count))
        with foreseen("XPENDING"):
            claimed = [
                (StreamId.parse(id_), fields, int(tries), StreamId.parse(before) if before else None)
                for id_, fields, tries, before in reply
            ]
        if not claimed:
            return []
        epoch, end = yield from commands.end_of(self._ledger)
        rows: list[Row] = []
        pairs = []
        for id_, fields, tries, before in claimed:
            # Entries that the ledger does not have are dropped, and gaps of an epoch that is over.
            if (fields is None and id_.epoch != epoch) or not 1 <= id_.position <= end:
                yield Command(("XACK", self._key, self._group, str(id_)))
            elif tries > self._max_tries:
                yield from self._make_dead_letter(id_, tries - 1, leased=False)
            else:
                rows.append((id_, fields, tries))
                pairs.append((before or StreamId(id_.epoch, 0), id_, tries))
        ids = {id_ for id_, _, _ in rows}
        rows += [gap for gap in (yield from self._entries.gaps(pairs)) if gap[0] not in ids]
        return (yield from self._entries.pending(rows))


def _pattern(actions: Sequence[str]) -> Callable[[str], Any]:
    """Whether an action matches one of the patterns."""
    either = "|".join(".*".join(map(re.escape, each.split("*"))) for each in actions)
    return re.compile(either or "(?!)", re.DOTALL).fullmatch
