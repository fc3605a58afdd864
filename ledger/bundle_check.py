"""Verifies a bundle with no database (format.md, "Bundle"). Memory grows only with the number of erased entries."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

_LONGEST = 1024 * 1024
"""Bytes of a line; those of the format are far shorter."""
_STEP = 1_000
_HASH = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Short = Annotated[str, Meta(min_length=1, max_length=64)]
_Long = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[datetime, Meta(tz=True)]


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """format.md, "Envelope"."""

    action: Annotated[str, Meta(min_length=1, max_length=128)]
    actor: _Long
    actor_type: _Short
    body: _Hex
    id: UUID
    ledger: str
    occurred_at: _Time
    position: Annotated[int, Meta(ge=1)]
    prev: _Hex
    recorded_at: _Time
    resource_id: _Long | None
    resource_type: _Short | None
    v: Literal[1]
