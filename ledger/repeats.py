"""Is an event that comes with a known id the one that was recorded under it? Pure.

An appender may not read bodies: of what is recorded it learns the envelope's fields, and asks the database whether the
texts of a body differ from those that it holds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ledger.canonical import Draft
from ledger.events import Receipt

_SAID = ("actor", "action", "resource_type", "resource_id", "actor_type")
_TEXTS = ("before", "after", "metadata")


class Recorded(NamedTuple):
    """What an appender may know of a recorded entry: a row of store.sql's `recorded`."""

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


def twins(one: Draft, other: Draft) -> bool:
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
    """The arrays of ids and texts that store.sql's `differences` takes."""
    texts = ([None if (text := getattr(draft, name)) is None else text.decode() for draft in drafts] for name in _TEXTS)
    return ([draft.id for draft in drafts], *texts)
