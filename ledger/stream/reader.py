"""Reads on in ledgers: entries in order, from the stream if it has the next ones, else from Postgres.

Each entry is checked on arrival: position, link, time, hash and body. If one of the stream does not hold, Postgres is
read; if one of Postgres does not hold, reading ends with ChainBroken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ledger.effects import Feed, Plan, Query, Refused, Wait
from ledger.errors import ChainBroken, StreamDiverged
from ledger.events import GENESIS, Entry, Seen, Tail
from ledger.format.chain import check_link
from ledger.settings import LONGEST_BLOCK
from ledger.store import quarantine
from ledger.store.durability import Durable
from ledger.store.ledgers import PAGE, PAGE_BYTES, SQL, LedgerRef, read, size_of
from ledger.stream import commands
from ledger.stream.wire import StreamId

POLL = 0.02
"""Seconds between looks at Postgres while there is no stream to wait on."""
RETRY_SECONDS = 5.0
"""Seconds after which an unreachable Redis is tried again: to learn that it still is can take as long."""
LOOK_SECONDS = 0.5
"""Seconds without anything new from one stream after which Postgres is asked: the end of the stream may be gone."""
EMPTY_TAIL = Tail(0, GENESIS, datetime.min.replace(tzinfo=UTC))


@dataclass(slots=True)
class Reader:
    """A place in one ledger: the tail of what was read, and the epoch of the stream that it came from.

    stopped: the error of the next entry, if that did not hold when Postgres was read last.
    looked: when Postgres was read last, or something came, in seconds on the monotonic clock. streamed: whether the
    next entries came from the stream, which has durable ones only.
    """

    ledger: LedgerRef
    tail: Tail
    epoch: int = 1
    stopped: ChainBroken | None = None
    looked: float = 0.0
    streamed: bool = False

    @property
    def stream_id(self) -> StreamId:
        return StreamId(self.epoch, self.tail.position)


class Streams:
    """Whether there are streams to read from; else Postgres has everything, a little later.

    redis: whether a Redis is set. While that is unreachable, there are none.
    """

    def __init__(self, redis: bool) -> None:
        self._redis = redis
        self._back_at = 0.0

    @property
    def there(self) -> bool:
        return self._redis and time.monotonic() >= self._back_at

    def away(self) -> None:
        self._back_at = time.monotonic() + RETRY_SECONDS


NO_STREAMS = Streams(redis=False)


def reader_after(ledger: LedgerRef, position: int) -> Plan[Reader]:
    """A reader that continues after the entry at `position`; 0 reads from the beginning.

    Raises StreamDiverged if there is no such entry.
    """
    epoch, end = yield from commands.end_of(ledger)
    if position == 0:
        return Reader(ledger, EMPTY_TAIL, epoch)
    entries = yield from read(ledger, position - 1, 1, last=position)
    if position <= end and not any(map(quarantine.holds, entries)):
        passed = yield from quarantine.passed(ledger, position, EMPTY_TAIL.recorded_at)
        if passed is not None:
            return Reader(ledger, passed.tail, epoch)
    if not entries:
        raise StreamDiverged(f"ledger {ledger.name!r} has no entry {position} to continue after")
    return Reader(ledger, entries[0].tail, epoch)


def next_entries(
    readers: Sequence[Reader], streams: Streams, *, wait: float | None, limit: int = PAGE
) -> Plan[dict[int, list[Seen]]]:
    """The next entries of the readers that have some, checked, by ledger_id. Does not move the readers.

    wait: seconds to wait for the first entry; None does not wait. limit: about how many of each. A reader whose next
    entry does not hold has none, and gets that error as `stopped`. Raises StreamDiverged if a reader is ahead of its
    ledger, whose database was restored.
    """
    for reader in readers:
        reader.stopped = None
    streamed: dict[str, list[Entry | None]] = {}
    has_stream = streams.there
    if has_stream:
        try:
            streamed = yield from commands.read([(each.ledger.name, each.stream_id) for each in readers], limit, wait)
        except Refused as refused:
            if not refused.away:
                raise
            has_stream = False
            streams.away()
    batches: dict[int, list[Seen]] = {}
    misled: list[Reader] = []
    late: list[Reader] = []
    now = time.monotonic()
    for reader in readers:
        entries = streamed.get(reader.ledger.name, [])
        if entries and not _continues(reader, entries):
            misled.append(reader)
        elif entries:
            batches[reader.ledger.ledger_id] = [entry for entry in entries if entry is not None]
            reader.looked, reader.streamed = now, True
        elif now - reader.looked > LOOK_SECONDS:
            late.append(reader)
    if misled or late or not batches:
        batches |= yield from _from_postgres([*misled, *late] if misled or batches else readers, limit)
    if not batches and wait is not None and (misled or not has_stream):
        yield Wait(min(wait, POLL))
    return batches


def followed(reader: Reader, durable: Durable, streams: Streams, wait: float | None) -> Plan[list[Seen]]:
    """The next entries of one reader, which Postgres has too, durably. Does not move the reader.

    A forged entry of the stream may hold by itself and continue the entry before it. So the newest of those that came
    is compared with the ledger's; projections compare it in the transaction that applies it.
    wait: as in `next_entries`. Raises as that does, and ChainBroken if the next entry does not hold.
    """
    ledger = reader.ledger
    batches = yield from next_entries([reader], streams, wait=wait)
    entries = batches.get(ledger.ledger_id, [])
    last = entries[-1] if entries and streams.there else None
    if isinstance(last, Entry) and not (yield from quarantine.is_chained(ledger, last.position, last.hash)):
        batches = yield from _from_postgres([reader], PAGE)
        entries = batches.get(ledger.ledger_id, [])
        if not entries and wait is not None:
            yield Wait(min(wait, POLL))
    if reader.stopped is not None and not entries:
        raise reader.stopped
    if entries and not reader.streamed:
        yield from durable.up_to(ledger, entries[-1].position, entries[-1].hash)
    return entries


def follow(ledger: LedgerRef, durable: Durable, after: int | None, idle: float | None, redis: bool) -> Feed[Entry]:
    """Entries after a position (None: after the newest) as they come; what is quarantined is passed over.

    idle: ends after so many seconds without one. redis: is one set? Errors: as `followed`.
    """
    if after is None:
        after = (yield durable.tail(ledger)).position
    reader: Reader = yield reader_after(ledger, after)
    idle_timer, streams = IdleTimer(idle), Streams(redis)
    while not idle_timer.over:
        entries: list[Seen] = yield followed(reader, durable, streams, idle_timer.wait)
        if entries:
            reader.tail = entries[-1].tail
            yield [entry for entry in entries if isinstance(entry, Entry)]
            idle_timer.reset()


def _continues(reader: Reader, streamed: Sequence[Entry | None]) -> bool:
    """Whether the stream has the next entries, and they hold; not if one is trimmed, erased or forged."""
    entries = [entry for entry in streamed if entry is not None]
    if len(entries) < len(streamed) or any(entry.ledger != reader.ledger.name for entry in entries):
        return False
    tail = reader.tail
    try:
        for entry in entries:
            check_link(tail, entry)  # its hashes were checked when it was parsed
            tail = entry.tail
    except ChainBroken:
        return False
    return True


def _from_postgres(readers: Sequence[Reader], limit: int) -> Plan[dict[int, list[Seen]]]:
    tails = yield Query(SQL["tails"], ([reader.ledger.ledger_id for reader in readers],))
    ends = {ledger_id: (epoch, position) for ledger_id, epoch, position in tails}
    batches: dict[int, list[Seen]] = {}
    size = 0
    for reader in random.sample(readers, len(readers)):  # each has its turn to be among the first
        ledger = reader.ledger
        reader.looked, reader.streamed = time.monotonic(), False
        reader.epoch, position = ends[ledger.ledger_id]
        if position < reader.tail.position:
            raise rolled_back(ledger, reader.tail.position, position)
        if position > reader.tail.position and size < PAGE_BYTES:
            try:
                entries = yield from read(ledger, reader.tail.position, limit, last=position)
                size += size_of(entries)
                batches[ledger.ledger_id] = yield from quarantine.vetted(ledger, reader.tail, entries, position)
            except ChainBroken as error:
                reader.stopped = error
    return batches


def rolled_back(ledger: LedgerRef, seen: int, end: int) -> StreamDiverged:
    """The error for a reader that is ahead of its ledger."""
    return StreamDiverged(
        f"entry {seen} of ledger {ledger.name!r} was read, but the ledger ends at {end}: its database was rolled back, "
        "by a restore or a failover. Begin again after an entry that it has; 'auditledger replay' rebuilds a projection"
    )


class IdleTimer:
    """Whether a reader has waited for too long. idle: seconds, None for never; counted from the first read on."""

    def __init__(self, idle: float | None) -> None:
        self._idle = idle
        self._since: float | None = None

    def reset(self) -> None:
        self._since = time.monotonic()

    @property
    def over(self) -> bool:
        if self._idle is None or self._since is None:
            return False
        return time.monotonic() - self._since >= self._idle

    @property
    def wait(self) -> float:
        """Seconds for which the read that comes now may block. Starts the timer."""
        if self._since is None:
            self._since = time.monotonic()
        if self._idle is None:
            return LONGEST_BLOCK
        return min(LONGEST_BLOCK, max(0.001, self._idle - (time.monotonic() - self._since)))
