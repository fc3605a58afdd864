"""The one place that makes the hashed bytes. Everything here restates format.md; nothing else may build such bytes.

Pure: no clock, no randomness, no input or output. A Draft is an event made ready for the chain: all of its bytes but
those that only its position can give (position, prev, recorded_at), so that it is encoded once however often it is
offered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from blake3 import blake3

from ledger.errors import InvalidEvent
from ledger.events import Entry, Event

MAX_BODY = 256 * 1024
"""Bytes of a body, its punctuation and salt included."""
MAX_DEPTH = 64
"""Levels of objects and arrays in one value of a body."""
OWN_ACTIONS = "ledger."
"""Actions that begin so are the ledger's own (format.md, "Envelope")."""

_OWN_ACTION = b'"' + OWN_ACTIONS.encode()
_KEY_CONTEXT = "auditledger 2026-11 idempotency key to entry id"
_LIMITS = {"action": 128, "actor": 255, "actor_type": 64, "resource_type": 64, "resource_id": 255}
_encode = msgspec.json.Encoder(order="sorted").encode
_string = msgspec.json.Encoder().encode
_json_string = lru_cache(maxsize=4096)(_string)  # actors, actions and types come again and again
_PLAIN = frozenset({str, int, float, bool, type(None)})


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
    return b'%b%d,"prev":"%b","recorded_at":"%b%b' % (
        draft.envelope_head,
        position,
        prev.hex().encode(),
        timestamp(recorded_at),
        draft.envelope_foot,
    )


def envelope(entry: Entry) -> bytes:
    """The envelope's bytes of a recorded entry, made from its columns (format.md, "Envelope")."""
    head, foot = _envelope_ends(
        action=_json_string(entry.action),
        actor=_json_string(entry.actor),
        actor_type=_json_string(entry.actor_type),
        body_hash=entry.body_hash,
        entry_id=entry.id,
        ledger=entry.ledger,
        occurred_at=entry.occurred_at,
        resource_type=_json_string(entry.resource_type),
        resource_id=_string(entry.resource_id),
    )
    return b'%b%d,"prev":"%b","recorded_at":"%b%b' % (
        head,
        entry.position,
        entry.prev_hash.hex().encode(),
        timestamp(entry.recorded_at),
        foot,
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


def json_text(value: Any, path: str) -> bytes | None:
    """Compact UTF-8 JSON with sorted keys; None for None (SQL's NULL, hashed as `null`).

    Raises InvalidEvent with the JSON path for what the format does not allow: NaN, Infinity, U+0000, lone surrogates,
    keys that are not strings, more than 64 levels, naive datetimes, and whatever msgspec cannot encode.
    """
    if value is None:
        return None
    try:
        text = _encode(value)
    except RecursionError:
        raise InvalidEvent(path, f"deeper than {MAX_DEPTH} levels (or contains itself)") from None
    except (TypeError, ValueError, OverflowError) as error:
        for fault_path, problem in _faults(value, path, 1):
            raise InvalidEvent(fault_path, problem) from None
        raise InvalidEvent(path, f"cannot be written as JSON: {error}") from None
    if not _is_plain(value) or _is_suspect(text):
        for fault_path, problem in _faults(value, path, 1):
            raise InvalidEvent(fault_path, problem)
    return text


def _is_plain(value: Any) -> bool:
    """Nothing but dicts, lists, strings, numbers and booleans? Then its encoded text tells nearly all about it."""
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return kind in _PLAIN
    for item in value:
        if type(item) not in _PLAIN and not _is_plain(item):
            return False
    return True


def _is_suspect(text: bytes) -> bool:
    """May the text of a plain value hide a fault? NaN and Infinity become null, which may also stand there rightly."""
    return b"null" in text or b"\\u0000" in text or text.count(b"{") + text.count(b"[") > MAX_DEPTH


@lru_cache(maxsize=1024)
def timestamp(moment: datetime) -> bytes:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ` of an aware datetime (format.md, "Envelope")."""
    in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[:26].encode() + b"Z"


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


_HEAD = b'{"action":%b,"actor":%b,"actor_type":%b,"body":"%b","id":"%b","ledger":"%b","occurred_at":"%b","position":'
_FOOT = b'","resource_id":%b,"resource_type":%b,"v":1}'


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


def _bad_characters(text: str) -> str | None:
    if "\0" in text:
        return "contains U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate"
    return None


_LEAVES = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)


def _faults(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Walks a value for what the format does not allow: (JSON path, problem), first fault first."""
    match value:
        case None | bool() | int():
            pass
        case str():
            if problem := _bad_characters(value):
                yield path, problem
        case float() if not math.isfinite(value):
            yield path, f"{value} is not JSON"
        case Decimal() if not value.is_finite():
            yield path, f"{value} is not JSON"
        case datetime() if value.tzinfo is None or value.utcoffset() is None:
            yield path, "a naive datetime: give it a time zone"
        case float() | bytes() | bytearray() | memoryview() | date() | time() | timedelta() | UUID() | Decimal():
            pass
        case msgspec.Raw():
            yield path, "ready-made JSON (msgspec.Raw) is not checked: give the value itself"
        case dict() | list() | tuple() if depth > MAX_DEPTH:
            yield path, f"deeper than {MAX_DEPTH} levels"
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield path, f"the key {key!r} is not a string"
                elif problem := _bad_characters(key):
                    yield path, f"a key {problem}"
                else:
                    yield from _faults(item, f"{path}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _faults(item, f"{path}[{index}]", depth + 1)
        case _:
            try:
                if isinstance(value, msgspec.Raw):  # JSON already, which to_builtins does not take
                    plain = msgspec.json.decode(value)
                else:
                    plain = msgspec.to_builtins(value, builtin_types=_LEAVES)
            except (TypeError, ValueError, RecursionError) as error:
                yield path, f"cannot be written as JSON: {error}"
            else:
                yield from _faults(plain, path, depth)
