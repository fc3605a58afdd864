"""The relay: publishes entries to their streams, in order and complete. It keeps no state; the stream is its memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

from ledger.drivers.pools import Connector
from ledger.effects import Plan, Query
from ledger.errors import ChainBroken, LedgerError, StreamDiverged, StreamUnusable, Unavailable
from ledger.store.durability import Durable
from ledger.store.ledgers import SQL, LedgerEnd, LedgerRef, ledger_ends
from ledger.store.worker import Pauses, Stops, run_until
from ledger.stream import commands, publish
from ledger.stream.publish import ResumePoint, resume_point
from ledger.stream.wire import NO_ID, StreamId, Wire
from ledger.telemetry import COUNTERS, PUBLISHED, span

log = logging.getLogger("ledger.relay")

PAUSES = Pauses(busy=0.005, idle=0.02, retry=1.0)
"""Between looks at the ledgers' tails."""
TRIM_SECONDS = 1.0
"""Seconds between looks at the streams themselves: a lost one is filled again, and one that is too long is trimmed."""
FAR_AHEAD = 10_000
"""An epoch that no stream reaches by itself: somebody else has written to it."""


class Relay:
    """Publishes the ledgers of one database; any number of relays may run at once.

    names: of the ledgers to publish, None for all. keep: how many of the newest entries a stream holds.
    """

    def __init__(self, connector: Connector, names: Collection[str] | None = None) -> None:
        self._connector = connector
        self._names = names
        self._keep = connector.settings.stream_keep
        self._published: dict[int, StreamId] = {}
        self._durable = Durable()
        self._stops = Stops(connector, "relay")
        self._stop: threading.Event | None = None  # while it runs
        self._trimmed = 0.0

    @property
    def stopped(self) -> list[LedgerError]:
        """The error of each ledger whose stream ends before an entry that does not hold."""
        return [error for error in self._stops.errors if isinstance(error, ChainBroken)]

    def run(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set; an unreachable server is tried again.

        A ledger waits if its stream diverged or cannot be used, or its next entry does not hold; the others go on.
        A stop is noticed between two batches.
        """
        self._stop = stop
        run_until(stop, self._step, PAUSES, log=log, job="relay")

    def _step(self) -> int:
        """Publishes what is new, and trims when that is due. Returns how many entries were published."""
        try:
            if time.monotonic() - self._trimmed > TRIM_SECONDS:
                self._trim_each()
                self._trimmed = time.monotonic()
            return self._publish_each(None)
        except Unavailable:
            self._published.clear()
            raise

    def publish(self, progress: Callable[[int], None] | None = None) -> int:
        """Brings every stream up to its ledger's end. Returns how many entries were published.

        progress: called with the number of entries of each batch. A ledger is published up to the first entry that does
        not hold, which `stopped` tells. Raises StreamDiverged, StreamUnusable once the others are done; Unavailable.
        """
        self._stops.look_again()
        published = self._publish_each(progress)
        self._raise_unusable()
        return published

    def trim(self) -> None:
        """Trims long streams, and has each looked at again, so that a lost one is filled by the next `publish`.

        Raises StreamUnusable once the others are done; Unavailable.
        """
        self._stops.look_again()
        for error in self._trim_each():
            raise error

    def _raise_unusable(self) -> None:
        for error in self._stops.errors:
            if not isinstance(error, ChainBroken):
                raise error

    def _publish_each(self, progress: Callable[[int], None] | None) -> int:
        published = 0
        ends = [ledger_end for ledger_end in self._due() if not self._is_published(ledger_end)]
        self._connector.run(self._durable.ends(ends))
        for ledger_end in ends:
            ledger = ledger_end.ledger
            try:
                published += self._catch_up(ledger_end, progress)
            except ChainBroken as error:
                self._stops.stopped(ledger.ledger_id, ledger, error, position=error.position)
            except (StreamDiverged, StreamUnusable) as error:
                self._unusable(ledger, error)
            else:
                self._stops.passed(ledger.ledger_id, ledger)
        return published

    def _is_published(self, ledger_end: LedgerEnd) -> bool:
        done = self._published.get(ledger_end.ledger.ledger_id)
        return done is not None and done >= StreamId(ledger_end.epoch, ledger_end.position)

    def _trim_each(self) -> list[StreamUnusable]:
        errors = []
        self._published.clear()
        for ledger_end in self._due():
            try:
                self._connector.run(publish.trim(ledger_end, self._keep))
            except StreamUnusable as error:
                self._unusable(ledger_end.ledger, error)
                errors.append(error)
        return errors

    def _due(self) -> list[LedgerEnd]:
        """The ends of the ledgers, without those that are not tried again yet."""
        ends = self._connector.run(ledger_ends(self._names))
        return [ledger_end for ledger_end in ends if not self._stops.waits(ledger_end.ledger.ledger_id)]

    def _unusable(self, ledger: LedgerRef, error: LedgerError) -> None:
        self._published.pop(ledger.ledger_id, None)
        self._stops.stopped(ledger.ledger_id, ledger, error, pause=PAUSES.retry, quiet=self._stop is None)

    def _catch_up(self, ledger_end: LedgerEnd, progress: Callable[[int], None] | None) -> int:
        """Publishes up to the ledger's end, or until a stop is asked for. Returns how many entries were published."""
        ledger, epoch = ledger_end.ledger, ledger_end.epoch
        published = 0
        start = self._connector.run(resume_point(ledger_end, self._keep))
        if NO_ID.epoch < start.last.epoch < epoch:
            self._connector.run(publish.carry_groups_over(ledger_end))
        ahead: Future[list[Wire]] | None = None
        with ThreadPoolExecutor(1) as executor:  # reads the next batch while Redis takes this one
            while start.next <= ledger_end.position:
                entries = ahead.result() if ahead else self._read(ledger_end, start, publish.BATCH)
                wanted, hash_ = StreamId(epoch, entries[-1].position), bytes.fromhex(entries[-1].hash)
                # A stream must not have what a crash then takes from the ledger.
                self._connector.run(self._durable.up_to(ledger, wanted.position, hash_))
                more = wanted.position < ledger_end.position
                after = ResumePoint(wanted, wanted.position + 1, hash_)
                count = publish.size_of_next(entries)
                ahead = executor.submit(self._read, ledger_end, after, count) if more else None
                with span("ledger.publish", name=ledger.name, last=wanted.position, entries=len(entries)):
                    last = self._connector.run(commands.publish(ledger.name, start.last, epoch, entries))
                if last == wanted:
                    COUNTERS.add(PUBLISHED, ledger.name, count=len(entries))
                    start = after
                    published += len(entries)
                    if progress is not None:
                        progress(len(entries))
                    if self._stop is not None and self._stop.is_set():
                        return published
                else:  # another relay was faster, or the stream was lost: look again
                    ahead = None
                    start = self._connector.run(resume_point(ledger_end, self._keep))
        self._published[ledger.ledger_id] = StreamId(epoch, ledger_end.position)
        return published

    def _read(self, ledger_end: LedgerEnd, start: ResumePoint, count: int) -> list[Wire]:
        last = min(ledger_end.position, start.next + count - 1)
        return self._connector.run(publish.next_batch(ledger_end.ledger, start, last))


def open_epoch(ledger: LedgerRef) -> Plan[int]:
    """Has relays fill the stream anew under the next epoch; everything below that is dropped. Returns the epoch."""
    [(epoch,)] = yield Query(SQL["open_epoch"], (ledger.ledger_id,))
    return int(epoch)


def open_new_epoch(ledger: LedgerRef) -> Plan[int]:
    """Opens an epoch that the stream has not had: a database that was restored twice counts from an older one."""
    last = (yield from commands.state(ledger.name)).last.epoch
    epoch = yield from open_epoch(ledger)
    while epoch <= last < FAR_AHEAD:
        epoch = yield from open_epoch(ledger)
    return epoch
