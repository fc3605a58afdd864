"""The copies: the stream equals the store, and every view equals a fresh replay of itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger import Entry, Ledger, Plan, Query
from ledger.drivers.connections import create_redis_connection
from ledger.effects import Row
from ledger.format.canonical import body, envelope
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.stream import wire
from tests.simulation.violation import Violation

VIEWS = ("timeline", "resource_state", "resource_history", "actor_activity")


def stream_equals_store(ledger: Ledger, entries: Sequence[Entry]) -> Iterator[Violation]:
    """From its first entry to the ledger's end: each as Postgres has it; missing are erased ones alone."""
    [(epoch,)] = ledger.run(_rows(f"select epoch from ledger.tails where ledger_id = {ledger.ref.ledger_id}"))
    with create_redis_connection(str(ledger.settings.redis_url)) as client:
        rows = client.xrange(wire.key("main"))
    ids = [wire.StreamId.parse(id_) for id_, _ in rows]
    if ids != sorted(set(ids)) or any(id_.epoch != epoch for id_ in ids):
        yield Violation("misordered", f"the stream's ids are out of order, or not of epoch {epoch}")
    fields = {id_.position: fields for id_, (_, fields) in zip(ids, rows, strict=True)}
    first = min(fields, default=len(entries) + 1)
    for entry in entries[first - 1 :]:
        found = fields.pop(entry.position, None)
        if found is None and not entry.erased:
            yield Violation("lost", f"entry {entry.position} is not in the stream")
        elif found is not None and found != _published(entry):
            yield Violation("other", f"entry {entry.position} of the stream is not the ledger's")
    yield from (Violation("doubled", f"the stream has an entry {position} more") for position in fields)


def _published(entry: Entry) -> dict[bytes, bytes]:
    return {
        b"envelope": envelope(entry),
        b"body": body(entry) or b"",
        b"hash": entry.hash.hex().encode(),
    }


def views_equal_replay(ledger: Ledger, entries: Sequence[Entry]) -> Iterator[Violation]:
    live = {view: ledger.run(_rows(f"select {view}::text from ledger_views.{view} order by 1")) for view in VIEWS}
    ours = f"where ledger_id = {ledger.ref.ledger_id}"
    [(listed,)] = ledger.run(_rows(f"select count(*) from ledger_views.timeline {ours}"))
    if listed != len(entries):
        kind = "lost" if listed < len(entries) else "doubled"
        yield Violation(kind, f"timeline has {listed} rows of {len(entries)} entries")
    [(counted,)] = ledger.run(
        _rows(f"select coalesce(sum(entries), 0)::bigint from ledger_views.actor_activity {ours}")
    )
    if counted != len(entries):
        yield Violation("lost" if counted < len(entries) else "doubled", f"actor_activity counts {counted} entries")
    for projection in find_projections():
        rebuild(ledger.settings, projection)
    for view, rows in live.items():
        if (anew := ledger.run(_rows(f"select {view}::text from ledger_views.{view} order by 1"))) != rows:
            odd = sorted(set(rows) ^ set(anew))[:3]
            yield Violation("other", f"{view} is not what a replay makes: {odd}")


def _rows(sql: str) -> Plan[list[Row]]:
    rows: list[Row] = yield Query(sql)
    return rows
