"""Events that come with a known id: are they what was recorded under it, and what becomes of them? Pure.

An appender may not read bodies: of what is recorded it learns the envelope's fields, and asks the database which is the
first body that is not the one that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from ledger.errors import IdempotencyConflict
from ledger.events import Receipt
from ledger.format.canonical import Draft
from ledger.format.chain import ChainedDraft

_SAID = ("actor", "action", "resource_type", "resource_id", "actor_type")
_TEXTS = ("before", "after", "metadata")


class Repeat(NamedTuple):
    """The event was recorded before; its first receipt."""

    receipt: Receipt


Outcome: TypeAlias = ChainedDraft | Repeat | IdempotencyConflict
"""Recorded now, recorded before, or refused; the first two have a receipt."""


class Recorded(NamedTuple):
    """What an appender may know of a recorded entry: a row of ledgers.sql's `recorded`."""

    position: int
    id: UUID
    recorded_at: datetime
    occurred_at: datetime
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    hash: bytes
    erased: bool

    @property
    def receipt(self) -> Receipt:
        return Receipt(self.id, self.position, self.hash, self.recorded_at)


def same_content(one: Draft, other: Draft) -> bool:
    """Do two drafts of one id say the same? By their JSON texts: Python takes 1, 1.0 and True for equal."""
    return all(getattr(one.event, name) == getattr(other.event, name) for name in (*_SAID, "occurred_at")) and all(
        getattr(one, name) == getattr(other, name) for name in _TEXTS
    )


def difference(draft: Draft, recorded: Recorded) -> str | None:
    """The first field, those of the body aside, in which a repeated event differs from what was recorded.

    None where it is the same. An occurred_at that was not given is not compared.
    """
    event = draft.event
    for field in _SAID:
        if getattr(event, field) != getattr(recorded, field):
            return field
    if event.occurred_at is not None and draft.occurred_at != recorded.occurred_at:
        return "occurred_at"
    return None


def bodies(drafts: list[Draft]) -> tuple[list[Any], ...]:
    """The arrays of ids and texts that ledgers.sql's `first_difference` takes."""
    texts = ([None if (text := getattr(draft, name)) is None else text.decode() for draft in drafts] for name in _TEXTS)
    return ([draft.id for draft in drafts], *texts)


def sift(
    drafts: Sequence[Draft], repeats: Mapping[int, tuple[Recorded, str | None]], stop: bool
) -> tuple[list[Draft], list[Outcome | UUID]]:
    """Which drafts are still to be recorded; and for each draft its outcome, or the id that will have one."""
    fresh: dict[UUID, Draft] = {}
    outcomes: list[Outcome | UUID] = []
    for place, draft in enumerate(drafts):
        twin = fresh.get(draft.id)
        if place in repeats:
            recorded, field = repeats[place]
            if field is None:
                outcomes.append(Repeat(recorded.receipt))
                continue
            conflict = IdempotencyConflict(
                f"id {draft.id} was recorded at position {recorded.position} with another {field}: "
                "nothing was recorded for this event; an id stands for one event only"
            )
        elif twin is not None:
            if same_content(draft, twin):
                outcomes.append(draft.id)
                continue
            conflict = IdempotencyConflict(f"id {draft.id} stands for two different events of one batch")
        else:
            fresh[draft.id] = draft
            outcomes.append(draft.id)
            continue
        outcomes.append(conflict)
        if stop:
            break
    return list(fresh.values()), outcomes


def resolved(outcome: Outcome | UUID, recorded: dict[UUID, ChainedDraft | Repeat]) -> Outcome:
    """The outcome for an id of this batch: recorded now the first time, a repeat after that."""
    if not isinstance(outcome, UUID):
        return outcome
    found = recorded[outcome]
    if isinstance(found, ChainedDraft):
        recorded[outcome] = Repeat(found.receipt)
    return found
