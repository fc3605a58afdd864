"""An entry's row as Postgres takes it: the parameters of an INSERT or the bytes of a binary COPY, and what comes back.

write       the effect that records entries
confirm     compares what Postgres answers with what it was given
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from ledger.effects import CopyIn, Query, Row
from ledger.errors import OutcomeUnknown
from ledger.format import native
from ledger.format.chain import ChainedDraft
from ledger.format.times import microseconds
from ledger.store.columns import COLUMNS
from ledger.store.ledgers import SQL, LedgerRef


def row_params(ledger_id: int, link: ChainedDraft) -> tuple[Any, ...]:
    """The parameters of a row: ledger_id, then store/columns.py's COLUMNS."""
    if isinstance(link, native.ChainedDraft):
        params: tuple[Any, ...] = link.row_params(ledger_id)
        return params
    draft = link.draft
    event = draft.event
    return (
        ledger_id,
        link.position,
        draft.id,
        link.recorded_at,
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
        link.prev,
        link.hash,
    )


# PostgreSQL documentation, COPY, "Binary Format": a signature, then each row as its number of fields and each field as
# its length (-1 for NULL) and bytes. Packed by hand because this is the hot path of append_many.
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_FIELDS = 1 + len(COLUMNS)
_FIRST = struct.Struct(">hiiiqi16siqiq")  # the number of fields; ledger_id, position, id, recorded_at, occurred_at
_LENGTH = struct.Struct(">i")
_LAST = struct.Struct(">i16si32si32si32s")  # salt, body_hash, prev_hash, hash
_NULL = _LENGTH.pack(-1)
_CHUNK = 32 * 1024
"""Bytes that are handed on at a time: Postgres works on them while the next are made."""


def copy_data(ledger_id: int, links: Sequence[ChainedDraft]) -> Iterable[bytes]:
    """The data of ledgers.sql's `copy`, piece by piece, made while it is asked for."""
    if isinstance(links, native.Links):
        pieces: Iterable[bytes] = links.copy_data(ledger_id)
        return pieces
    return _copy_data(ledger_id, links)


def _copy_data(ledger_id: int, links: Iterable[ChainedDraft]) -> Iterator[bytes]:
    parts = [_SIGNATURE]
    size = 0
    for link in links:
        draft = link.draft
        event = draft.event
        parts += (
            _FIRST.pack(
                *(_FIELDS, 4, ledger_id, 8, link.position, 16, draft.id_bytes),
                *(8, _stored(link.recorded_at), 8, draft.occurred),
            ),
            _copy_texts(event.actor, event.actor_type, event.action),
            _copy_texts(event.resource_type, event.resource_id),
            _copy_field(draft.before),
            _copy_field(draft.after),
            _copy_field(draft.metadata),
            _LAST.pack(16, draft.salt, 32, draft.body_hash, 32, link.prev, 32, link.hash),
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


def write(ledger: LedgerRef, links: Sequence[ChainedDraft], alone: str | None = None) -> Query | CopyIn:
    """The effect that records entries, one by INSERT, more by COPY. Brings what `confirm` takes.

    alone: in a transaction of its own, which waits so many milliseconds for a lock. A COPY takes the links one by one,
    while Postgres works on those before.
    """
    if len(links) == 1:
        [link] = links
        params = row_params(ledger.ledger_id, link)
        echo = (link.position, params[2], link.hash)
        if alone is None:
            return Query(SQL["insert"], (*params, *echo))
        return Query(SQL["insert_alone"], (*params, alone, *echo))
    statements = SQL["copy"] if alone is None else f"{SQL['copy_alone']};\n{SQL['copy']}"
    copy = statements.format(ledger_id=ledger.ledger_id, lock_timeout=alone)
    return CopyIn(copy, copy_data(ledger.ledger_id, links))


def confirm(links: Sequence[ChainedDraft], rows: Sequence[Row]) -> None:
    """Compares what Postgres says that it recorded with what it was given. Raises OutcomeUnknown.

    rows: of an INSERT, position, id and hash of the entry; of a COPY, position and hash of the tail, as texts, which
    is the last entry within its transaction. The last entry's hash names all before it.
    """
    if not links:
        return
    last = links[-1]
    answer = rows[0] if len(rows) == 1 else None
    if answer not in ((last.position, last.draft.id, last.hash), (str(last.position), last.hash.hex())):
        raise unconfirmed(links, rows)


def unconfirmed(links: Sequence[ChainedDraft], rows: Sequence[Row]) -> OutcomeUnknown:
    """The error for an answer that is not about these entries."""
    last = links[-1]
    return OutcomeUnknown(
        f"entry {last.draft.id} was to be recorded at position {last.position} with hash {last.hash.hex()[:16]}…, and "
        f"Postgres, or what stands before it, answered {[row[:2] for row in rows]}: whether it was recorded "
        "is not known; append the same ids again"
    )
