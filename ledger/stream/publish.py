"""What the relay publishes next, as the stream and the ledger are now, and what it trims. Plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ledger.effects import Plan, Query, Refused
from ledger.errors import ChainBroken, EntryUnreadable, StreamDiverged
from ledger.events import GENESIS
from ledger.format import native
from ledger.format.actions import erased_by
from ledger.format.canonical import digest
from ledger.format.findings import Link, Record
from ledger.store import quarantine
from ledger.store.ledgers import SQL, LedgerEnd, LedgerRef
from ledger.store.stored_rows import Source, messages_of, records
from ledger.stream import commands, wire
from ledger.stream.wire import NO_ID, StreamId, Wire

BATCH, BATCH_BYTES = 500, 4 * 1024 * 1024
"""Entries in one script, and about how many bytes, whichever comes first."""


class ResumePoint(NamedTuple):
    """Where publishing goes on. last: the stream's last id. next: the position that is published next.

    hash: of the entry before that; None if the stream does not have it.
    """

    last: StreamId
    next: int
    hash: bytes | None = None


def resume_point(ledger_end: LedgerEnd, keep: int) -> Plan[ResumePoint]:
    """Compares the stream with its ledger. Raises StreamDiverged if it has what the ledger does not.

    It is beyond `ledger_end` if another relay was faster: then nothing up to that is left to publish.
    """
    ledger = ledger_end.ledger
    state = yield from commands.state(ledger.name)
    if state.last == NO_ID or state.last.epoch < ledger_end.epoch:
        return ResumePoint(state.last, (yield from _floor(ledger_end, keep)))
    if state.last > StreamId(ledger_end.epoch, ledger_end.position):
        # The ledger was asked before the stream: another relay may have published what came in between.
        end = yield from commands.end_of(ledger)
        if state.last > end:
            raise _diverged(ledger, f"the stream ends at {state.last}, the ledger at {end}")
        return ResumePoint(state.last, ledger_end.position + 1)
    newest_hash = None
    if state.newest is not None:
        hash_ = wire.raw_hash(state.newest_hash)
        if not (yield from quarantine.is_chained(ledger, state.newest.position, hash_)):
            raise _diverged(ledger, f"entry {state.newest.position} of the stream is not the ledger's")
        newest_hash = hash_ if state.newest == state.last else None
    return ResumePoint(state.last, state.last.position + 1, newest_hash)


def carry_groups_over(ledger_end: LedgerEnd) -> Plan[None]:
    """Moves consumer groups into a new epoch, to their committed offsets: else they would get everything again."""
    ledger, epoch, end = ledger_end
    for group, position in (yield Query(SQL["subscriptions"], (ledger.ledger_id,))):
        try:
            yield from commands.move_group(ledger.name, group, StreamId(epoch, min(position, end)))
        except Refused as refused:
            if not str(refused).startswith(("NOGROUP", "ERR")):  # no such group or stream: its consumer creates it
                raise


def next_batch(ledger: LedgerRef, start: ResumePoint, last: int) -> Plan[list[Wire]]:
    """The entries from `start.next` to `last` that hold, from stored columns straight to the bytes of the stream.

    Ends at BATCH_BYTES: the rest is read, but not kept. The marker of a quarantined entry comes alone.
    Raises ChainBroken if the first entry does not hold, EntryUnreadable if Postgres cannot read it.
    """
    before = yield from _link_before(ledger, start)
    batch = _Batch(ledger.name, before)
    source = Source(*ledger)
    try:
        if native.core is None:
            yield from records(source, start.next, batch.take, last)
        else:
            yield from messages_of(source, start.next, last, batch.take_messages)
    except Refused as refused:
        if not refused.is_damage:
            raise
        if not batch.entries and last > start.next:
            return (yield from next_batch(ledger, start, (start.next + last) // 2))
    if batch.entries:
        return batch.entries
    suspect = yield from quarantine.look(ledger, start.next)
    if suspect.mark is not None:
        return [wire.marker(start.next, suspect.mark.hash, suspect.mark.by)]
    problem = next((finding.detail for finding in suspect.findings), "it does not continue the stream")
    raise (ChainBroken if suspect.damage is None else EntryUnreadable)(start.next, problem, ledger.name)


class _Batch:
    """The entries that hold, up to BATCH_BYTES. before: what the first is judged by."""

    def __init__(self, ledger: str, before: Link) -> None:
        self.ledger = ledger
        self.before = before
        self.entries: list[Wire] = []
        self._size = 0
        self._ends = False
        self._native: Any = native.core and native.core.Publish(ledger)

    def take(self, record: Record) -> None:
        if self._ends or self._size >= BATCH_BYTES:
            return
        envelope, body = record.envelope(self.ledger), record.body()
        if envelope is None or not _holds(record, envelope, body, self.before):
            self._ends = record.position > self.before.position  # a second row at a position is passed over
            return
        erases = erased_by(record.action, record.resource_type, record.resource_id, record.position)
        self.entries.append(Wire(record.position, envelope, body or b"", record.hash.hex(), str(erases or "")))
        self._size += len(envelope) + len(body or b"")
        self.before = Link(record.position, record.hash, record.hash, record.recorded)

    def take_messages(self, messages: list[bytes]) -> None:
        """Takes rows as COPY has them: by the native core, and one by one where that stops."""
        index = 0
        while index < len(messages) and not self._ends and self._size < BATCH_BYTES:
            self._native.go_on(*self.before)
            made: list[tuple[int, bytes, bytes, str]] = []
            size, index = self._native.take(messages, index, BATCH_BYTES - self._size, made)
            if made:
                self._size += size
                self.before = Link(*self._native.last())
                self.entries += [Wire(*each) for each in made]
            if index < len(messages):
                row = native.core.columns(messages[index])
                if row is not None:
                    self.take(Record(*row))
                index += 1


def size_of_next(entries: Sequence[Wire]) -> int:
    """How many entries to read next if they are as large as these, so that few are read and not kept."""
    size = sum(len(entry.envelope) + len(entry.body) for entry in entries)
    return min(BATCH, max(1, BATCH_BYTES * len(entries) // size))


def trim(ledger_end: LedgerEnd, keep: int) -> Plan[None]:
    """Drops the entries that a stream need not hold: see `_floor`."""
    floor = yield from _floor(ledger_end, keep)
    state = yield from commands.state(ledger_end.ledger.name)
    if state.first is not None and state.first < StreamId(ledger_end.epoch, floor):
        # Of an epoch that is over nothing may stay: its entries may never have been the ledger's.
        over = state.first.epoch < ledger_end.epoch
        yield from commands.trim(ledger_end.ledger.name, StreamId(ledger_end.epoch, floor), exactly=over)


def _floor(ledger_end: LedgerEnd, keep: int) -> Plan[int]:
    """The first position that a stream must hold: of the newest `keep` entries, and of those that a reader needs."""
    [(slowest,)] = yield Query(SQL["slowest_reader"], (ledger_end.ledger.ledger_id, ledger_end.ledger.ledger_id))
    newest_kept = ledger_end.position - keep
    return max(0, newest_kept if slowest is None else min(newest_kept, slowest)) + 1


def _link_before(ledger: LedgerRef, start: ResumePoint) -> Plan[Link]:
    if start.hash is not None or start.next == 1:
        hash_ = GENESIS if start.hash is None else start.hash
        return Link(start.next - 1, hash_, hash_, None)
    return (yield from quarantine.look(ledger, start.next)).before


def _holds(record: Record, envelope: bytes, body: bytes | None, before: Link) -> bool:
    return (
        digest(envelope) == record.hash
        and record.position == before.position + 1
        and record.prev_hash in (before.stored or record.prev_hash, before.computed)
        and (before.recorded is None or record.recorded >= before.recorded)
        and (record[9:12] == (None, None, None) if body is None else digest(body) == record.body_hash)
    )


def _diverged(ledger: LedgerRef, problem: str) -> StreamDiverged:
    return StreamDiverged(
        f"the stream of ledger {ledger.name!r} diverged: {problem}. Does another database publish to this Redis? Then "
        "give each its own, or its own database number (redis://…/1). Was the database restored from a backup, or did "
        f"it fail over to a standby that was behind? 'auditledger --ledger {ledger.name} salvage FILE' keeps what only "
        f"the stream has; then 'auditledger --ledger {ledger.name} relay --new-epoch' fills it anew"
    )
