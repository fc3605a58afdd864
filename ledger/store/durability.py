"""What is durable: nothing that the database shows leaves it before. Plans.

An append that had to wait for the tail commits first and flushes then (`COMMIT_THEN_FLUSH`), so that the next one has
the tail meanwhile. In between, other sessions see an entry that a crash can still take back. So whatever hands out what
it saw (a receipt, an entry, a checkpoint) does so behind a *flush* that began after it was seen:

    FLUSH     a statement whose transaction, once committed, has made durable all that was committed before it
    Durable   what one process knows to be durable already, so that it need not be flushed again

docs/decisions/0014-durable-before-shown.md has the rules of Postgres' that this rests on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ledger.effects import Feed, Plan, Query, Refused
from ledger.errors import Unavailable
from ledger.events import Entry, Tail
from ledger.statements import sql
from ledger.store import quarantine
from ledger.store.ledgers import COMMIT, FAR, PAGE, LedgerEnd, LedgerRef, read, tail_of

SQL = sql(__file__)
FLUSH = Query(SQL["flush"])
"""Alone, or as the last statement of a transaction that is committed then."""
UNFLUSHED = Query(SQL["commit_unflushed"])
"""Before COMMIT: that does not wait for the disk."""
COMMIT_THEN_FLUSH = (UNFLUSHED, COMMIT, FLUSH)
"""Ends a transaction in one round trip: its locks are free before its WAL is flushed, its answer comes after."""


def commit_and_flush() -> Plan[None]:
    """Ends a transaction that read: what it saw, and what it wrote, is durable then.

    In two round trips: psycopg 3.3 mistakes the results of a pipeline that comes right behind an effects.Stored.
    """
    yield FLUSH
    yield COMMIT


class Known(NamedTuple):
    """An entry that is durable, with all before it, which its hash stands for."""

    position: int
    hash: bytes


class Durable:
    """The newest entry of each ledger that this process knows to be durable.

    By its hash, and believed only as long as the database has it: after a crash, a failover or a restore other entries
    may come to the same positions. May be shared by threads.
    """

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}

    def tail(self, ledger: LedgerRef) -> Plan[Tail]:
        """The tail, which is durable. Raises UnknownLedger."""
        tail = yield from tail_of(ledger)
        if self._known.get(ledger.ledger_id) == (tail.position, tail.hash):
            return tail
        return (yield from self.flush([ledger])).get(ledger.ledger_id, tail)

    def up_to(self, ledger: LedgerRef, position: int, hash_: bytes) -> Plan[None]:
        """Returns once an entry that was seen, and all before it, are durable: at once if they are known to be.

        Raises Unavailable if the entry is gone: a crash took it back before it was durable.
        """
        known = self._known.get(ledger.ledger_id)
        if known == (position, hash_):
            return
        if known is not None and known.position > position and (yield from _stands(ledger, *known)):
            return
        tail = (yield from self.flush([ledger])).get(ledger.ledger_id)
        # Behind a pooler the flush may have been another server's than the one that showed the entry.
        if tail is not None and (tail.position, tail.hash) == (position, hash_):
            return
        if (yield from _stands(ledger, position, hash_)) is False:
            raise Unavailable(
                f"entry {position} of ledger {ledger.name!r} was seen before it was durable, and a crash or a failover "
                "took it back: read again"
            )

    def ends(self, ends: Collection[LedgerEnd]) -> Plan[None]:
        """One flush for all these ledgers whose end is not known yet, so that `up_to` need not flush each."""
        new = [end.ledger for end in ends if self._end(end.ledger) != end.position]
        if new:
            yield from self.flush(new)

    def flush(self, ledgers: Collection[LedgerRef]) -> Plan[dict[int, Tail]]:
        """One flush for these ledgers. Returns their tails as they were before it, by ledger_id."""
        rows = yield Query(SQL["flush_tails"], ([ledger.ledger_id for ledger in ledgers],))
        tails = {ledger_id: Tail(*tail) for ledger_id, *tail in rows}
        for ledger_id, tail in tails.items():
            self._known[ledger_id] = Known(tail.position, tail.hash)
        return tails

    def _end(self, ledger: LedgerRef) -> int | None:
        known = self._known.get(ledger.ledger_id)
        return None if known is None else known.position


def read_all(ledger: LedgerRef, durable: Durable, after: int, limit: int | None) -> Feed[Entry]:
    """The entries at positions after `after` in order, page by page; at most `limit`. Only durable ones."""
    left = FAR if limit is None else limit
    while left > 0:
        page: list[Entry] = yield _page(ledger, durable, after, min(left, PAGE))
        if not page:
            return
        yield page
        left -= len(page)
        after = page[-1].position


def _page(ledger: LedgerRef, durable: Durable, after: int, limit: int) -> Plan[list[Entry]]:
    entries = yield from read(ledger, after, limit)
    if entries:
        yield from durable.up_to(ledger, entries[-1].position, entries[-1].hash)
    return entries


def _stands(ledger: LedgerRef, position: int, hash_: bytes) -> Plan[bool | None]:
    """Whether the ledger has this entry; None if Postgres cannot read what is there."""
    try:
        rows = yield Query(SQL["hash_at"], (ledger.ledger_id, position - 1, position))
        return rows == [(hash_,)] or (yield from quarantine.is_chained(ledger, position, hash_))
    except Refused as refused:
        if not refused.is_damage:
            raise
        return None
