"""What the native core takes: it must come out as Python makes it. What it refuses raises ValueError, nothing else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ledger import Event
from ledger.errors import EvidenceRefused
from ledger.events import GENESIS
from ledger.format import native
from ledger.format.canonical import digest
from ledger.format.findings import BEGINNING
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS, Target
from tests.support.both import checks, drafts, entries, messages
from tests.support.copy_messages import HEADER, TRAILER, message
from tests.support.forging import forged

__all__ = ["TARGETS"]  # those of targets.py, and these

_PART = b"\x1e"


def target(sound: Callable[[], list[bytes]]) -> Callable[[Callable[[bytes], None]], None]:
    """A target where the core is installed. What it refuses with ValueError is refused as it should be."""

    def add(check: Callable[[bytes], None]) -> None:
        def tried(data: bytes) -> None:
            try:
                check(data)
            except ValueError as error:
                raise EvidenceRefused(str(error)) from None

        if native.core is not None:
            TARGETS[check.__name__] = Target(sound, tried)

    return add


def _rows() -> list[bytes]:
    rows = [
        forged(),
        forged(resource_type="invoice", resource_id="inv_7", before=b"{}", metadata=b'["a",{"b":null}]'),
        forged(salt=None, after=None),
        forged(action="ledger.entry_erased", resource_type="ledger.entry", resource_id="1"),
        forged(actor='\u00e9\u20ac\U0001f600"\\\n'),
    ]
    return [message(row) for row in rows] + [HEADER + message(rows[0]), TRAILER, HEADER]


@target(_rows)
def copy_message(data: bytes) -> None:
    messages.tried([data])
    row = native.core.columns(data)
    if row is not None:
        checks.compare_one(row, BEGINNING._replace(recorded=0))
        checks.compare_runs([row] if isinstance(row[0], int) else [], BEGINNING, {}, 1)


@target(_rows)
def hashed_row(data: bytes) -> None:
    """The same with true hashes, so that what the row says is looked at."""
    row = native.core.columns(data)
    if row is None or not isinstance(row[0], int):
        return
    fields = ("recorded", "occurred", "actor", "actor_type", "action", "resource_type", "resource_id")
    columns = dict(zip(fields, row[2:9], strict=True))
    bodies = dict(zip(("before", "after", "metadata", "salt"), row[9:13], strict=True))
    changed = forged(1, GENESIS, id=row[1], **columns, **bodies)
    checks.compare_one(changed, BEGINNING._replace(recorded=changed.recorded))
    checks.compare_runs([changed], BEGINNING, {}, 1)


@target(lambda: [_PART.join(parts) for parts in seeds.wires()])
def hashed_stream_entry(data: bytes) -> None:
    """An entry of the stream whose hashes are true, whatever it says."""
    envelope, _, rest = data.partition(_PART)
    body = rest.partition(_PART)[0]
    for named in (envelope, *(envelope.replace(old, digest(body).hex().encode()) for old in _body_hashes())):
        parts = [named, body, digest(named).hex().encode()]
        entries.compare_parts(parts)
        entries.both([b"envelope", parts[0], b"body", parts[1], b"hash", parts[2]])


def _body_hashes() -> list[bytes]:
    return [digest(body).hex().encode() for _, body, _ in seeds.wires()]


@target(lambda: [body for _, body in seeds.vectors() if body] + [b'[1,2.5,"a",null,true,{"a":{"b":[]}}]'])
def event_value(data: bytes) -> None:
    """A JSON value as the body of an event."""
    value = msgspec.json.decode(data)
    assert drafts.compare(Event("user:42", "invoice.updated", after=value)) or b"u0000" in data or _depth(value) > 64


def _depth(value: object) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(_depth, items), default=0)
