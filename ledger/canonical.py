"""The one place that makes the hashed bytes. Everything here restates format.md; nothing else may build such bytes.

Pure: no clock, no randomness, no input or output. A Draft is an event made ready for the chain: all of its bytes but
those that only its position can give (position, prev, recorded_at), so that it is encoded once however often it is
offered.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from blake3 import blake3

from ledger.errors import InvalidEvent
from ledger.events import Entry, Event
from ledger.values import json_text

MAX_BODY = 256 * 1024
"""Bytes of a body, its punctuation and salt included."""
OWN_ACTIONS = "ledger."
"""Actions that begin so are the ledger's own (format.md, "Envelope")."""

_OWN_ACTION = b'"' + OWN_ACTIONS.encode()
_KEY_CONTEXT = "auditledger 2026-11 idempotency key to entry id"
_LIMITS = {"action": 128, "actor": 255, "actor_type": 64, "resource_type": 64, "resource_id": 255}
_string = msgspec.json.Encoder().encode
_json_string = lru_cache(maxsize=4096)(_string)  # actors, actions and types come again and again
# The envelope in three pieces: what an event gives, what its place in the chain gives, and the rest.
_HEAD = b'{"action":%b,"actor":%b,"actor_type":%b,"body":"%b","id":"%b","ledger":"%b","occurred_at":"%b",'
_LINK = b'"position":%d,"prev":"%b","recorded_at":"%b",'
_FOOT = b'"resource_id":%b,"resource_type":%b,"v":1}'
_WHOLE = _HEAD + _LINK + _FOOT


class Draft(msgspec.Struct, frozen=True):
    """An event ready for the chain. before, after, metadata: JSON texts, UTF-8; None for NULL."""

    event: Event
    id: UUID
    named: bool
    """Was the id the caller's (then it may be there already), or made for this append?"""
    occurred_at: datetime
    before: bytes | None
    after: bytes | None
    metadata: bytes | None
    salt: bytes
    body_hash: bytes
    envelope_head: bytes
    envelope_foot: bytes

    @property
    def size(self) -> int:
        """About how many bytes it takes, for bounding batches."""
        parts = (self.before, self.after, self.metadata, self.envelope_head)
        return sum(len(part) for part in parts if part is not None) + 256


def draft(event: Event, ledger: str, now: datetime, entry_id: UUID, salt: bytes, own: bool = False) -> Draft:
    """Checks and encodes an event for `ledger`.

    now: aware, UTC: used where the event has no occurred_at. entry_id: used where it has neither id nor
    idempotency_key. salt: 16 random bytes. own: allow the ledger's own actions.
    Raises InvalidEvent with the field or JSON path.
    """
    action = _member(event.action, "action")
    if action.startswith(_OWN_ACTION) and not own:
        raise InvalidEvent("action", f"actions that begin with {OWN_ACTIONS!r} are the ledger's own")
    if (event.resource_type is None) != (event.resource_id is None):
        raise InvalidEvent("resource_type", "resource_type and resource_id go together: give both or neither")
    before = json_text(event.before, "before")
    after = json_text(event.after, "after")
    metadata = json_text(event.metadata, "metadata")
    body = body_bytes(before, after, metadata, salt)
    if len(body) > MAX_BODY:
        raise InvalidEvent("body", f"before, after and metadata take {len(body)} bytes; at most {MAX_BODY} are allowed")
    chosen = _chosen_id(event)
    identity = chosen or entry_id
    occurred_at = now if event.occurred_at is None else utc(event.occurred_at, "occurred_at")
    body_hash = digest(body)
    head, foot = _envelope_ends(
        action=action,
        actor=_member(event.actor, "actor"),
        actor_type=_member(event.actor_type, "actor_type"),
        body_hash=body_hash,
        entry_id=identity,
        ledger=ledger,
        occurred_at=occurred_at,
        resource_type=b"null" if event.resource_type is None else _member(event.resource_type, "resource_type"),
        resource_id=b"null" if event.resource_id is None else _member(event.resource_id, "resource_id"),
    )
    named = chosen is not None
    return Draft(event, identity, named, occurred_at, before, after, metadata, salt, body_hash, head, foot)


def envelope_of(draft: Draft, position: int, prev: bytes, recorded_at: datetime) -> bytes:
    """The envelope's bytes (format.md, "Envelope") once the position is known. prev: 32 bytes."""
    link = _LINK % (position, prev.hex().encode(), timestamp(recorded_at))
    return draft.envelope_head + link + draft.envelope_foot


def envelope(entry: Entry) -> bytes:
    """The envelope's bytes of a recorded entry, made from its columns (format.md, "Envelope")."""
    return envelope_from(
        entry.ledger,
        entry.position,
        str(entry.id).encode(),
        timestamp(entry.recorded_at),
        timestamp(entry.occurred_at),
        entry.actor,
        entry.actor_type,
        entry.action,
        entry.resource_type,
        entry.resource_id,
        entry.body_hash,
        entry.prev_hash,
    )


def envelope_from(
    ledger: str,
    position: int,
    entry_id: bytes,
    recorded_at: bytes,
    occurred_at: bytes,
    actor: str,
    actor_type: str,
    action: str,
    resource_type: str | None,
    resource_id: str | None,
    body_hash: bytes,
    prev: bytes,
) -> bytes:
    """The same from the columns as a reader has them. entry_id and both times: as they stand in the envelope."""
    return _WHOLE % (
        _json_string(action),
        _json_string(actor),
        _json_string(actor_type),
        body_hash.hex().encode(),
        entry_id,
        ledger.encode(),
        occurred_at,
        position,
        prev.hex().encode(),
        recorded_at,
        _string(resource_id),
        _json_string(resource_type),
    )


def body(entry: Entry) -> bytes | None:
    """The body's bytes of a recorded entry, from the texts as stored; None where it was erased."""
    if entry.salt is None:
        return None
    texts = (entry.before_json, entry.after_json, entry.metadata_json)
    before, after, metadata = (None if text is None else text.encode() for text in texts)
    return body_bytes(before, after, metadata, entry.salt)


def body_bytes(before: bytes | None, after: bytes | None, metadata: bytes | None, salt: bytes) -> bytes:
    """format.md, "Body". The texts stand as they are; None is null; salt: 16 bytes."""
    return b'{"after":%b,"before":%b,"metadata":%b,"salt":"%b"}' % (
        b"null" if after is None else after,
        b"null" if before is None else before,
        b"null" if metadata is None else metadata,
        salt.hex().encode(),
    )


def digest(data: bytes) -> bytes:
    """BLAKE3-256: 32 bytes."""
    return blake3(data).digest()


def timestamp(moment: datetime) -> bytes:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ` of an aware datetime (format.md, "Envelope")."""
    in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[:26].encode() + b"Z"


_POSTGRES_EPOCH = datetime(2000, 1, 1)
_MINUTE = 60_000_000


def timestamp_from(microseconds: int) -> bytes:
    """`timestamp` of a Postgres timestamptz as it is stored: microseconds since 2000-01-01 UTC.

    Raises OverflowError outside the years 0001-9999.
    """
    minutes, rest = divmod(microseconds, _MINUTE)
    seconds, fraction = divmod(rest, 1_000_000)
    return b"%b%02d.%06dZ" % (_minute(minutes), seconds, fraction)


@lru_cache(maxsize=4096)
def _minute(minutes: int) -> bytes:
    return (_POSTGRES_EPOCH + timedelta(minutes=minutes)).isoformat(timespec="minutes").encode() + b":"


def utc(moment: datetime, path: str) -> datetime:
    """The same moment in UTC. Raises InvalidEvent for a naive one, and where UTC leaves the years 0001-9999."""
    if not isinstance(moment, datetime):
        raise InvalidEvent(path, f"must be a datetime, not {type(moment).__name__}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidEvent(path, "a naive datetime: give it a time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(path, "outside the years 0001-9999 in UTC") from None


def entry_id_for(idempotency_key: str) -> UUID:
    """The entry id that stands for an idempotency key: a UUIDv8 (RFC 9562, section 5.8) of its BLAKE3 hash."""
    _member(idempotency_key, "idempotency_key", 1024)
    hashed = blake3(idempotency_key.encode(), derive_key_context=_KEY_CONTEXT)
    number = int.from_bytes(hashed.digest(length=16), "big")
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=number | 8 << 76 | 2 << 62)


def _chosen_id(event: Event) -> UUID | None:
    """The caller's own id for the entry, if there is one."""
    if event.id is not None:
        if event.idempotency_key is not None:
            raise InvalidEvent("idempotency_key", "give an id or an idempotency_key, not both")
        if not isinstance(event.id, UUID):
            raise InvalidEvent("id", f"must be a UUID, not {type(event.id).__name__}")
        return event.id
    return None if event.idempotency_key is None else entry_id_for(event.idempotency_key)


def _envelope_ends(
    *,
    action: bytes,
    actor: bytes,
    actor_type: bytes,
    body_hash: bytes,
    entry_id: UUID,
    ledger: str,
    occurred_at: datetime,
    resource_type: bytes,
    resource_id: bytes,
) -> tuple[bytes, bytes]:
    """What stands before the position and after recorded_at. Strings are JSON already."""
    moment, hashed = timestamp(occurred_at), body_hash.hex().encode()
    head = _HEAD % (action, actor, actor_type, hashed, str(entry_id).encode(), ledger.encode(), moment)
    return head, _FOOT % (resource_id, resource_type)


def _member(value: Any, field: str, limit: int | None = None) -> bytes:
    """A string of the event as it stands in the envelope. Raises InvalidEvent where the format does not allow it."""
    limit = limit or _LIMITS[field]
    if not isinstance(value, str):
        raise InvalidEvent(field, f"must be a string, not {type(value).__name__}")
    if not 1 <= len(value) <= limit:
        raise InvalidEvent(field, f"must have 1 to {limit} characters, not {len(value)}")
    if "\0" in value:
        raise InvalidEvent(field, "contains U+0000")
    try:
        return _json_string(value)
    except UnicodeEncodeError:
        raise InvalidEvent(field, "contains a lone surrogate") from None
