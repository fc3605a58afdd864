"""Rows of the outbox, and drafts of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from ledger.events import Event
from ledger.format import native
from ledger.format.canonical import Draft
from ledger.format.json_text import CheckedText
from ledger.store.drafts import prepare
from ledger.store.ledgers import LedgerRef


class Waiting(NamedTuple):
    """A row of the outbox. before, after, metadata: JSON texts. occurred_at: None unless the caller gave it."""

    seq: int
    id: UUID
    named: bool
    recorded_at: datetime
    occurred_at: datetime | None
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    before: str | None
    after: str | None
    metadata: str | None


def made_natively(rows: Sequence[Waiting], ledger: LedgerRef) -> Sequence[Draft | None]:
    """A draft for each row that the native core takes, else None."""
    if native.core is None:
        return [None] * len(rows)
    random = os.urandom(16 * len(rows))
    drafts: Sequence[Draft | None] = native.core.drafts_of_rows(native.encoder, rows, ledger.name, random)
    return drafts


def draft_of(row: Waiting, ledger: LedgerRef) -> Draft:
    """The same by Python. Raises InvalidEvent."""
    event = Event(
        *(row.actor, row.action, row.resource_type, row.resource_id, row.actor_type),
        *(_compact(row.before), _compact(row.after), _compact(row.metadata)),
        id=row.id,
        occurred_at=row.occurred_at,
    )
    return prepare(event, ledger.name, now=_nanoseconds(row.recorded_at))


def _compact(text: str | None) -> CheckedText | None:
    """A JSON text without blanks and line breaks between its parts, which stay to the letter."""
    return None if text is None else CheckedText(msgspec.json.format(text.encode(), indent=-1))


_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    since = moment - _1970
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
