"""How far a consumer group has come: in Redis, and as it was committed to Postgres, which counts if Redis loses it."""

from __future__ import annotations

from ledger.effects import Command, Plan, Query, Refused, foreseen
from ledger.errors import UsageError
from ledger.store.durability import Durable
from ledger.store.ledgers import SQL, LedgerRef
from ledger.stream import commands, wire
from ledger.stream.groups import beyond, groups_of
from ledger.stream.wire import StreamId


class GroupOffset:
    """The offset of one group of one ledger. Its methods are plans.

    after: the position after which a new group begins; None for the ledger's end.
    """

    def __init__(self, ledger: LedgerRef, durable: Durable, group: str, after: int | None) -> None:
        self._ledger = ledger
        self._durable = durable
        self._key = wire.key(ledger.name)
        self._group = group
        self._after = after

    def begin(self) -> Plan[None]:
        """Decides where a new group begins. Raises UsageError if that is beyond the ledger's end."""
        end = (yield from self._durable.tail(self._ledger)).position
        if self._after is None:
            self._after = end
        elif not 0 <= self._after <= end:
            raise beyond(self._ledger, self._after, end)

    def create_group(self) -> Plan[None]:
        """Creates the group in Redis at the committed offset.

        Raises UsageError if the stream no longer has the entries after it, or the ledger ends before it.
        """
        position = yield from self.committed()
        # What is left of an epoch that is over says nothing of where this one begins.
        end = yield from commands.end_of(self._ledger)
        rows = yield Command(("XRANGE", self._key, f"{end.epoch}-0", "+", "COUNT", 1))
        with foreseen("XRANGE"):
            first = StreamId.parse(rows[0][0]).position if rows else 0
        if (yield from self._is_trimmed(position, first)):
            raise UsageError(
                f"the stream begins at position {first}: group {self._group!r} cannot start after {position}. "
                f"Start it with after={first - 1} or later, and read() what is older"
            )
        if position > end.position:
            raise beyond(self._ledger, position, end.position, self._group)
        [(position, epoch)] = yield Query(
            SQL["subscribe"], (self._ledger.ledger_id, self._group, position, self._ledger.ledger_id)
        )
        try:
            yield Command(("XGROUP", "CREATE", self._key, self._group, str(StreamId(epoch, position)), "MKSTREAM"))
        except Refused as refused:
            if not str(refused).startswith("BUSYGROUP"):
                raise

    def commit(self) -> Plan[None]:
        """Commits to Postgres the position up to which each entry is acknowledged or a dead letter.

        Only as far as the ledger has these entries: a stream may be ahead of a database that was restored.
        """
        summary = yield Command(("XPENDING", self._key, self._group))
        groups = yield from groups_of(self._ledger)
        with foreseen("XPENDING"):
            pending, first, _, _ = summary
            if pending:
                first_id = StreamId.parse(first)
                done = first_id._replace(position=first_id.position - 1)
            else:
                done = groups[self._group].delivered if self._group in groups else wire.NO_ID
        rows = yield Command(("XREVRANGE", self._key, str(done), "-", "COUNT", 1))
        with foreseen("XREVRANGE"):
            newest = wire.parse(rows[0][1]) if rows else None
        # A gap before what is pending may not have been delivered, if the answer with the entry after it got lost.
        if newest is not None:
            position = newest.position if pending else done.position
            group = (self._ledger.ledger_id, self._group)
            yield Query(SQL["save_subscription"], (position, *group, done.epoch, newest.position, newest.hash))

    def commit_after(self, id_: StreamId, hash_: bytes) -> Plan[None]:
        """Commits an id as the offset, if nothing up to it is pending. hash_: 32 bytes, of the ledger's entry there."""
        summary = yield Command(("XPENDING", self._key, self._group))
        with foreseen("XPENDING"):
            done = not summary[0] or StreamId.parse(summary[1]) > id_
        if done:
            group = (self._ledger.ledger_id, self._group)
            yield Query(SQL["save_subscription"], (id_.position, *group, id_.epoch, id_.position, hash_))

    def committed(self) -> Plan[int]:
        """The position in Postgres up to which everything was dealt with; of a new group, where it begins."""
        rows = yield Query(SQL["subscription"], (self._ledger.ledger_id, self._group))
        return rows[0][0] if rows else self._after or 0

    def is_followed(self, end: StreamId) -> Plan[bool]:
        """Whether the entry that was delivered last is the ledger's, and the ledger has more after it. end: its end.

        The stream's newest entry proves the first, or that the stream diverged. If the stream ends before it, and it
        did not come from Postgres, the group goes on at the committed offset: something may be redelivered, nothing is
        left out. So it does if it is in an epoch that neither the stream nor the database has: Redis was emptied, and
        then the database restored.
        """
        known = (yield from groups_of(self._ledger)).get(self._group)
        if known is None:
            return False
        delivered = known.delivered
        if delivered.epoch > end.epoch:
            if (yield from commands.state(self._ledger.name)).last.epoch <= end.epoch:
                yield from self._return_to_committed(end.epoch)
            return False
        if delivered.epoch < end.epoch or delivered >= end:
            return False
        state = yield from commands.state(self._ledger.name)
        if state.newest is not None:
            hash_ = yield from self.hash_at(state.newest.position)
            if state.newest.epoch != end.epoch or hash_ is None or hash_.hex().encode() != state.newest_hash:
                return False
        is_short = state.newest is None or state.newest.position < delivered.position
        if is_short and (yield from self.committed()) < delivered.position and not (yield from self._passed(delivered)):
            yield from self._return_to_committed(end.epoch)
        return True

    def hash_at(self, position: int) -> Plan[bytes | None]:
        """The hash of the ledger's entry, 32 bytes; None if it has none there."""
        rows = yield Query(SQL["hash_at"], (self._ledger.ledger_id, position))
        return rows[0][0] if rows else None

    def _passed(self, delivered: StreamId) -> Plan[bool]:
        """Whether the entry delivered last came from Postgres, and is still the ledger's (see pass.lua)."""
        passed = yield Command(("GET", wire.group_keys(self._ledger.name, self._group).passed))
        hash_ = yield from self.hash_at(delivered.position)
        return hash_ is not None and passed == f"{delivered} {hash_.hex()}".encode()

    def _return_to_committed(self, epoch: int) -> Plan[None]:
        position = yield from self.committed()
        yield from commands.move_group(self._ledger.name, self._group, StreamId(epoch, position))

    def _is_trimmed(self, after: int, until: int) -> Plan[bool]:
        """Whether more than erased entries is missing between two positions."""
        if until <= after + 1:
            return False
        [(more,)] = yield Query(SQL["whole_between"], (self._ledger.ledger_id, after, until))
        return bool(more)
