"""One event as a draft of the native core and as one of Python's, with the same clock, id and salt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from ledger.errors import InvalidEvent
from ledger.events import Event, Tail
from ledger.format import chain, native
from ledger.format.canonical import Draft, draft
from ledger.format.times import microseconds
from ledger.store import drafts, entry_rows
from ledger.store.drafts import prepare

NOW = 1_764_000_000_123_456_789
"""Nanoseconds since 1970."""
RANDOM = bytes(range(100, 126))


def of_core(event: Any, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> Any:
    """None where the core leaves it to Python."""
    return native.encoder.prepare(event, "main", now, randomness, own)


def of_python(event: Event, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> Draft:
    microseconds = now // 1000 - drafts._FROM_1970_TO_2000
    entry_id = drafts.uuid7(now, randomness)
    return draft(event, "main", now=microseconds, entry_id=entry_id, salt=randomness[10:], own=own)


TAIL = Tail(41, bytes(range(32)), datetime(2026, 11, 29, tzinfo=UTC))
AT = datetime(2026, 11, 29, 12, 0, 0, 7, tzinfo=UTC)
ATTRIBUTES = (
    *("event", "id", "id_bytes", "named", "occurred", "occurred_at", "before", "after", "metadata"),
    *("salt", "body_hash", "size"),
)


def same(made: Any, expected: Draft) -> None:
    """Attribute by attribute, type by type, and in its place in the chain."""
    for name in ATTRIBUTES:
        value = getattr(made, name)
        assert value == getattr(expected, name), name
        assert type(value) is type(getattr(expected, name)), name
    for value in msgspec.structs.astuple(made.event):
        assert type(value) in (str, type(None), type(expected.id), datetime)
    assert made.occurred_at.tzinfo is UTC
    [link] = links = chain.Links(TAIL, [expected], AT)
    [ours] = native.core.Links(native.encoder, [made], TAIL.position, TAIL.hash, microseconds(AT), AT)
    assert (ours.position, ours.prev, ours.hash, ours.recorded_at) == (link.position, link.prev, link.hash, AT)
    assert ours.receipt() == link.receipt() and ours.is_new
    assert ours.row_params(7) == entry_rows.row_params(7, link)
    data = native.core.Links(native.encoder, [made], TAIL.position, TAIL.hash, microseconds(AT), AT).copy_data(7)
    assert b"".join(data) == b"".join(entry_rows._copy_data(7, links))


def compare(event: Any, *, own: bool = False, now: int = NOW, randomness: bytes = RANDOM) -> bool:
    """Whether the core took it. Python must make the same, if it makes anything."""
    made = of_core(event, own=own, now=now, randomness=randomness)
    if made is not None:
        same(made, of_python(event, own=own, now=now, randomness=randomness))
    return made is not None


def outcome(event: Any) -> Any:
    """What `prepare` makes of it, but for what is random: an error, or all of the draft."""
    try:
        draft = prepare(event, "main")
    except InvalidEvent as error:
        return error.path, error.problem, str(error)
    except Exception as error:
        return type(error), str(error)
    occurred = None if draft.event.occurred_at is None else draft.occurred
    return draft.event, draft.named, occurred, draft.before, draft.after, draft.metadata, draft.size
