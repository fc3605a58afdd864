"""Records events in the outbox, from which the sealer appends them, and asks for their receipts. Plans."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from ledger.effects import Feed, Plan, Query, Wait
from ledger.errors import EventRejected, WaitTimeout
from ledger.events import Event, Receipt
from ledger.statements import sql
from ledger.store.drafts import prepare
from ledger.store.durability import FLUSH
from ledger.store.ledgers import LedgerRef

SQL = sql(__file__)
POLL = 0.01
"""Seconds between two looks for a receipt."""


def record(ledger: LedgerRef, event: Event) -> Plan[UUID]:
    """Puts an event into the outbox, in the open transaction or one of its own. Returns the id of the entry to come.

    Raises InvalidEvent.
    """
    draft = prepare(event, ledger.name)
    texts = (None if text is None else text.decode() for text in (draft.before, draft.after, draft.metadata))
    checked = draft.event
    [(id_,)] = yield Query(
        SQL["record"],
        (
            *(ledger.name, checked.actor, checked.action, checked.resource_type, checked.resource_id, *texts),
            *(draft.id if draft.named else None, checked.actor_type),
            None if checked.occurred_at is None else draft.occurred_at,
        ),
    )
    return UUID(str(id_))


class ReceiptWait:
    """Waits until a recorded event is sealed. timeout: in seconds, from now on."""

    def __init__(self, id_: UUID, timeout: float) -> None:
        self._id = id_
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def polls(self, ledger: LedgerRef) -> Feed[Receipt]:
        """Asks until the receipt is there, and hands it out. Raises WaitTimeout, EventRejected."""
        while (receipt := (yield self._look(ledger))) is None:
            yield _pause()
        yield [receipt]

    def _look(self, ledger: LedgerRef) -> Plan[Receipt | None]:
        rows: list[Any] = yield Query(SQL["receipt"], (ledger.name, self._id))
        if not rows:
            if time.monotonic() >= self._end:
                raise WaitTimeout(
                    f"event {self._id} is not sealed in ledger {ledger.name!r} after {self._timeout:g} s: has the "
                    "transaction that recorded it committed, and is 'auditledger run' or 'auditledger seal' running?"
                )
            return None
        position, hash_, recorded_at, reason = rows[0]
        if position is None:
            raise EventRejected(f"event {self._id} was set aside, and is not in ledger {ledger.name!r}: {reason}")
        yield FLUSH
        return Receipt(self._id, position, hash_, recorded_at)


def _pause() -> Plan[None]:
    yield Wait(POLL)
