"""Envelopes read back from their bytes, as strictly as `canonical` writes them (format.md, "Envelope"). Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ledger.canonical import envelope
from ledger.events import Entry

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Position = Annotated[int, Meta(ge=1)]
_Text64 = Annotated[str, Meta(min_length=1, max_length=64)]
_Text128 = Annotated[str, Meta(min_length=1, max_length=128)]
_Text255 = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[datetime, Meta(tz=True)]


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """format.md, "Envelope"."""

    action: _Text128
    actor: _Text255
    actor_type: _Text64
    body: Hash
    id: UUID
    ledger: Name
    occurred_at: _Time
    position: Position
    prev: Hash
    recorded_at: _Time
    resource_id: _Text255 | None
    resource_type: _Text64 | None
    v: Literal[1]

    def encode(self) -> bytes:
        entry = Entry(
            *(self.ledger, self.position, self.id, self.recorded_at, self.occurred_at),
            *(self.actor, self.actor_type, self.action, self.resource_type, self.resource_id),
            *(None, None, None, None),
            *(bytes.fromhex(self.body), bytes.fromhex(self.prev), b""),
        )
        return envelope(entry)


_envelope_of = msgspec.json.Decoder(Envelope).decode


def parse_envelope(text: bytes) -> Envelope:
    """The envelope of those bytes. Raises ValueError, which says what is wrong, for all but the canonical form."""
    said = _envelope_of(text)
    if (said.resource_type is None) != (said.resource_id is None):
        raise ValueError("resource_type and resource_id go together")
    if "\0" in f"{said.action}{said.actor}{said.actor_type}{said.resource_type}{said.resource_id}":
        raise ValueError("a string holds U+0000")
    try:
        canonical = said.encode()
    except OverflowError:
        raise ValueError("a time is outside the years 0001-9999") from None
    if canonical != text:
        raise ValueError("it is not in canonical form")
    return said
