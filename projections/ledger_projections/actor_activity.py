"""The view `actor_activity`: how often each actor did each action on each day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import msgspec

from ledger import Entry, Plan, Projection, Query, Writes, read_views
from ledger_projections.jsontext import write
from ledger_projections.statements import checked_limit, checked_text, statements

SQL = statements("actor_activity")


class ActorActivity(Projection):
    name = "actor_activity"
    version = 1
    tables = ("actor_activity",)
    schema = SQL["schema"]

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        groups: dict[tuple[str, date, str], list[Entry]] = {}
        for entry in entries:
            key = entry.actor, entry.occurred_at.astimezone(UTC).date(), entry.action
            groups.setdefault(key, []).append(entry)
        tx.execute(SQL["add"], (ledger_id, write([_summary(key, group) for key, group in groups.items()])))


class Activity(msgspec.Struct, frozen=True):
    """How often an actor did one action on one day (of occurred_at, UTC), and the earliest and latest occurred_at."""

    actor: str
    day: date
    action: str
    entries: int
    first_position: int
    last_position: int
    first_occurred_at: datetime
    last_occurred_at: datetime


def activity(ledger: tuple[int, str], actor: str | None = None, *, limit: int | None = None) -> Plan[list[Activity]]:
    """The activity of an actor, or of all: the newest day first, and within a day the most frequent action.

    ledger: as `Ledger.ref` gives it. Raises UsageError for an actor that no entry can have, and a limit below 1.
    """
    most = None if limit is None else checked_limit(limit)
    if actor is None:
        rows = yield from read_views(["actor_activity"], Query(SQL["of_all"], (ledger[0], most)))
    else:
        rows = yield from read_views(
            ["actor_activity"], Query(SQL["of_actor"], (ledger[0], checked_text("actor", actor), most))
        )
    return [Activity(*row) for row in rows]


def _summary(key: tuple[str, date, str], group: Sequence[Entry]) -> Activity:
    times = [entry.occurred_at for entry in group]
    return Activity(*key, len(group), group[0].position, group[-1].position, min(times), max(times))
