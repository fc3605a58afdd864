"""Drafts of events, with what format/canonical.py leaves to others because it is pure: the clock, an id, a salt."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

from ledger.errors import InvalidEvent
from ledger.events import Event
from ledger.format import native
from ledger.format.canonical import Draft, draft


def prepare(event: Event, ledger: str, *, own: bool = False, now: int | None = None) -> Draft:
    """A draft with the time, a UUIDv7 and a salt. Raises InvalidEvent.

    own: allow the ledger's own actions. now: nanoseconds since 1970; None for the clock's.
    """
    if not isinstance(event, Event):
        raise InvalidEvent("event", f"must be an Event, not {type(event).__name__}")
    randomness = os.urandom(26)
    if now is None:
        now = time.time_ns()
    if native.encoder is not None:
        made: Draft | None = native.encoder.prepare(event, ledger, now, randomness, own)
        if made is not None:
            return made
    microseconds = now // 1000 - _FROM_1970_TO_2000
    return draft(event, ledger, now=microseconds, entry_id=_uuid7(now, randomness), salt=randomness[10:], own=own)


def prepare_next(
    events: Iterator[Event], ledger: str, drafts: list[Draft], most: int, size: int, most_bytes: int
) -> tuple[tuple[Event] | None, int]:
    """Appends drafts of the next events to `drafts`, by the native core, until there are `most` or take `most_bytes`.

    size: the bytes that `drafts` takes. Returns an event that is left to `prepare`, before which it stopped, in a tuple
    (what comes may be None, which is no event), or None; and the bytes that `drafts` takes now.
    """
    left: tuple[Event] | None
    left, size = native.encoder.take(events, ledger, drafts, most, size, most_bytes, time.time_ns, os.urandom)
    return left, size


_FROM_1970_TO_2000 = 946_684_800_000_000
"""Microseconds."""


def _uuid7(now: int, randomness: bytes) -> bytes:
    """RFC 9562, section 5.7, with the sub-millisecond fraction of section 6.2, method 3.

    now: nanoseconds since 1970. randomness: 10 bytes or more.
    """
    milliseconds, nanoseconds = divmod(now, 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    rest = int.from_bytes(randomness[:8], "big") & (1 << 62) - 1
    return _UUID.pack((milliseconds & (1 << 48) - 1) << 16 | 7 << 12 | fraction, 2 << 62 | rest)


_UUID = struct.Struct(">QQ")
