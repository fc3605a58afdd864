"""How far a consumer group has come: in Redis, and in Postgres, from which it goes on where Redis has lost it."""

from __future__ import annotations

from ledger.effects import Command, Plan, Query, Refused, foreseen
from ledger.errors import UsageError
from ledger.store.ledgers import SQL, LedgerRef, tail_of
from ledger.stream import commands, wire
from ledger.stream.groups import beyond, groups_of
from ledger.stream.wire import StreamId


class Progress:
    """Of one group of one ledger. Its methods are plans.

    after: where a new group begins; None for the ledger's end.
    """

    def __init__(self, ledger: LedgerRef, group: str, after: int | None) -> None:
        self._ledger = ledger
        self._key = wire.key(ledger.name)
        self._group = group
        self._after = after

    def begin(self) -> Plan[None]:
        """Where a new group begins is decided now. Raises UsageError where that is beyond the ledger's end."""
        end = (yield from tail_of(self._ledger)).position
        if self._after is None:
            self._after = end
        elif not 0 <= self._after <= end:
            raise beyond(self._ledger, self._after, end)

    def create_group(self) -> Plan[None]:
        """In Redis, where Postgres says that it is. Raises UsageError where the stream or the ledger lacks that."""
        position = yield from self.saved()
        # What is left of an epoch that is over says nothing of where this one begins.
        end = yield from commands.end_of(self._ledger)
        rows = yield Command(("XRANGE", self._key, f"{end.epoch}-0", "+", "COUNT", 1))
        with foreseen("XRANGE"):
            first = StreamId.parse(rows[0][0]).position if rows else 0
        if (yield from self._trimmed(position, first)):
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

    def save(self) -> Plan[None]:
        """Notes in Postgres up to where every entry was acknowledged or a dead letter, as far as the ledger has that.

        What was delivered from a stream that is ahead of a database that was set back is no progress in this ledger.
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
        newest = yield Command(("XREVRANGE", self._key, str(done), "-", "COUNT", 1))
        with foreseen("XREVRANGE"):
            entry = wire.parse(newest[0][1]) if newest else None
        # A hole before what is pending may have been handed out to nobody, if the answer that told of it got lost.
        if entry is not None:
            position = entry.position if pending else done.position
            group = (self._ledger.ledger_id, self._group)
            yield Query(SQL["save_subscription"], (position, *group, done.epoch, entry.position, entry.hash))

    def saved(self) -> Plan[int]:
        """Up to where the group has dealt with everything, as Postgres knows it; a new one up to where it begins."""
        rows = yield Query(SQL["subscription"], (self._ledger.ledger_id, self._group))
        return rows[0][0] if rows else self._after or 0

    def is_followed(self, end: StreamId) -> Plan[bool]:
        """Is what was delivered last the ledger's, and is there more of that up to its end?

        The stream's newest entry proves it, or that the stream diverged. Where there is none, the group goes on where
        Postgres says that it is: something may be delivered again, nothing is left out. Likewise where the group is in
        an epoch that neither the stream nor the database has: Redis was emptied, and then the database set back.
        """
        known = (yield from groups_of(self._ledger)).get(self._group)
        if known is None:
            return False
        at = known.delivered
        if at.epoch > end.epoch:
            if (yield from commands.state(self._ledger.name)).last.epoch <= end.epoch:
                yield from self._go_on_after_saved(end.epoch)
            return False
        if at.epoch < end.epoch or at >= end:
            return False
        state = yield from commands.state(self._ledger.name)
        if state.newest is not None:
            rows = yield Query(SQL["hash_at"], (self._ledger.ledger_id, state.newest.position))
            if state.newest.epoch != end.epoch or not rows or rows[0][0].hex().encode() != state.newest_hash:
                return False
        is_short = state.newest is None or state.newest.position < at.position
        if is_short and (yield from self.saved()) < at.position:
            yield from self._go_on_after_saved(end.epoch)
        return True

    def _go_on_after_saved(self, epoch: int) -> Plan[None]:
        position = yield from self.saved()
        yield Command(("XGROUP", "SETID", self._key, self._group, str(StreamId(epoch, position))))

    def _trimmed(self, after: int, until: int) -> Plan[bool]:
        """Is more than erased entries missing between two positions?"""
        if until <= after + 1:
            return False
        [(more,)] = yield Query(SQL["whole_between"], (self._ledger.ledger_id, after, until))
        return bool(more)
