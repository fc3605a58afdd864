"""The view `resource_state`: the current state of each resource, folded from the before and after of its entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledger import Entry, Plan, Projection, Query, Writes, read_views
from ledger_projections.jsontext import decoded, read, write
from ledger_projections.statements import checked_text, statements

SQL = statements("resource_state")


class ResourceState(Projection):
    name = "resource_state"
    version = 2
    tables = ("resource_state",)
    schema = SQL["schema"]

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        touched: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            if entry.resource_type is not None and entry.resource_id is not None:
                touched.setdefault((entry.resource_type, entry.resource_id), []).append(entry)
        if not touched:
            return
        keys = write([{"resource_type": type_, "resource_id": id_} for type_, id_ in touched])
        known = {row[:2]: row[2:] for row in tx.execute(SQL["load"], (keys, ledger_id))}
        rows = [_folded(resource, known.get(resource), about) for resource, about in touched.items()]
        tx.execute(SQL["save"], (ledger_id, write(rows)))

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        """Folds the resource anew, without that entry's before and after."""
        value, deleted = _fold_all(None, False, about)
        tx.execute(SQL["erase"], (_text(value), deleted, ledger_id, entry.resource_type, entry.resource_id))


class State(msgspec.Struct, frozen=True):
    """The state of a resource; `action`, `actor` and the times are those of the newest entry about it.

    state_json: the exact text; None if the resource was deleted, or no state is recorded.
    entries: the number of entries about it, from first_position to last_position.
    """

    resource_type: str
    resource_id: str
    state_json: str | None
    deleted: bool
    entries: int
    first_position: int
    last_position: int
    action: str
    actor: str
    occurred_at: datetime
    recorded_at: datetime

    @property
    def state(self) -> Any:
        what = f"the state of {self.resource_type}:{self.resource_id}"
        return None if self.state_json is None else decoded(what, self.state_json, msgspec.json.decode)


def state(ledger: tuple[int, str], resource_type: str, resource_id: str) -> Plan[State | None]:
    """The state of a resource; None if no entry is about it. ledger: as `Ledger.ref` gives it.

    Raises UsageError for a type or id that no entry can have.
    """
    resource = checked_text("resource_type", resource_type), checked_text("resource_id", resource_id)
    rows = yield from read_views(["resource_state"], Query(SQL["state"], (ledger[0], *resource)))
    return State(*rows[0]) if rows else None


def _folded(resource: tuple[str, str], known: tuple[Any, ...] | None, about: Sequence[Entry]) -> State:
    """The state after the entries about a resource. known: state_json, deleted, entries and first_position before."""
    text, deleted, count, first = known or (None, False, 0, about[0].position)
    value, deleted = _fold_all(read(text), deleted, about)
    last = about[-1]
    return State(
        *resource,
        _text(value),
        deleted,
        count + len(about),
        first,
        last.position,
        last.action,
        last.actor,
        last.occurred_at,
        last.recorded_at,
    )


def _text(value: Any) -> str | None:
    return None if value is None else write(value)


def _fold_all(value: Any, deleted: bool, about: Iterable[Entry]) -> tuple[Any, bool]:
    for entry in about:
        if not entry.erased:
            value, deleted = _fold(value, deleted, read(entry.before_json), read(entry.after_json))
    return value, deleted


def _fold(value: Any, deleted: bool, before: Any, after: Any) -> tuple[Any, bool]:
    """State and deletion after one entry, whose before and after may be a part of the resource, or all of it."""
    if after is None:
        return (value, deleted) if before is None else (None, True)
    if isinstance(value, dict) and isinstance(after, dict):
        removed = before.keys() - after.keys() if isinstance(before, dict) else ()
        return {key: item for key, item in value.items() if key not in removed} | after, False
    return after, False
