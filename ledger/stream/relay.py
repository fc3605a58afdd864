"""The relay: publishes entries to their streams, in order and complete. It keeps no state; the stream is its memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from ledger.drivers.pools import Connector
from ledger.effects import Command, Plan, Query, Refused
from ledger.errors import ChainBroken, LedgerError, StreamDiverged, StreamUnusable, Unavailable
from ledger.events import GENESIS
from ledger.format.canonical import digest
from ledger.format.findings import Link, erased_by
from ledger.format.stored_row import Record
from ledger.store import quarantine
from ledger.store.ledgers import SQL, LedgerEnd, LedgerRef, ledger_ends
from ledger.store.stored_rows import Source, records
from ledger.store.worker import Pauses, Stops, run_until
from ledger.stream import commands, wire
from ledger.stream.wire import NO_ID, StreamId, Wire
from ledger.telemetry import COUNTERS, PUBLISHED, span

log = logging.getLogger("ledger.relay")

BATCH, BATCH_BYTES = 500, 4 * 1024 * 1024
"""Entries in one script, and about how many bytes, whichever comes first."""
PAUSES = Pauses(busy=0.005, idle=0.02, retry=1.0)
"""Between looks at the ledgers' tails."""
TRIM_SECONDS = 1.0
"""Seconds between looks at the streams themselves: a lost one is filled again, and one that is too long is trimmed."""


class Relay:
    """Publishes the ledgers of one database; any number of relays may run at once.

    names: of the ledgers to publish, None for all. keep: how many of the newest entries a stream holds.
    """

    def __init__(self, connector: Connector, names: Collection[str] | None = None) -> None:
        self._connector = connector
        self._names = names
        self._keep = connector.settings.stream_keep
        self._published: dict[int, StreamId] = {}
        self._stops = Stops(connector, "relay")
        self._runs = False
        self._trimmed = 0.0

    @property
    def stopped(self) -> list[LedgerError]:
        """Of each ledger whose stream ends before an entry that does not hold, why."""
        return [error for error in self._stops.errors if isinstance(error, ChainBroken)]

    def run(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set; an unreachable server is tried again.

        A ledger waits if its stream diverged or cannot be used, or its next entry does not hold; the others go on.
        """
        self._runs = True
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
        """Brings every stream up to its ledger's end. Returns how many entries that took.

        progress: called with the number of entries of each batch. A ledger is published up to the first entry that does
        not hold: `stopped` says which. Raises StreamDiverged, StreamUnusable once the others are done; Unavailable.
        """
        self._stops.look_again()
        published = self._publish_each(progress)
        self._raise_unusable()
        return published

    def trim(self) -> None:
        """Forgets what it believed of the streams, so that a lost one is noticed and filled again; trims long ones.

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
        for ledger_end in self._due():
            ledger = ledger_end.ledger
            done = self._published.get(ledger.ledger_id)
            if done is not None and done >= StreamId(ledger_end.epoch, ledger_end.position):
                continue
            try:
                published += self._catch_up(ledger_end, progress)
            except ChainBroken as error:
                self._stops.stopped(ledger.ledger_id, ledger, error, position=error.position)
            except (StreamDiverged, StreamUnusable) as error:
                self._unusable(ledger, error)
            else:
                self._stops.passed(ledger.ledger_id, ledger)
        return published

    def _trim_each(self) -> list[StreamUnusable]:
        errors = []
        self._published.clear()
        for ledger_end in self._due():
            try:
                self._connector.run(_trim(ledger_end, self._keep))
            except StreamUnusable as error:
                self._unusable(ledger_end.ledger, error)
                errors.append(error)
        return errors

    def _due(self) -> list[LedgerEnd]:
        """The ledgers' ends, but for those that are not tried again yet."""
        found = self._connector.run(ledger_ends(self._names))
        return [ledger_end for ledger_end in found if not self._stops.waits(ledger_end.ledger.ledger_id)]

    def _unusable(self, ledger: LedgerRef, error: LedgerError) -> None:
        self._published.pop(ledger.ledger_id, None)
        self._stops.stopped(ledger.ledger_id, ledger, error, pause=PAUSES.retry, quiet=not self._runs)

    def _catch_up(self, ledger_end: LedgerEnd, progress: Callable[[int], None] | None) -> int:
        ledger, epoch = ledger_end.ledger, ledger_end.epoch
        published = 0
        at = self._connector.run(where_to_go_on(ledger_end, self._keep))
        if NO_ID.epoch < at.last.epoch < epoch:
            self._connector.run(_carry_groups_over(ledger_end))
        ahead: Future[list[Wire]] | None = None
        with ThreadPoolExecutor(1) as executor:  # reads the next batch while Redis takes this one
            while at.next <= ledger_end.position:
                entries = ahead.result() if ahead else self._read(ledger_end, at)
                wanted = StreamId(epoch, entries[-1].position)
                more = wanted.position < ledger_end.position
                then = GoOn(wanted, wanted.position + 1, bytes.fromhex(entries[-1].hash))
                ahead = executor.submit(self._read, ledger_end, then, _like(entries)) if more else None
                with span("ledger.publish", name=ledger.name, last=wanted.position, entries=len(entries)):
                    last = self._connector.run(commands.publish(ledger.name, at.last, epoch, entries))
                if last == wanted:
                    COUNTERS.add(PUBLISHED, ledger.name, count=len(entries))
                    at = then
                    published += len(entries)
                    if progress is not None:
                        progress(len(entries))
                else:  # another relay was faster, or the stream was lost: look again
                    ahead = None
                    at = self._connector.run(where_to_go_on(ledger_end, self._keep))
        self._published[ledger.ledger_id] = StreamId(epoch, ledger_end.position)
        return published

    def _read(self, ledger_end: LedgerEnd, at: GoOn, most: int = BATCH) -> list[Wire]:
        return self._connector.run(_wire(ledger_end.ledger, at, min(ledger_end.position, at.next + most - 1)))


class GoOn(NamedTuple):
    """Where publishing goes on: the stream's last id, the position that comes next, and the hash that it continues.

    hash: None where the stream does not have the entry before it.
    """

    last: StreamId
    next: int
    hash: bytes | None = None


def where_to_go_on(ledger_end: LedgerEnd, keep: int) -> Plan[GoOn]:
    """Compares the stream with its ledger. Raises StreamDiverged where it holds what the ledger does not.

    Behind `standing` where another relay was faster: of what that knows nothing is left to publish.
    """
    ledger = ledger_end.ledger
    state = yield from commands.state(ledger.name)
    if state.last == NO_ID or state.last.epoch < ledger_end.epoch:
        return GoOn(state.last, (yield from _floor(ledger_end, keep)))
    if state.last > StreamId(ledger_end.epoch, ledger_end.position):
        # The ledger was asked before the stream: another relay may have published what came in between.
        end = yield from commands.end_of(ledger)
        if state.last > end:
            raise _diverged(ledger, f"the stream stands at {state.last}, the ledger at {end}")
        return GoOn(state.last, ledger_end.position + 1)
    known = None
    if state.newest is not None:
        hash_ = wire.raw_hash(state.newest_hash)
        if not (yield from quarantine.is_chained(ledger, state.newest.position, hash_)):
            raise _diverged(ledger, f"entry {state.newest.position} of the stream is not the ledger's")
        known = hash_ if state.newest == state.last else None
    return GoOn(state.last, state.last.position + 1, known)


def open_epoch(ledger: LedgerRef) -> Plan[int]:
    """Tells relays to fill the stream anew under the next epoch, below which everything is dropped."""
    [(epoch,)] = yield Query(SQL["open_epoch"], (ledger.ledger_id,))
    return int(epoch)


def _carry_groups_over(ledger_end: LedgerEnd) -> Plan[None]:
    """Lets consumer groups go on in a new epoch where Postgres says that they are: they would get all of it again."""
    ledger, epoch, end = ledger_end
    for group, position in (yield Query(SQL["subscriptions"], (ledger.ledger_id,))):
        at = StreamId(epoch, min(position, end))
        try:
            yield Command(("XGROUP", "SETID", wire.key(ledger.name), group, str(at)))
        except Refused as refused:
            if not str(refused).startswith(("NOGROUP", "ERR")):  # no such group or stream: it is made when it is read
                raise


def _wire(ledger: LedgerRef, at: GoOn, last: int) -> Plan[list[Wire]]:
    """The entries at.next … last, from stored columns straight to the bytes of the stream, as far as they hold.

    Fewer, where they come to BATCH_BYTES: the rest is read, but not kept. What stands for one that is quarantined comes
    alone. Raises ChainBroken where the first does not hold.
    """
    before = yield from _link_before(ledger, at)
    entries: list[Wire] = []
    size = 0
    ends = False

    def take(record: Record) -> None:
        nonlocal before, ends, size
        if ends or size >= BATCH_BYTES:
            return
        envelope, body = record.envelope(ledger.name), record.body()
        if envelope is None or not _holds(record, envelope, body, before):
            ends = record.position > before.position  # a second row at a position is passed over
            return
        erases = erased_by(record.action, record.resource_type, record.resource_id, record.position)
        entries.append(Wire(record.position, envelope, body or b"", record.hash.hex(), str(erases or "")))
        size += len(envelope) + len(body or b"")
        before = Link(record.position, record.hash, record.hash, record.recorded)

    yield from records(Source(*ledger), at.next, take, last)
    if entries:
        return entries
    found = yield from quarantine.look(ledger, at.next)
    if found.mark is not None:
        return [wire.marker(at.next, found.mark.hash, found.mark.by)]
    problem = next((finding.detail for finding in found.findings), "it does not continue the stream")
    raise ChainBroken(at.next, problem, ledger.name)


def _holds(record: Record, envelope: bytes, body: bytes | None, before: Link) -> bool:
    return (
        digest(envelope) == record.hash
        and record.position == before.position + 1
        and record.prev_hash in (before.stored or record.prev_hash, before.computed)
        and (before.recorded is None or record.recorded >= before.recorded)
        and (record[9:12] == (None, None, None) if body is None else digest(body) == record.body_hash)
    )


def _link_before(ledger: LedgerRef, at: GoOn) -> Plan[Link]:
    if at.hash is not None or at.next == 1:
        hash_ = GENESIS if at.hash is None else at.hash
        return Link(at.next - 1, hash_, hash_, None)
    found = yield from quarantine.look(ledger, at.next)
    return found.before


def _like(entries: Sequence[Wire]) -> int:
    """How many entries to ask for next, should they be as large as these: little is to be read in vain."""
    size = sum(len(entry.envelope) + len(entry.body) for entry in entries)
    return min(BATCH, max(1, BATCH_BYTES * len(entries) // size))


def _diverged(ledger: LedgerRef, what: str) -> StreamDiverged:
    return StreamDiverged(
        f"the stream of ledger {ledger.name!r} diverged: {what}. Was the database restored from a backup, or did it "
        f"fail over to a standby that was behind? 'auditledger --ledger {ledger.name} salvage FILE' keeps what only "
        f"the stream has; then 'auditledger --ledger {ledger.name} relay --new-epoch' fills it anew"
    )


def _floor(ledger_end: LedgerEnd, keep: int) -> Plan[int]:
    """The first position that a stream must hold: the newest `keep`, and whatever a reader has not seen."""
    [(slowest,)] = yield Query(SQL["slowest_reader"], (ledger_end.ledger.ledger_id, ledger_end.ledger.ledger_id))
    newest_kept = ledger_end.position - keep
    return max(0, newest_kept if slowest is None else min(newest_kept, slowest)) + 1


def _trim(ledger_end: LedgerEnd, keep: int) -> Plan[None]:
    floor = yield from _floor(ledger_end, keep)
    state = yield from commands.state(ledger_end.ledger.name)
    if state.first is not None and state.first < StreamId(ledger_end.epoch, floor):
        # Of an epoch that is over nothing may stay: its entries may never have been the ledger's.
        over = state.first.epoch < ledger_end.epoch
        yield from commands.trim(ledger_end.ledger.name, StreamId(ledger_end.epoch, floor), exactly=over)
