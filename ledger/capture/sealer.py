"""The sealer: appends the events of the outbox, in the order of insertion, in the transaction that removes them there.

Any number may run: who has locked a ledger's tail takes what is still there. A crash takes an append and the removal
back together. See docs/capture.md for what is promised of the order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ledger.capture.outbox_rows import Waiting, draft_of, made_natively
from ledger.drivers.listener import Listener
from ledger.drivers.pools import Connector
from ledger.effects import Pipeline, Plan, Query, Refused, Rollback, Row
from ledger.errors import IdempotencyConflict, IntegrityError, InvalidEvent, LedgerError, TailBusy, UsageError
from ledger.format.canonical import Draft
from ledger.statements import sql
from ledger.store.appender import Appender
from ledger.store.drafts import count_new
from ledger.store.ledgers import BEGIN, COMMIT, LedgerRef, all_ledgers, unknown_ledger
from ledger.store.worker import Pauses, Stops, run_until
from ledger.telemetry import COUNTERS, SEALED, span

log = logging.getLogger("ledger.sealer")

SQL = sql(__file__)
CHANNEL = "ledger_outbox"
BATCH, BATCH_BYTES = 2500, 8 * 1024 * 1024
"""Events that are appended in one transaction, and about how many bytes of bodies, whichever comes first."""
PAUSES = Pauses(busy=0.002, idle=0.02, retry=1.0)
"""Between looks at the outbox."""
AWAKE = 50
"""Looks in vain after which the sealer waits for a notification."""
NET_SECONDS = 0.25
"""After so long it looks without one: a transaction may commit long after it has recorded."""
TAIL_SECONDS = 1.0
"""How long a running sealer, which may have other ledgers to seal, waits for a tail; and until it tries that again."""
PASS_OVER = 1000
"""Events after which the looks begin behind those."""
_OF_THE_DATA = ("22", "23", "LE002", "LE005")
"""SQLSTATEs, or their beginnings, by which Postgres refuses an entry for what it holds."""
_DUPLICATE_ID = "23505"


class Sealed(NamedTuple):
    """Events that left the outbox, and how many of them became entries."""

    taken: int
    new: int


class Sealer:
    """Seals the ledgers of one database. names: of the ledgers, None for all."""

    def __init__(self, connector: Connector, names: Collection[str] | None = None) -> None:
        self._connector = connector
        self._names = names
        self._tail_seconds = connector.settings.lock_timeout
        self._appenders: dict[int, Appender] = {}
        self._most: dict[int, int] = {}  # rows of each ledger's next batch, where that is not BATCH
        self._since: dict[int, int] = {}  # events that left each ledger's outbox since `pass_over`
        self._stops = Stops(connector, "seal")
        self._listener = Listener(connector.settings, CHANNEL)
        self._stop: threading.Event | None = None  # while it runs
        self._in_vain = 0
        self._dozes = False

    @property
    def stopped(self) -> list[LedgerError]:
        """The error of each ledger whose events cannot be appended now."""
        return self._stops.errors

    def run(self, stop: threading.Event) -> None:
        """Seals until `stop` is set; an unreachable server is tried again. A stop is noticed between two batches."""
        self._stop = stop
        self._tail_seconds = min(TAIL_SECONDS, self._tail_seconds)
        try:
            run_until(stop, self._step, PAUSES, log=log, job="seal", rest=partial(self._rest, stop))
        finally:
            self._listener.close()

    def seal(self, progress: Callable[[int], None] | None = None) -> int:
        """Seals all that is visible now. Returns how many events left the outbox. Raises UnknownLedger, Unavailable.

        progress: called with the number of events of each batch.
        """
        self._stops.look_again()
        return self._seal_each(progress)

    def _step(self) -> int:
        sealed = self._seal_each(None)
        self._in_vain = 0 if sealed else self._in_vain + 1
        if sealed and self._dozes:
            self._dozes = False
            self._listener.ask(Query(SQL["wake"]))
        return sealed

    def _rest(self, stop: threading.Event, seconds: float) -> None:
        """Waits; after many looks in vain, for a notification.

        `ledger.record` notifies while a sealer holds the lock. What was recorded before the sealer had it, the next
        look finds.
        """
        if self._in_vain < AWAKE:
            stop.wait(seconds)
        elif self._dozes:
            self._dozes = False  # unless the session outlives it
            if self._listener.wait(stop, NET_SECONDS):
                self._in_vain = 0
            self._dozes = True
        elif (rows := self._listener.ask(Query(SQL["doze"]))) is None or rows[0][0] is None:
            stop.wait(seconds)
        elif rows[0][0]:
            self._dozes = True
        else:  # another sealer waits for notifications
            stop.wait(NET_SECONDS)

    def _seal_each(self, progress: Callable[[int], None] | None) -> int:
        sealed = 0
        for ledger in self._connector.run(self._waiting()):
            if self._stops.waits(ledger.ledger_id):
                continue
            try:
                sealed += self._seal_ledger(ledger, progress)
            except TailBusy as error:
                self._stops.stopped(ledger.ledger_id, ledger, error, pause=TAIL_SECONDS)
            except (IntegrityError, UsageError) as error:
                self._stops.stopped(ledger.ledger_id, ledger, error)
            else:
                self._stops.passed(ledger.ledger_id, ledger)
        return sealed

    def _waiting(self) -> Plan[list[LedgerRef]]:
        ledgers = [LedgerRef(*row) for row in (yield Query(SQL["waiting"]))]
        if self._names is None:
            return ledgers
        known = {ledger.name for ledger in (yield from all_ledgers())}
        for name in self._names:
            if name not in known:
                raise unknown_ledger(name, known)
        return [ledger for ledger in ledgers if ledger.name in self._names]

    def _seal_ledger(self, ledger: LedgerRef, progress: Callable[[int], None] | None) -> int:
        appender = self._appenders.setdefault(ledger.ledger_id, Appender(ledger, self._tail_seconds))
        sealed = 0
        while True:
            most = self._most.get(ledger.ledger_id, BATCH)
            since = self._since.get(ledger.ledger_id, PASS_OVER)
            rows, more = self._connector.run(_next(ledger, most, pass_over=since >= PASS_OVER))
            self._since[ledger.ledger_id] = len(rows) + (0 if since >= PASS_OVER else since)
            if not rows:
                break
            with span("ledger.seal", name=ledger.name, events=len(rows)):
                taken, new = self._connector.run(_seal(appender, rows))
            COUNTERS.add(SEALED, ledger.name, count=new)
            sealed += taken
            if progress is not None:
                progress(taken)
            # Postgres reads the bodies of all that it is asked for, to measure them.
            self._most[ledger.ledger_id] = min(BATCH, 2 * len(rows)) if more else BATCH
            if not more or self._stop is not None:  # while it runs, the other ledgers have their turn
                break
        return sealed


def _next(ledger: LedgerRef, most: int, *, pass_over: bool) -> Plan[tuple[list[Waiting], bool]]:
    """The next rows, at most so many, and whether there may be more.

    pass_over: look from now on behind what is gone; in the same session, which keeps where that is.
    """
    look = Query(SQL["next"], (ledger.ledger_id, f"ledger.gone_{ledger.ledger_id}", most, BATCH_BYTES))
    rows: list[Row]
    if pass_over:
        _, rows = yield Pipeline((Query(SQL["pass_over"], (ledger.ledger_id,)), look))
    else:
        rows = yield look
    there = rows[0][-1] if rows else 0
    return [Waiting(*row[:-1]) for row in rows], there == most or there > len(rows)


def _seal(appender: Appender, rows: Sequence[Waiting], *, settle: bool = False) -> Plan[Sealed]:
    """Appends these rows; one that never can be is set aside.

    settle: look all ids up, not only those that were given.
    """
    batch = Batch(appender.ledger, rows)
    try:
        outcomes = yield from appender.append_from(batch, [row.id for row in rows if row.named or settle])
        return Sealed(batch.count, count_new(outcomes))
    except Refused as refused:
        if not refused.sqlstate.startswith(_OF_THE_DATA):
            raise
        yield Rollback()
        if refused.sqlstate == _DUPLICATE_ID and not settle:
            # Ids that the outbox made are recorded already: somebody who knew them gave them as his own.
            return (yield from _seal(appender, rows, settle=True))
        if len(rows) > 1:  # which one is it?
            half = len(rows) // 2
            first = yield from _seal(appender, rows[:half], settle=settle)
            second = yield from _seal(appender, rows[half:], settle=settle)
            return Sealed(first.taken + second.taken, first.new + second.new)
        yield from batch.reject(refused.first_line)
        return Sealed(batch.count, 0)


class Batch:
    """Rows of the outbox of one ledger, as a Source of drafts."""

    def __init__(self, ledger: LedgerRef, rows: Sequence[Waiting]) -> None:
        self._ledger = ledger
        self._rows = {row.seq: row for row in rows}
        self._drafts: dict[int, Draft] = {}
        self._invalid: dict[int, str] = {}
        for row, made in zip(rows, made_natively(rows, ledger), strict=True):
            try:
                self._drafts[row.seq] = draft_of(row, ledger) if made is None else made
            except InvalidEvent as error:  # of something that ledger.record does not refuse, and should
                self._invalid[row.seq] = str(error)
        self._taken: list[int] = []
        self.count = 0
        """Rows that were taken, and not by another sealer before."""

    def take(self) -> Query:
        return Query(SQL["take"], (self._ledger.ledger_id, list(self._rows)))

    def taken(self, rows: list[Row]) -> list[Draft]:
        taken = sorted(seq for (seq,) in rows)
        self.count = len(taken)
        self._taken = [seq for seq in taken if seq in self._drafts]
        self._invalid = {seq: reason for seq, reason in self._invalid.items() if seq in set(taken)}
        return [self._drafts[seq] for seq in self._taken]

    def set_aside(self, conflicts: Mapping[int, IdempotencyConflict]) -> Plan[None]:
        for seq, reason in self._invalid.items():
            yield from self._keep(seq, reason)
        for index, conflict in conflicts.items():
            yield from self._keep(self._taken[index], str(conflict))

    def reject(self, reason: str) -> Plan[None]:
        """Sets all of these rows aside, in a transaction of its own."""
        _, rows = yield Pipeline((BEGIN, self.take()))
        self.count = len(rows)
        for (seq,) in rows:
            yield from self._keep(seq, reason)
        yield COMMIT

    def _keep(self, seq: int, reason: str) -> Plan[None]:
        row = self._rows[seq]
        log.error("event %s of ledger %r is set aside: %s", row.id, self._ledger.name, reason)
        yield Query(SQL["set_aside"], (*row, self._ledger.ledger_id, reason))
