"""A worker that catches up reads the next entries while it applies those before: each once, none from elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Event, Ledger
from ledger.drivers.pools import Connector
from ledger.errors import Unavailable
from ledger.events import Tail
from ledger.projection import worker
from ledger.projection.lanes import BATCH, LARGE, MANY, Batches, Lane, ReadAhead
from ledger.store.ledgers import LedgerRef
from ledger.stream.reader import EMPTY_TAIL, Reader, next_entries
from ledger.stream.relay import Relay
from tests.support.projections import Count
from tests.support.views import entry, projector, rows, some_events

MAIN = LedgerRef(1, "main")
READS = 3


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[int]]]:
    """The reads of workers that brought something: whether ahead, and the positions."""
    reads: list[tuple[bool, list[int]]] = []
    real = next_entries

    def noted(*args: Any, **options: Any) -> Any:
        batches = yield from real(*args, **options)
        ahead = threading.current_thread() is not threading.main_thread()
        reads.extend((ahead, [each.position for each in entries]) for entries in batches.values())
        return batches

    monkeypatch.setattr(worker, "next_entries", noted)
    return reads


@pytest.mark.parametrize("streamed", [True, False])
def test_each_entry_is_read_once(
    ledger: Ledger, admin: psycopg.Connection, reads: list[tuple[bool, list[int]]], streamed: bool
) -> None:
    length = READS * BATCH - 7
    ledger.append_many(some_events(length))
    if streamed:
        servers = Connector(ledger.settings)
        Relay(servers).publish()
        servers.close()
    with projector(ledger, [Timeline(), ActorActivity()]) as running:
        assert running.catch_up() == length
    assert [ahead for ahead, _ in reads] == [False] + [True] * (READS - 1)
    assert [position for _, positions in reads for position in positions] == list(range(1, length + 1))
    assert len(rows(admin, "timeline")) == length


def test_what_was_read_ahead_is_dropped_where_a_projection_is_blocked(
    ledger: Ledger, admin: psycopg.Connection
) -> None:
    """It goes on alone, from where it is; the others have everything."""
    poison = BATCH + 10
    length = poison + 2 * BATCH
    ledger.append_many(some_events(poison - 1))
    ledger.append(Event("user:1", "poison"))
    ledger.append_many(some_events(2 * BATCH, poison))
    with projector(ledger, [Count(), Timeline()]) as running:
        running.catch_up()
        assert [(failed.name, failed.position) for failed in running.failed] == [("count", poison)]
    assert len(rows(admin, "timeline")) == length
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(poison - 1,)]


def test_a_read_ahead_that_fails_is_made_again(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append_many(some_events(2 * BATCH))
    real, failed = next_entries, 0

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal failed
        if threading.current_thread() is not threading.main_thread():
            failed += 1
            raise Unavailable("unreachable")
        return (yield from real(*args, **options))

    monkeypatch.setattr(worker, "next_entries", failing)
    with projector(ledger, [ActorActivity()]) as running:
        assert running.catch_up() == 2 * BATCH
    assert failed == 2
    [(activity,)] = admin.execute("select sum(entries) from ledger_views.actor_activity").fetchall()
    assert activity == 2 * BATCH


def batch_of(count: int, after: int = 0, size: int = 1) -> Batches:
    return {1: [entry(after + number, after_json="x" * size) for number in range(1, count + 1)]}


def read_two(readers: Sequence[Reader]) -> Batches:
    return batch_of(2, readers[0].tail.position)


def ahead_of(batches: Batches) -> tuple[ReadAhead, dict[int, Lane]]:
    """What was read ahead of these batches, and lanes that stand where they end."""
    lanes = {1: Lane(Reader(MAIN, EMPTY_TAIL), [])}
    read_ahead = ReadAhead(read_two)
    with read_ahead.beyond(lanes, batches):
        lanes[1].reader.tail = batches[1][-1].tail
    return read_ahead, lanes


def test_it_is_taken_once() -> None:
    read_ahead, lanes = ahead_of(batch_of(MANY))
    assert [each.position for each in read_ahead.take(lanes)[1]] == [MANY + 1, MANY + 2]
    assert lanes[1].reader.tail.position == MANY
    assert read_ahead.take(lanes) == {}


def test_it_is_not_taken_by_lanes_that_are_elsewhere() -> None:
    """At another position, or at that with another hash, as after a restore of the database; or of another ledger."""
    for tail in (EMPTY_TAIL, Tail(MANY, b"\1" * 32, batch_of(MANY)[1][-1].recorded_at)):
        read_ahead, lanes = ahead_of(batch_of(MANY))
        lanes[1].reader.tail = tail
        assert read_ahead.take(lanes) == {}
    read_ahead, lanes = ahead_of(batch_of(MANY))
    lanes[2] = Lane(Reader(LedgerRef(2, "other"), EMPTY_TAIL), [])
    assert read_ahead.take(lanes) == {}


@pytest.mark.parametrize("batches", [batch_of(MANY - 1), batch_of(MANY, size=LARGE // MANY + 1)], ids=["few", "large"])
def test_nothing_is_read_ahead_of_few_or_large_entries(batches: Batches) -> None:
    read_ahead, lanes = ahead_of(batches)
    assert read_ahead.take(lanes) == {}


def test_nothing_is_kept_where_the_entries_before_could_not_be_applied() -> None:
    lanes, read_ahead = {1: Lane(Reader(MAIN, EMPTY_TAIL), [])}, ReadAhead(read_two)
    batches = batch_of(MANY)
    with pytest.raises(Unavailable), read_ahead.beyond(lanes, batches):
        raise Unavailable("unreachable")
    lanes[1].reader.tail = batches[1][-1].tail
    assert read_ahead.take(lanes) == {}
