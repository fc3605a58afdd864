"""The view `resource_history`: the fields that each entry about a resource changed, with both values of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from ledger import Entry, Plan, Projection, Query, Writes, read_views
from ledger_projections.diff import Change, changes
from ledger_projections.jsontext import decoded, read, write
from ledger_projections.statements import checked_limit, checked_text, statements

SQL = statements("resource_history")
_decode_changes = msgspec.json.Decoder(list[Change]).decode
_COLUMNS = (
    *("ledger_id", "resource_type", "resource_id", "position"),
    *("recorded_at", "occurred_at", "actor", "action", "changes"),
)
_TYPES = ("int4", "text", "text", "int8", "timestamptz", "timestamptz", *["text"] * 3)


class ResourceHistory(Projection):
    name = "resource_history"
    version = 2
    tables = ("resource_history",)
    schema = SQL["schema"]

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        tx.copy(
            "resource_history",
            _COLUMNS,
            (
                (
                    *(ledger_id, entry.resource_type, entry.resource_id, entry.position),
                    *(entry.recorded_at, entry.occurred_at, entry.actor, entry.action),
                    None if entry.erased else write(changes(read(entry.before_json), read(entry.after_json))),
                )
                for entry in entries
                if entry.resource_type is not None
            ),
            _TYPES,
        )

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        tx.execute(SQL["erase"], (ledger_id, entry.resource_type, entry.resource_id, entry.position))


class HistoryItem(msgspec.Struct, frozen=True):
    """The changes of one entry to its resource. changes_json: the exact text; None if the body was erased."""

    resource_type: str
    resource_id: str
    position: int
    recorded_at: datetime
    occurred_at: datetime
    actor: str
    action: str
    changes_json: str | None

    @property
    def changes(self) -> list[Change]:
        if self.changes_json is None:
            return []
        changes: list[Change] = decoded(f"what entry {self.position} changed", self.changes_json, _decode_changes)
        return changes


def history(
    ledger: tuple[int, str], resource_type: str, resource_id: str, *, limit: int = 100, after_position: int = 0
) -> Plan[list[HistoryItem]]:
    """The changes of a resource in order, at most `limit`, after a position. ledger: as `Ledger.ref` gives it.

    Raises UsageError for a type or id that no entry can have, and a limit below 1.
    """
    resource = checked_text("resource_type", resource_type), checked_text("resource_id", resource_id)
    rows = yield from read_views(
        ["resource_history"], Query(SQL["history"], (ledger[0], *resource, after_position, checked_limit(limit)))
    )
    return [HistoryItem(*row) for row in rows]
