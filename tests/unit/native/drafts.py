"""One event as a draft of the native core and as one of Python's, with the same clock, id and salt."""

from __future__ import annotations

from typing import Any

from ledger.events import Event
from ledger.format import native
from ledger.format.canonical import Draft, draft
from ledger.store import drafts

NOW = 1_764_000_000_123_456_789
"""Nanoseconds since 1970."""
RANDOM = bytes(range(100, 126))


def of_core(event: Any, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> Any:
    """None where the core leaves it to Python."""
    return native.encoder.prepare(event, "main", now, randomness, own)


def of_python(event: Event, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> Draft:
    microseconds = now // 1000 - drafts._FROM_1970_TO_2000
    entry_id = drafts._uuid7(now, randomness)
    return draft(event, "main", now=microseconds, entry_id=entry_id, salt=randomness[10:], own=own)
