"""Envelopes and bodies read back from their bytes, as strictly as `canonical` writes them. Pure.

format.md, "Envelope" and "Body".
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from ledger.events import Entry
from ledger.format.canonical import body_bytes, envelope
from ledger.format.rules import ENVELOPE, Columns, broken
from ledger.format.times import microseconds

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Position = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Time = Annotated[datetime, Meta(tz=True)]
# Far more than the rules allow, so that a string too long is named by its rule; but no more, as strings are cached.
_Text = Annotated[str, Meta(max_length=1024)]

Texts: TypeAlias = tuple[bytes | None, bytes | None, bytes | None, bytes | None]
"""before, after and metadata of a body, None for null; its salt, None if it was erased."""
NO_BODY: Texts = (None, None, None, None)


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """format.md, "Envelope"; but for the rules that `rules` has."""

    action: _Text
    actor: _Text
    actor_type: _Text
    body: Hash
    id: UUID
    ledger: Name
    occurred_at: _Time
    position: Position
    prev: Hash
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


def read_envelope(text: bytes) -> Envelope:
    """The envelope of those bytes, whatever rules it breaks. Raises ValueError for all but the canonical form."""
    parsed = _envelope_of(text)
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
