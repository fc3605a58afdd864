"""The hashed bytes: golden vectors, properties of the canonical form, and the same bytes from SQL."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from ledger import Entry, Event
from ledger.errors import InvalidEvent
from ledger.events import GENESIS, Tail
from ledger.format import canonical, chain, times

OURS = json.loads((Path(__file__).parents[1] / "vectors/format.json").read_text())
SHARED = Path(__file__).parents[3] / "shared/vectors/format-v1.json"

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64)
moments = st.datetimes(timezones=st.just(UTC))
resources = st.none() | st.tuples(texts, texts)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def entry_of(columns: dict[str, Any]) -> Entry:
    """An Entry from a vector's columns, whose hashes and salt are in hex."""
    fields = dict(columns)
    for column in ("before", "after", "metadata"):
        fields[f"{column}_json"] = fields.pop(column)
    for column in ("body_hash", "prev_hash", "hash"):
        fields[column] = bytes.fromhex(fields[column])
    fields["salt"] = None if fields["salt"] is None else bytes.fromhex(fields["salt"])
    fields |= {"id": UUID(fields["id"])}
    fields |= {column: moment(fields[column]) for column in ("recorded_at", "occurred_at")}
    return Entry(**fields)


@pytest.mark.parametrize("vector", OURS, ids=lambda vector: vector["note"])
def test_our_vectors_are_reproduced(vector: dict[str, Any]) -> None:
    entry = entry_of(vector["entry"])
    assert canonical.envelope(entry) == vector["envelope"].encode()
    assert canonical.digest(canonical.envelope(entry)).hex() == vector["entry"]["hash"]
    body = canonical.body(entry)
    assert body == (None if vector["body"] is None else vector["body"].encode())
    assert entry.erased == (body is None)


def test_our_vectors_are_chains() -> None:
    entries = [entry_of(vector["entry"]) for vector in OURS]
    for _, ledger in groupby(entries, key=lambda entry: entry.ledger):
        run = list(ledger)
        assert chain.check_continues(Tail(0, GENESIS, run[0].recorded_at), run) == run[-1].tail


def test_what_is_written_is_what_the_vectors_say() -> None:
    """The way of an append (draft, then extend), apart from that of a check."""
    for vector in OURS:
        entry = entry_of(vector["entry"])
        compact = [json.dumps(getattr(entry, part), separators=(",", ":")) for part in ("before", "after", "metadata")]
        stored = [text or "null" for text in (entry.before_json, entry.after_json, entry.metadata_json)]
        if entry.salt is None or compact != stored:
            continue  # not as a writer would store it
        event = Event(
            **{key: getattr(entry, key) for key in ("actor", "action", "resource_type", "resource_id", "actor_type")},
            **{key: getattr(entry, key) for key in ("before", "after", "metadata", "id", "occurred_at")},
        )
        draft = canonical.draft(event, entry.ledger, now=0, entry_id=bytes(16), salt=entry.salt, own=True)
        tail = Tail(entry.position - 1, entry.prev_hash, entry.recorded_at)
        [link] = chain.extend(tail, [draft], entry.recorded_at)
        recorded_at = times.timestamp(entry.recorded_at)
        assert canonical.envelope_of(draft, entry.position, link.prev, recorded_at) == vector["envelope"].encode()
        assert link.hash == entry.hash


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there: only the project's own vectors are checked")
def test_the_shared_vectors_are_reproduced() -> None:
    tail = None
    for vector in json.loads(SHARED.read_text()):
        envelope = vector["envelope"]
        texts = {column: vector[column] for column in ("before", "after", "metadata", "salt")}
        texts = dict.fromkeys(texts) if vector["erased_later"] else texts
        named = {column: envelope[column] for column in envelope if column not in ("body", "prev", "v")}
        hashes = {"body_hash": envelope["body"], "prev_hash": envelope["prev"], "hash": vector["hash"]}
        entry = entry_of(named | texts | hashes)
        assert canonical.envelope(entry) == b64decode(vector["envelope_base64"])
        salt = bytes.fromhex(vector["salt"])
        parts = [None if vector[part] is None else vector[part].encode() for part in ("before", "after", "metadata")]
        assert canonical.body_bytes(parts[0], parts[1], parts[2], salt) == b64decode(vector["body_base64"])
        assert canonical.body(entry) == (None if vector["erased_later"] else b64decode(vector["body_base64"]))
        tail = chain.check_continues(tail or Tail(0, GENESIS, entry.recorded_at), [entry])


@given(
    actor=texts,
    kind=texts,
    action=texts,
    resource=resources,
    occurred=moments,
    recorded=moments,
    position=st.integers(1, 2**63 - 1),
)
def test_envelope_is_the_json_of_what_went_in(
    *,
    actor: str,
    kind: str,
    action: str,
    resource: tuple[str, str] | None,
    occurred: datetime,
    recorded: datetime,
    position: int,
) -> None:
    resource_type, resource_id = resource or (None, None)
    event = Event(
        actor=actor,
        actor_type=kind,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        occurred_at=occurred,
    )
    draft = canonical.draft(event, "main", now=0, entry_id=UUID(int=7).bytes, salt=bytes(16), own=True)
    envelope = canonical.envelope_of(draft, position, bytes(range(32)), times.timestamp(recorded))
    body = b'{"after":null,"before":null,"metadata":null,"salt":"00000000000000000000000000000000"}'
    expected = {
        "action": action,
        "actor": actor,
        "actor_type": kind,
        "body": blake3(body).hexdigest(),
        "id": "00000000-0000-0000-0000-000000000007",
        "ledger": "main",
        "occurred_at": occurred.strftime("%Y").zfill(4) + occurred.strftime("-%m-%dT%H:%M:%S.%fZ"),
        "position": position,
        "prev": bytes(range(32)).hex(),
        "recorded_at": recorded.strftime("%Y").zfill(4) + recorded.strftime("-%m-%dT%H:%M:%S.%fZ"),
        "resource_id": resource_id,
        "resource_type": resource_type,
        "v": 1,
    }
    assert list(json.loads(envelope).items()) == list(expected.items())
    assert envelope == json.dumps(expected, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


@given(moment=moments, hours=st.integers(-23, 23))
def test_times_are_the_same_moment_in_utc_whatever_the_zone(moment: datetime, hours: int) -> None:
    try:
        elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        return
    assert times.timestamp(times.utc(elsewhere, "occurred_at")) == times.timestamp(moment)


def test_a_moment_that_leaves_the_years_in_utc_is_refused() -> None:
    for year, hours in ((1, 5), (9999, -5)):
        edge = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=timezone(timedelta(hours=hours)))
        edge = edge.replace(hour=0 if year == 1 else 23)
        with pytest.raises(InvalidEvent, match=r"^occurred_at: outside the years 0001-9999"):
            times.utc(edge, "occurred_at")
