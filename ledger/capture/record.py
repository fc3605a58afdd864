"""Records events in the outbox, from which the sealer appends them, and asks for their receipts. Plans."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from ledger.capture.context import all_in_context, in_context
from ledger.effects import Feed, Plan, Query, Wait
from ledger.errors import EventRejected, OutcomeUnknown, Unavailable, WaitTimeout
from ledger.events import Event, Receipt
from ledger.format.canonical import Draft
from ledger.statements import sql
from ledger.store.drafts import prepare, uuid7
from ledger.store.durability import FLUSH
from ledger.store.ledgers import LedgerRef

SQL = sql(__file__)
POLL = 0.01
"""Seconds between two looks for a receipt."""


def record(ledger: LedgerRef, event: Event) -> Plan[UUID]:
    """Puts an event into the outbox, in the open transaction or one of its own. Returns the id of the entry to come.

    Raises InvalidEvent.
    """
    draft = prepare(in_context(event), ledger.name)
    texts = (None if text is None else text.decode() for text in (draft.before, draft.after, draft.metadata))
    checked = draft.event
    id_: UUID
    [(id_,)] = yield Query(
        SQL["record"],
        (
            *(ledger.name, checked.actor, checked.action, checked.resource_type, checked.resource_id, *texts),
            *(draft.id if draft.named else None, checked.actor_type),
            None if checked.occurred_at is None else draft.occurred_at,
        ),
    )
    return id_


def record_many(ledger: LedgerRef, events: Iterable[Event]) -> Plan[list[UUID]]:
    """`record` for any number of events in one statement: all or none. Returns the ids in their order."""
    text = as_json(ledger.name, events)
    rows = yield Query(SQL["record_all"].format(ledger="%s", events="%s"), (ledger.name, text))
    return [id_ for (id_,) in rows]


def with_id(event: Event) -> Event:
    """The event with an id of its own: recorded twice, because the first time is not known to have succeeded, it is
    appended once.
    """
    if not isinstance(event, Event) or event.id is not None or event.idempotency_key is not None:
        return event
    return msgspec.structs.replace(event, id=UUID(bytes=uuid7(time.time_ns(), os.urandom(10))))


def unknown(events: Sequence[Event], error: Unavailable) -> OutcomeUnknown:
    """The error for events of which nobody knows whether they were recorded."""
    some = ", ".join(str(event.id or event.idempotency_key) for event in events[:3])
    some += f" and {len(events) - 3} more" if len(events) > 3 else ""
    return OutcomeUnknown(
        f"the connection was lost while recording {some}, and whether they were recorded could not be learnt "
        f"({error}): record the same ids again when Postgres is back"
    )


def as_json(ledger: str, events: Iterable[Event]) -> str:
    """The events as `record_all` takes them, for connections of any driver, with what the running context gives.

    Raises InvalidEvent.
    """
    return msgspec.json.encode([_members(prepare(event, ledger)) for event in all_in_context(events)]).decode()


def _members(draft: Draft) -> dict[str, object]:
    event = draft.event
    members = {
        "actor": event.actor,
        "action": event.action,
        "resource_type": event.resource_type,
        "resource_id": event.resource_id,
        "before": _raw(draft.before),
        "after": _raw(draft.after),
        "metadata": _raw(draft.metadata),
        "id": draft.id if draft.named else None,
        "actor_type": event.actor_type,
        "occurred_at": None if event.occurred_at is None else draft.occurred_at,
    }
    return {name: value for name, value in members.items() if value is not None}


def _raw(text: bytes | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)


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
