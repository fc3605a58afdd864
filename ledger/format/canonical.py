"""The one place that makes the hashed bytes. Everything here restates format.md; nothing else may build such bytes.

Pure: no clock, no randomness, no input or output. A Draft is an event made ready for the chain: all of its bytes but
those that only its position can give (position, prev, recorded_at), so that it is encoded once however often it is
offered.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from blake3 import blake3

from ledger.errors import InvalidEvent
from ledger.events import Entry, Event
from ledger.format.actions import OWN_ACTIONS, is_own
from ledger.format.json_text import json_text
from ledger.format.rules import LIMITS, MAX_BODY
from ledger.format.times import POSTGRES_EPOCH, microseconds, timestamp, timestamp_from, utc

_KEY_CONTEXT = "auditledger 2026-11 idempotency key to entry id"
_NO_ACTOR = ": name who did it, or do it within audit_context(actor=…)"
_string = msgspec.json.Encoder().encode
_json_string = lru_cache(maxsize=4096)(_string)  # actors, actions and types come again and again
_WHOLE = (
    b'{"action":%b,"actor":%b,"actor_type":%b,"body":"%b","id":"%b","ledger":"%b","occurred_at":"%b",'
    b'"position":%d,"prev":"%b","recorded_at":"%b","resource_id":%b,"resource_type":%b,"v":1}'
)


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event ready for the chain.

    event: what was said but for the body, in plain strings: nothing that the caller may change afterwards.
    id_bytes: 16. named: was the id the caller's (then it may be there already), or made for this append?
    occurred: microseconds since 2000-01-01 UTC. before, after, metadata: JSON texts, UTF-8; None for NULL.
    salt: 16 bytes. size: about how many bytes it takes, for bounding batches.
    """

    event: Event
    id_bytes: bytes
    named: bool
    occurred: int
    before: bytes | None
    after: bytes | None
    metadata: bytes | None
    salt: bytes
    body_hash: bytes
    envelope_head: bytes
    envelope_foot: bytes
    size: int

    @property
    def id(self) -> UUID:
        return UUID(bytes=self.id_bytes)

    @property
    def occurred_at(self) -> datetime:
        return POSTGRES_EPOCH + timedelta(microseconds=self.occurred)


def draft(event: Event, ledger: str, *, now: int, entry_id: bytes, salt: bytes, own: bool = False) -> Draft:
    """Checks and encodes an event for `ledger`.

    now: microseconds since 2000-01-01 UTC: used where the event has no occurred_at. entry_id: 16 bytes, used where it
    has neither id nor idempotency_key. salt: 16 random bytes. own: allow the ledger's own actions.
    Raises InvalidEvent with the field or JSON path.
    """
    event, given = _plain(event), event
    try:
        who = _who(event.action, event.actor, event.actor_type)
        foot = _foot(event.resource_type, event.resource_id)
    except TypeError:  # one that cannot be hashed, so no string: say which
        _who.__wrapped__(event.action, event.actor, event.actor_type)
        _foot.__wrapped__(event.resource_type, event.resource_id)
        raise
    if not own and is_own(event.action):
        raise InvalidEvent("action", f"actions that begin with {OWN_ACTIONS!r} are the ledger's own")
    before = json_text(given.before, "before")
    after = json_text(given.after, "after")
    metadata = json_text(given.metadata, "metadata")
    body = body_bytes(before, after, metadata, salt)
    if len(body) > MAX_BODY:
        raise InvalidEvent("body", f"before, after and metadata take {len(body)} bytes; at most {MAX_BODY} are allowed")
    chosen = _chosen_id(event)
    if chosen is not None:
        entry_id = chosen.bytes
    occurred = now if event.occurred_at is None else microseconds(utc(event.occurred_at, "occurred_at"))
    body_hash = digest(body)
    head = b'%b"%b","id":"%b","ledger":"%b","occurred_at":"%b",' % (
        who,
        body_hash.hex().encode(),
        uuid_text(entry_id),
        ledger.encode(),
        timestamp_from(occurred),
    )
    size = len(body) + len(head)
    return Draft(
        event, entry_id, chosen is not None, occurred, before, after, metadata, salt, body_hash, head, foot, size
    )


def envelope_of(draft: Draft, position: int, prev: bytes, recorded_at: bytes) -> bytes:
    """The envelope's bytes (format.md, "Envelope") once the position is known.

    prev: 32 bytes. recorded_at: as it stands in the envelope.
    """
    return b'%b"position":%d,"prev":"%b","recorded_at":"%b",%b' % (
        draft.envelope_head,
        position,
        prev.hex().encode(),
        recorded_at,
        draft.envelope_foot,
    )


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
    """The body's bytes of a recorded entry, from the texts as stored; None if it was erased."""
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


def uuid_text(raw: bytes) -> bytes:
    """16 bytes as they stand in the envelope."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def entry_id_for(idempotency_key: str) -> UUID:
    """The entry id that stands for an idempotency key: a UUIDv8 (RFC 9562, section 5.8) of its BLAKE3 hash."""
    member(idempotency_key, "idempotency_key", 1024)
    hashed = blake3(idempotency_key.encode(), derive_key_context=_KEY_CONTEXT)
    number = int.from_bytes(hashed.digest(length=16), "big")
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=number | 8 << 76 | 2 << 62)


def _plain(event: Event) -> Event:
    """The event without its body, its strings as Python's own, whatever a subclass says that they are."""
    fields = (
        event.actor,
        event.action,
        event.resource_type,
        event.resource_id,
        event.actor_type,
        event.idempotency_key,
    )
    actor, action, resource_type, resource_id, actor_type, key = (
        str.__str__(each) if isinstance(each, str) else each for each in fields
    )
    return Event(
        *(actor, action, resource_type, resource_id, actor_type),  # type: ignore[arg-type]
        id=event.id,
        idempotency_key=key,
        occurred_at=event.occurred_at,
    )


def _chosen_id(event: Event) -> UUID | None:
    """The caller's own id for the entry, if there is one."""
    if event.id is not None:
        if event.idempotency_key is not None:
            raise InvalidEvent("idempotency_key", "give an id or an idempotency_key, not both")
        if not isinstance(event.id, UUID):
            raise InvalidEvent("id", f"must be a UUID, not {type(event.id).__name__}")
        return event.id
    return None if event.idempotency_key is None else entry_id_for(event.idempotency_key)


# Who does what to which kind of thing comes again and again.


@lru_cache(maxsize=4096)
def _who(action: str, actor: str | None, actor_type: str) -> bytes:
    """The envelope's beginning, checked."""
    return b'{"action":%b,"actor":%b,"actor_type":%b,"body":' % (
        member(action, "action"),
        member(actor, "actor"),
        member(actor_type, "actor_type"),
    )


@lru_cache(maxsize=4096)
def _foot(resource_type: str | None, resource_id: str | None) -> bytes:
    """The envelope's end, checked."""
    if (resource_type is None) != (resource_id is None):
        raise InvalidEvent("resource_type", "resource_type and resource_id go together: give both or neither")
    if resource_type is None:
        return b'"resource_id":null,"resource_type":null,"v":1}'
    return b'"resource_id":%b,"resource_type":%b,"v":1}' % (
        member(resource_id, "resource_id"),
        member(resource_type, "resource_type"),
    )


def member(value: Any, field: str, limit: int | None = None) -> bytes:
    """A string of the event as it stands in the envelope. Raises InvalidEvent if the format does not allow it."""
    limit = limit or LIMITS[field]
    if not isinstance(value, str):
        way_on = _NO_ACTOR if field == "actor" and value is None else ""
        raise InvalidEvent(field, f"must be a string, not {type(value).__name__}{way_on}")
    if not 1 <= len(value) <= limit:
        raise InvalidEvent(field, f"must have 1 to {limit} characters, not {len(value)}")
    if "\0" in value:
        raise InvalidEvent(field, "contains U+0000")
    try:
        return _json_string(str.__str__(value))  # what a subclass holds, whatever it prints
    except UnicodeEncodeError:
        raise InvalidEvent(field, "contains a lone surrogate") from None
