"""Events that come with a known id: whether they are what was recorded under it, and each draft's outcome.

An appender may not read bodies. Of a recorded entry it learns the envelope's fields, and asks the database which is the
first body that differs from the one that it holds.

    Outcome         what becomes of a draft: ChainedDraft, AlreadyRecorded or Conflict; each has `receipt()`
    compare         which drafts are recorded already, and the first field in which each differs
    sift, resolved  which drafts are still to be recorded, and the outcome of each
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeAlias
from uuid import UUID

import msgspec

from ledger.effects import Plan, Query
from ledger.errors import IdempotencyConflict
from ledger.events import Receipt
from ledger.format.canonical import Draft
from ledger.format.chain import ChainedDraft
from ledger.store.ledgers import SQL, LedgerRef

_FIELDS = ("actor", "action", "resource_type", "resource_id", "actor_type")
_TEXTS = ("before", "after", "metadata")
_BODY = "body (before, after or metadata)"


class AlreadyRecorded(msgspec.Struct, frozen=True):
    """An outcome: the event is recorded, and not by this append. first: the receipt of that entry."""

    is_new: ClassVar[bool] = False
    first: Receipt

    def receipt(self) -> Receipt:
        """The first receipt."""
        return self.first


class Conflict(msgspec.Struct, frozen=True):
    """An outcome: nothing was recorded, because the event's id stands for another event."""

    is_new: ClassVar[bool] = False
    error: IdempotencyConflict

    def receipt(self) -> NoReturn:
        """Raises IdempotencyConflict."""
        raise self.error


Outcome: TypeAlias = ChainedDraft | AlreadyRecorded | Conflict
"""is_new: whether this append recorded it. receipt(): the entry's receipt; raises the conflict if there is none."""


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


def same_content(one: Draft, other: Draft, *, with_time: bool = True) -> bool:
    """Whether two drafts of one id are the same event. By their JSON texts: Python takes 1, 1.0 and True for equal.

    with_time: whether the times that were given for them are compared too.
    """
    fields = (*_FIELDS, "occurred_at") if with_time else _FIELDS
    return all(getattr(one.event, name) == getattr(other.event, name) for name in fields) and all(
        getattr(one, name) == getattr(other, name) for name in _TEXTS
    )


def difference(draft: Draft, recorded: Recorded) -> str | None:
    """The first field, those of the body aside, in which a repeated event differs from what was recorded.

    None where it is the same. An occurred_at that was not given is not compared.
    """
    event = draft.event
    for field in _FIELDS:
        if getattr(event, field) != getattr(recorded, field):
            return field
    if event.occurred_at is not None and draft.occurred_at != recorded.occurred_at:
        return "occurred_at"
    return None


def bodies(drafts: list[Draft]) -> tuple[list[Any], ...]:
    """The arrays of ids and texts that ledgers.sql's `first_difference` takes."""
    texts = ([None if (text := getattr(draft, name)) is None else text.decode() for draft in drafts] for name in _TEXTS)
    return ([draft.id for draft in drafts], *texts)


def compare(
    ledger: LedgerRef, drafts: Sequence[Draft], recorded: Sequence[Recorded], stop: bool
) -> Plan[dict[int, tuple[Recorded, str | None]]]:
    """Of each draft whose id is recorded, by its index: the entry, and the first field that differs, or None.

    Of an erased entry only the envelope can be compared. Of bodies the database says which is the first that differs,
    and compares each id once a question. stop: what comes after the first that differs does not matter.
    """
    duplicates, unchecked = _compare_envelopes(drafts, recorded)
    while unchecked:
        by_id = {drafts[index].id: index for index in reversed(unchecked)}
        asked = sorted(by_id.values())
        params = (ledger.ledger_id, *bodies([drafts[index] for index in asked]))
        [(number,)] = yield Query(SQL["first_difference"], params)
        checked = set(asked[:number])
        unchecked = [index for index in unchecked if index not in checked]
        if number is not None:
            differs = asked[number - 1]
            duplicates[differs] = (duplicates[differs][0], _BODY)
            if stop:
                unchecked = [index for index in unchecked if index < differs]
    return duplicates


def compare_reading(
    ledger: LedgerRef, drafts: Sequence[Draft], recorded: Sequence[Recorded]
) -> Plan[dict[int, tuple[Recorded, str | None]]]:
    """`compare` for who may read bodies: in one question, however many differ."""
    duplicates, unchecked = _compare_envelopes(drafts, recorded)
    if unchecked:
        params = (*bodies([drafts[index] for index in unchecked]), ledger.ledger_id)
        for (number,) in (yield Query(SQL["differing"], params)):
            differs = unchecked[number - 1]
            duplicates[differs] = (duplicates[differs][0], _BODY)
    return duplicates


def _compare_envelopes(
    drafts: Sequence[Draft], recorded: Sequence[Recorded]
) -> tuple[dict[int, tuple[Recorded, str | None]], list[int]]:
    """As `compare`, but for bodies; and the indexes of the drafts whose bodies are still to be compared."""
    known = {entry.id: entry for entry in recorded}
    duplicates = {
        index: (known[draft.id], difference(draft, known[draft.id]))
        for index, draft in enumerate(drafts)
        if draft.id in known
    }
    return duplicates, [index for index, (entry, field) in duplicates.items() if field is None and not entry.erased]


def sift(
    drafts: Sequence[Draft], duplicates: Mapping[int, tuple[Recorded, str | None]], stop: bool
) -> tuple[list[Draft], list[Outcome | bytes]]:
    """The drafts that are still to be recorded; and for each draft its outcome, or the id (16 bytes) of one to come.

    duplicates: as `compare` returns them. stop: outcomes end with the first conflict.
    """
    fresh: dict[bytes, Draft] = {}
    outcomes: list[Outcome | bytes] = []
    for index, draft in enumerate(drafts):
        same_id = fresh.get(draft.id_bytes)
        if index in duplicates:
            entry, field = duplicates[index]
            if field is None:
                outcomes.append(AlreadyRecorded(entry.receipt))
                continue
            problem = (
                f"id {draft.id} was recorded at position {entry.position} with another {field}: "
                "nothing was recorded for this event; an id stands for one event only"
            )
        elif same_id is not None:
            if same_content(draft, same_id):
                outcomes.append(draft.id_bytes)
                continue
            problem = f"id {draft.id} stands for two different events of one batch"
        else:
            fresh[draft.id_bytes] = draft
            outcomes.append(draft.id_bytes)
            continue
        outcomes.append(Conflict(IdempotencyConflict(problem)))
        if stop:
            break
    return list(fresh.values()), outcomes


def resolved(outcomes: Sequence[Outcome | bytes], links: Iterable[ChainedDraft]) -> list[Outcome]:
    """The outcomes, with what became of each id of this batch: recorded now the first time, already after that.

    outcomes: as `sift` returns them. links: what was recorded now.
    """
    recorded: dict[bytes, ChainedDraft | AlreadyRecorded] = {link.draft.id_bytes: link for link in links}
    result: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, bytes):
            first = recorded[outcome]
            recorded[outcome] = AlreadyRecorded(first.receipt())
            result.append(first)
        else:
            result.append(outcome)
    return result
