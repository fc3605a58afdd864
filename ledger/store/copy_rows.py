"""An entry's row as Postgres takes it: the parameters of an INSERT, the bytes of a binary COPY. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from ledger.format.chain import ChainedDraft
from ledger.format.times import microseconds


def insert_params(ledger_id: int, link: ChainedDraft) -> tuple[Any, ...]:
    """The parameters of ledgers.sql's `insert`, in its order."""
    draft = link.draft
    event = draft.event
    return (
        draft.id,
        draft.occurred_at,
        event.actor,
        event.actor_type,
        event.action,
        event.resource_type,
        event.resource_id,
        None if draft.before is None else draft.before.decode(),
        None if draft.after is None else draft.after.decode(),
        None if draft.metadata is None else draft.metadata.decode(),
        draft.salt,
        draft.body_hash,
        ledger_id,
        link.position,
        link.recorded_at,
        link.prev,
        link.hash,
    )


def row_params(ledger_id: int, link: ChainedDraft) -> tuple[Any, ...]:
    """The columns of `ledger.audit_logs` in the table's own order, for a parameter of its row type."""
    said = insert_params(ledger_id, link)
    return (ledger_id, link.position, said[0], link.recorded_at, *said[1:12], link.prev, link.hash)


# PostgreSQL documentation, COPY, "Binary Format": a signature, then each row as its number of fields and each field as
# its length (-1 for NULL) and bytes. Packed by hand because this is the hot path of append_many.
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_FIRST = struct.Struct(">hi16siq")
_LENGTH = struct.Struct(">i")
_LAST = struct.Struct(">i16si32siiiqiqi32si32s")
_NULL = _LENGTH.pack(-1)
_CHUNK = 32 * 1024
"""Bytes that are handed on at a time: Postgres works on them while the next are made."""


def copy_data(ledger_id: int, links: Iterable[ChainedDraft]) -> Iterator[bytes]:
    """The data of ledgers.sql's `copy`, piece by piece, made while it is asked for."""
    parts = [_SIGNATURE]
    size = 0
    for link in links:
        draft = link.draft
        event = draft.event
        parts += (
            _FIRST.pack(17, 16, draft.id_bytes, 8, draft.occurred),
            _copy_texts(event.actor, event.actor_type, event.action),
            _copy_texts(event.resource_type, event.resource_id),
            _copy_field(draft.before),
            _copy_field(draft.after),
            _copy_field(draft.metadata),
            _LAST.pack(
                *(16, draft.salt, 32, draft.body_hash, 4, ledger_id, 8, link.position),
                *(8, _stored(link.recorded_at), 32, link.prev, 32, link.hash),
            ),
        )
        size += draft.size
        if size > _CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    parts.append(_TRAILER)
    yield b"".join(parts)


_stored = lru_cache(maxsize=16)(microseconds)  # all entries of a batch have the same recorded_at


@lru_cache(maxsize=4096)
def _copy_texts(*texts: str | None) -> bytes:
    return b"".join([_copy_field(None if text is None else text.encode()) for text in texts])


def _copy_field(data: bytes | None) -> bytes:
    return _NULL if data is None else _LENGTH.pack(len(data)) + data
