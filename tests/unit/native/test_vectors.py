"""The golden vectors on both: the Python of ledger/format, called directly, and the native core by itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger import Event
from ledger.events import Entry, Tail
from ledger.format import canonical, chain, decode, native
from ledger.format.findings import Link, Record
from ledger.format.times import microseconds
from tests.support.both import checks, entries, published
from tests.support.copy_messages import message
from tests.unit.test_format import OURS, entry_of


def row_of(entry: Entry) -> Record:
    texts = (entry.before_json, entry.after_json, entry.metadata_json)
    before, after, metadata = (None if text is None else text.encode() for text in texts)
    columns: list[Any] = [
        *(entry.position, entry.id.bytes, microseconds(entry.recorded_at), microseconds(entry.occurred_at)),
        *(entry.actor, entry.actor_type, entry.action, entry.resource_type, entry.resource_id),
        *(before, after, metadata, entry.salt, entry.body_hash, entry.prev_hash, entry.hash),
    ]
    return Record(*columns)


VECTORS = [pytest.param(vector, id=vector["note"]) for vector in OURS]


@pytest.mark.parametrize("vector", VECTORS)
def test_rows(vector: dict[str, Any]) -> None:
    """A stored row: its envelope and body, its hash, and the entry that a reader gets."""
    entry = entry_of(vector["entry"])
    row, envelope, body = row_of(entry), vector["envelope"].encode(), (vector["body"] or "").encode()
    assert (row.envelope(entry.ledger), row.body() or b"") == (envelope, body)
    before = Link(entry.position - 1, entry.prev_hash, entry.prev_hash, row.recorded)
    publish = native.core.Publish(entry.ledger)
    publish.go_on(*before)
    made: list[Any] = []
    taken = publish.take([message(row)], 0, 2**30, made)
    if row.action.startswith("ledger."):
        assert taken == (0, 0)
    else:
        assert made == [(entry.position, envelope, body, vector["entry"]["hash"])]
        check = native.core.Check(entry.ledger, set(), False)
        check.go_on(*before)
        assert check.take([message(row)], 0) == ((0, 0) if row.salt is None or b"\\u" in body else (1, 1))
    if entry.ledger == "main":
        checks.compare_one(row, before)
        published.compare([row], before)
    read: list[Entry] = []
    native.entries.take(entry.ledger, [message(row)], read)
    assert read == [entry]


@pytest.mark.parametrize("vector", VECTORS)
def test_stream_entries(vector: dict[str, Any]) -> None:
    entry = entry_of(vector["entry"])
    parts = vector["envelope"].encode(), (vector["body"] or "").encode(), vector["entry"]["hash"].encode()
    assert entries.compare_parts(parts) == (b"\\" not in parts[0] and b"\\u" not in parts[1])
    read = decode.read_entry(*parts[:2], bytes.fromhex(parts[2].decode()))
    as_read = [None if text == "null" else text for text in (entry.before_json, entry.after_json, entry.metadata_json)]
    assert read == replace(entry, before_json=as_read[0], after_json=as_read[1], metadata_json=as_read[2])


def test_events() -> None:
    """Those that a writer of this package would store so: drafts and hashes of both."""
    taken = 0
    for vector in OURS:
        entry = entry_of(vector["entry"])
        if entry.salt is None:
            continue
        event = Event(
            **{key: getattr(entry, key) for key in ("actor", "action", "resource_type", "resource_id", "actor_type")},
            **{key: getattr(entry, key) for key in ("before", "after", "metadata", "id", "occurred_at")},
        )
        ours = native.encoder.prepare(event, entry.ledger, 0, bytes(10) + entry.salt, True)
        draft = canonical.draft(event, entry.ledger, now=0, entry_id=bytes(16), salt=entry.salt, own=True)
        if draft.body_hash != entry.body_hash:
            continue  # not as a writer would store it
        tail = Tail(entry.position - 1, entry.prev_hash, entry.recorded_at)
        [reference] = chain.Links(tail, [draft], entry.recorded_at)
        [adopted] = _links(tail, draft, entry)
        assert reference.hash == adopted.hash == entry.hash
        if ours is not None:
            [link] = _links(tail, ours, entry)
            assert (link.hash, ours.body_hash, ours.salt) == (entry.hash, entry.body_hash, entry.salt)
            taken += 1
    assert taken >= 10


def _links(tail: Tail, draft: Any, entry: Entry) -> Any:
    at = microseconds(entry.recorded_at)
    return native.core.Links(native.encoder, [draft], tail.position, tail.hash, at, entry.recorded_at)
