"""Envelopes, bodies and entries read back from their bytes, as strictly as `canonical` writes them. Pure.

format.md, "Envelope" and "Body".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from ledger.events import Entry
from ledger.format.canonical import body_bytes, digest, envelope
from ledger.format.rules import ENVELOPE, Columns, broken
from ledger.format.times import microseconds

_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}\Z"
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(pattern=_NAME)]
Position = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Time = Annotated[datetime, Meta(tz=True)]
# Far more than the rules allow, so that a string too long is named by its rule; but no more, as strings are cached.
_Text = Annotated[str, Meta(max_length=1024)]
# A pattern takes longer to match than all else to decode, and each entry of a stream is decoded.
_HashText = Annotated[str, Meta(min_length=64, max_length=64)]

Texts: TypeAlias = tuple[bytes | None, bytes | None, bytes | None, bytes | None]
"""before, after and metadata of a body, None for null; its salt, None if it was erased."""
NO_BODY: Texts = (None, None, None, None)


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """format.md, "Envelope"; but for the rules that `rules` has."""

    action: _Text
    actor: _Text
    actor_type: _Text
    body: _HashText
    id: UUID
    ledger: _Text
    occurred_at: _Time
    position: Position
    prev: _HashText
    recorded_at: _Time
    resource_id: _Text | None
    resource_type: _Text | None
    v: Literal[1]

    def encode(self) -> bytes:
        entry = Entry(
            *(self.ledger, self.position, self.id, self.recorded_at, self.occurred_at),
            *(self.actor, self.actor_type, self.action, self.resource_type, self.resource_id),
            *(None, None, None, None),
            *(bytes.fromhex(self.body), bytes.fromhex(self.prev), b""),
        )
        return envelope(entry)

    def columns(self, entry_hash: bytes = bytes(32), body: Texts = NO_BODY) -> Columns:
        """The columns that it is stored in, with those of its body. entry_hash: 32 bytes."""
        return Columns(
            self.position,
            self.id.bytes,
            microseconds(self.recorded_at),
            microseconds(self.occurred_at),
            self.actor,
            self.actor_type,
            self.action,
            self.resource_type,
            self.resource_id,
            *body,
            bytes.fromhex(self.body),
            bytes.fromhex(self.prev),
            entry_hash,
        )


_envelope_of = msgspec.json.Decoder(Envelope).decode
_is_name = re.compile(_NAME).match


def read_envelope(text: bytes) -> Envelope:
    """The envelope of those bytes, whatever rules it breaks. Raises ValueError for all but the canonical form."""
    parsed = _envelope_of(text)
    if not _is_name(parsed.ledger):
        raise ValueError("its `ledger` is not a name that a ledger can have")
    try:
        canonical = parsed.encode()
    except OverflowError:
        raise ValueError("a time is outside the years 0001-9999") from None
    if canonical != text:
        raise ValueError("it is not in canonical form")
    return parsed


def parse_envelope(text: bytes) -> Envelope:
    """The envelope of those bytes. Raises ValueError, which says what is wrong, for what format.md does not allow."""
    parsed = read_envelope(text)
    for rule in broken(parsed.columns(), ENVELOPE):
        raise ValueError(rule.demands)
    return parsed


def read_entry(envelope_text: bytes, body_text: bytes, entry_hash: bytes) -> Entry:
    """The entry of those bytes; body_text is empty where the body was erased.

    Raises ValueError if a hash is not that of its bytes, or the bytes do not decode. Unlike `read_envelope`, it does
    not encode the envelope again, which takes longest: no entry of a ledger has the hash of one that is not canonical,
    and the caller compares the hash with the ledger's chain.
    """
    if digest(envelope_text) != entry_hash:
        raise ValueError("its hash is not that of its envelope")
    parsed = _envelope_of(envelope_text)
    if parsed.recorded_at.tzinfo is not UTC or parsed.occurred_at.tzinfo is not UTC:
        raise ValueError("a time is not in UTC")
    body_hash = bytes.fromhex(parsed.body)
    if body_text and digest(body_text) != body_hash:
        raise ValueError("body hash mismatch")
    before, after, metadata, salt = parse_body(body_text) if body_text else (None, None, None, None)
    return Entry(
        *(parsed.ledger, parsed.position, parsed.id, parsed.recorded_at, parsed.occurred_at),
        *(parsed.actor, parsed.actor_type, parsed.action, parsed.resource_type, parsed.resource_id),
        *(before, after, metadata, salt),
        *(body_hash, bytes.fromhex(parsed.prev), entry_hash),
    )


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: msgspec.Raw
    before: msgspec.Raw
    metadata: msgspec.Raw
    salt: str


_body_of = msgspec.json.Decoder(_Body).decode
_BLANKS = b" \t\n\r"


def parse_body(text: bytes) -> tuple[str | None, str | None, str | None, bytes]:
    """before, after and metadata as stored, None for `null`, and the salt, from a body's bytes.

    Raises ValueError for all but the form that is hashed, and for what nests too deeply to be looked at.
    """
    before, after, metadata, salt = body_columns(text)
    texts = [None if each is None else each.decode() for each in (before, after, metadata)]
    return texts[0], texts[1], texts[2], salt


def body_columns(text: bytes) -> tuple[bytes | None, bytes | None, bytes | None, bytes]:
    """The same, as bytes."""
    text.decode()
    try:
        parsed = _body_of(text)
    except RecursionError:
        raise ValueError("it is too deeply nested to be looked at") from None
    before, after, metadata, salt = (
        bytes(parsed.before),
        bytes(parsed.after),
        bytes(parsed.metadata),
        bytes.fromhex(parsed.salt),
    )
    if body_bytes(before, after, metadata, salt) != text or len(salt) != 16:
        before, after, metadata = _with_blanks(text, before, after, metadata)
        if body_bytes(before, after, metadata, salt) != text or len(salt) != 16:
            raise ValueError("it is not in the form that is hashed")
    return (
        None if before == b"null" else before,
        None if after == b"null" else after,
        None if metadata == b"null" else metadata,
        salt,
    )


def _with_blanks(text: bytes, before: bytes, after: bytes, metadata: bytes) -> tuple[bytes, bytes, bytes]:
    """The texts as another writer may have stored them, with the blanks around each that the decoder leaves out."""
    parts = []
    end = 0
    for head, value in ((b'{"after":', after), (b',"before":', before), (b',"metadata":', metadata)):
        start = end + len(head)
        end = text.index(value, start) + len(value)
        while text[end : end + 1] and text[end] in _BLANKS:
            end += 1
        parts.append(text[start:end])
    return parts[1], parts[0], parts[2]
