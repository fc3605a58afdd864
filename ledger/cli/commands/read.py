"""tail, and the built-in views: query, history, state, activity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import click
import msgspec
from ledger_projections import Activity, HistoryItem, State, activity, history, search, state

from ledger.cli.app import Command
from ledger.cli.connect import opened
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import cut, entry_table, line, raw_json, short_time, table, time_text, write_all, write_json
from ledger.cli.params import AFTER, COUNT, POSITION, Moment, Resource
from ledger.cli.text import note
from ledger.client import Ledger
from ledger.events import Entry
from ledger.projection.base import reached

_resource = click.argument("resource", type=Resource(), metavar="TYPE:ID")


@click.command("tail", cls=Command)
@click.option("-n", "count", type=click.IntRange(0, 10**9), help="How many; 10, or all with --from.")
@click.option("--from", "first", type=POSITION, metavar="POSITION", help="Begin at this position.")
@click.option("-f", "--follow", is_flag=True, help="Go on with entries as they come.")
@pass_shared
def tail_command(shared: Shared, count: int | None, first: int | None, follow: bool) -> None:
    """The newest entries, oldest of them first.

    --follow works from Postgres alone; with Redis it is quicker. Every entry that it shows was checked on arrival.
    """
    with opened(shared) as ledger:
        end = ledger.tail().position
        if first is not None and first > end + 1:
            raise click.UsageError(f"the ledger ends at position {end}: there is nothing from {first} on yet")
        after = first - 1 if first is not None else max(0, end - (10 if count is None else count))
        entries: Iterator[Entry]
        if follow:
            entries = islice(ledger.follow(after), None if first is None else count)
        else:
            entries = ledger.read(after, count if first is not None else end - after)
        write_all(entries, as_json=shared.json, flush=follow)


@click.command("query", cls=Command)
@click.option("--actor", metavar="KEY", help="Exactly this actor.")
@click.option("--action", metavar="PATTERN", help="An action; * stands for any characters: 'invoice.*'.")
@click.option("--resource", type=Resource(), metavar="TYPE:ID", help="About this resource.")
@click.option(
    "--since", type=Moment(zone_needed=False), metavar="TIME", help="Occurred then or later: date or ISO 8601."
)
@click.option("--until", type=Moment(zone_needed=False), metavar="TIME", help="Occurred before then.")
@click.option("--text", metavar="WORDS", help='Words that must all be there; "a b", or, and -a as in search engines.')
@click.option("--limit", type=COUNT, default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where the page before ended, with the same filters.")
@pass_shared
def query_command(shared: Shared, /, limit: int, **filters: Any) -> None:
    """Entries for which all that is given holds, newest first.

    Where there are more, the cursor of the next page is the last line on stderr.
    """
    with opened(shared) as ledger:
        _check_view(ledger, "timeline")
        page = ledger.run(search(ledger.ref, limit=limit, **filters))
    if shared.json:
        write_all(page.entries, as_json=True)
    else:
        entry_table(page.entries)
        if not page.entries:
            note("Nothing found")
    if page.next_cursor is not None:
        note(f"cursor: {page.next_cursor}")


@click.command("history", cls=Command)
@_resource
@click.option("--limit", type=COUNT, default=100, show_default=True, help="How many entries at most.")
@click.option("--after", type=AFTER, default=0, metavar="POSITION", help="Begin after this position.")
@pass_shared
def history_command(shared: Shared, resource: tuple[str, str], limit: int, after: int) -> None:
    """What happened to a resource: who changed which field, from what to what."""
    with opened(shared) as ledger:
        _check_view(ledger, "resource_history")
        items = ledger.run(history(ledger.ref, *resource, limit=limit, after_position=after))
    if not items:
        note(f"No entry{f' after position {after}' if after else ''} is about {resource[0]}:{resource[1]}")
    if shared.json:
        for item in items:
            write_json({
                "position": item.position, "recorded_at": time_text(item.recorded_at),
                "occurred_at": time_text(item.occurred_at), "actor": item.actor, "action": item.action,
                "resource_type": item.resource_type, "resource_id": item.resource_id,
                "changes": raw_json(item.changes_json),
            })  # fmt: skip
        return
    print_history(items)
    if len(items) == limit:
        note(f"There may be more: --after {items[-1].position}")


@click.command("state", cls=Command)
@_resource
@pass_shared
def state_command(shared: Shared, resource: tuple[str, str]) -> None:
    """What a resource is now, put together from all that is recorded about it."""
    with opened(shared) as ledger:
        _check_view(ledger, "resource_state")
        found = ledger.run(state(ledger.ref, *resource))
    if found is None:
        note(f"No entry is about {resource[0]}:{resource[1]}")
        if shared.json:
            write_json(None)
        return
    if shared.json:
        write_json({
            "resource_type": found.resource_type, "resource_id": found.resource_id,
            "state": raw_json(found.state_json), "deleted": found.deleted, "entries": found.entries,
            "first_position": found.first_position, "last_position": found.last_position,
            "action": found.action, "actor": found.actor,
            "occurred_at": time_text(found.occurred_at), "recorded_at": time_text(found.recorded_at),
        })  # fmt: skip
        return
    print_state(found)


@click.command("activity", cls=Command)
@click.argument("actor", required=False)
@click.option("--limit", type=COUNT, default=100, show_default=True, help="How many lines at most.")
@pass_shared
def activity_command(shared: Shared, actor: str | None, limit: int) -> None:
    """How often an actor, or everyone, did what on each day (UTC), newest day first."""
    with opened(shared) as ledger:
        _check_view(ledger, "actor_activity")
        rows = ledger.run(activity(ledger.ref, actor, limit=limit + 1))
    shown = rows[:limit]
    if shared.json:
        for row in shown:
            write_json({
                "actor": row.actor, "day": row.day.isoformat(), "action": row.action, "entries": row.entries,
                "first_position": row.first_position, "last_position": row.last_position,
                "first_occurred_at": time_text(row.first_occurred_at),
                "last_occurred_at": time_text(row.last_occurred_at),
            })  # fmt: skip
    else:
        print_activity(shown)
    if not shown:
        note("Nothing found")
    if len(rows) > limit:
        note(f"There is more: raise --limit {limit}")


def print_history(items: Sequence[HistoryItem]) -> None:
    """An entry on a line, and under it a line for each field that it changed."""
    for item in items:
        line(f"{item.position:>6}", short_time(item.occurred_at), item.actor, item.action)
        if item.changes_json is None:
            line("       ", "(erased)")
        try:
            changes = _changes(item.changes_json or "[]")
        except (ValueError, RecursionError):  # another writer's JSON, which cannot be taken apart
            line("       ", cut(str(item.changes_json)))
            continue
        for change in changes:
            line("       ", f"{change.field or '(all)'}: {_side(change.before)} -> {_side(change.after)}")


def print_state(found: State) -> None:
    """The resource as JSON to read; on stderr what it rests on."""
    if found.deleted:
        line("(deleted)")
    elif found.state_json is None:
        line("(nothing is recorded of what it is)")
    else:
        try:
            text = msgspec.json.format(found.state_json, indent=2)
        except (ValueError, RecursionError):  # another writer's
            text = found.state_json
        for each in text.splitlines():
            line(each)
    note(
        f"{found.entries} entries, positions {found.first_position} to {found.last_position}; "
        f"the last: {found.action} by {found.actor}, {short_time(found.occurred_at)}"
    )


def print_activity(rows: Sequence[Activity]) -> None:
    """A line for each actor, day and action."""
    cells = [
        (
            *(row.day.isoformat(), row.actor, row.action, str(row.entries)),
            f"{row.first_occurred_at:%H:%M:%S} - {row.last_occurred_at:%H:%M:%S}",
        )
        for row in rows
    ]  # fmt: skip
    table(("Day", "Actor", "Action", "Entries", "From, to (UTC)"), cells, right=(3,))


def _check_view(ledger: Ledger, name: str) -> None:
    """Raises UnknownProjection where the view is not built; says so where it lags behind."""
    at = ledger.run(reached(ledger.ref, name))
    behind = ledger.tail().position - at
    if behind > 0:
        note(f"The view {name} is {behind:,} behind the ledger, at position {at}: 'auditledger project' brings it up")


class _Change(msgspec.Struct):
    """A change with its texts as stored; an empty one where the field was not there."""

    field: str
    before: msgspec.Raw = msgspec.Raw(b"")
    after: msgspec.Raw = msgspec.Raw(b"")


_changes = msgspec.json.Decoder(list[_Change]).decode


def _side(text: msgspec.Raw) -> str:
    return cut(bytes(text).decode()) or "nothing"
