"""tail, and the commands of the built-in views: query, history, state, activity."""

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
from ledger.cli.output import (
    counted,
    cut,
    entry_table,
    line,
    raw_json,
    short_time,
    table,
    time_text,
    write_all,
    write_json,
)
from ledger.cli.params import AFTER, COUNT, POSITION, Moment, Resource
from ledger.cli.text import note
from ledger.client import Ledger
from ledger.events import Entry
from ledger.projection.base import reached

_resource = click.argument("resource", type=Resource(), metavar="TYPE:ID")


@click.command("tail", cls=Command)
@click.option("-n", "count", type=click.IntRange(0, 10**9), help="Number of entries; default 10, or all with --from.")
@click.option("--from", "first", type=POSITION, metavar="POSITION", help="Begin at this position.")
@click.option("-f", "--follow", is_flag=True, help="Wait for new entries.")
@pass_shared
def tail_command(shared: Shared, count: int | None, first: int | None, follow: bool) -> None:
    """Show the newest entries, in order of position.

    --follow works with Postgres alone, and with less delay with Redis. Each entry is checked on arrival.
    """
    with opened(shared) as ledger:
        end = ledger.tail().position
        if first is not None and first > end + 1:
            raise click.UsageError(f"the ledger ends at position {end}; there is no entry {first} yet")
        after = first - 1 if first is not None else max(0, end - (10 if count is None else count))
        entries: Iterator[Entry]
        if follow:
            entries = islice(ledger.follow(after), None if first is None else count)
        else:
            entries = ledger.read(after, count if first is not None else end - after)
        write_all(entries, as_json=shared.json, flush=follow)


@click.command("query", cls=Command)
@click.option("--actor", metavar="KEY", help="Exactly this actor.")
@click.option("--action", metavar="PATTERN", help="An action; * matches any characters: 'invoice.*'.")
@click.option("--resource", type=Resource(), metavar="TYPE:ID", help="This resource.")
@click.option(
    "--since", type=Moment(zone_needed=False), metavar="TIME", help="Occurred at or after this time: date or ISO 8601."
)
@click.option("--until", type=Moment(zone_needed=False), metavar="TIME", help="Occurred before this time.")
@click.option("--text", metavar="WORDS", help='All of these words; supports "a b", or, and -a.')
@click.option("--limit", type=COUNT, default=50, show_default=True, help="Maximum number of entries.")
@click.option("--cursor", help="Continue after the previous page, with the same filters.")
@pass_shared
def query_command(shared: Shared, /, limit: int, **filters: Any) -> None:
    """Entries matching all filters, newest first.

    If there are more, the last line on stderr has the cursor of the next page.
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
@click.option("--limit", type=COUNT, default=100, show_default=True, help="Maximum number of entries.")
@click.option("--after", type=AFTER, default=0, metavar="POSITION", help="Begin after this position.")
@pass_shared
def history_command(shared: Shared, resource: tuple[str, str], limit: int, after: int) -> None:
    """Show the changes of a resource: who changed which field, before and after."""
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
    """Show the current state of a resource, derived from all entries about it."""
    with opened(shared) as ledger:
        _check_view(ledger, "resource_state")
        current = ledger.run(state(ledger.ref, *resource))
    if current is None:
        note(f"No entry is about {resource[0]}:{resource[1]}")
        if shared.json:
            write_json(None)
        return
    if shared.json:
        write_json({
            "resource_type": current.resource_type, "resource_id": current.resource_id,
            "state": raw_json(current.state_json), "deleted": current.deleted, "entries": current.entries,
            "first_position": current.first_position, "last_position": current.last_position,
            "action": current.action, "actor": current.actor,
            "occurred_at": time_text(current.occurred_at), "recorded_at": time_text(current.recorded_at),
        })  # fmt: skip
        return
    print_state(current)


@click.command("activity", cls=Command)
@click.argument("actor", required=False)
@click.option("--limit", type=COUNT, default=100, show_default=True, help="Maximum number of lines.")
@pass_shared
def activity_command(shared: Shared, actor: str | None, limit: int) -> None:
    """Count actions by actor and day (UTC), newest day first; of one actor or all."""
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
    """Prints a line for each entry, and below it a line for each changed field."""
    for item in items:
        line(f"{item.position:>6}", short_time(item.occurred_at), item.actor, item.action)
        if item.changes_json is None:
            line("       ", "(erased)")
        try:
            changes = _changes(item.changes_json or "[]")
        except (ValueError, RecursionError):  # JSON of another writer that cannot be decoded
            line("       ", cut(str(item.changes_json)))
            continue
        for change in changes:
            line("       ", f"{change.field or '(all)'}: {_side(change.before)} -> {_side(change.after)}")


def print_state(current: State) -> None:
    """Prints the state as indented JSON; on stderr its entries."""
    if current.deleted:
        line("(deleted)")
    elif current.state_json is None:
        line("(no state recorded)")
    else:
        try:
            text = msgspec.json.format(current.state_json, indent=2)
        except (ValueError, RecursionError):  # JSON of another writer
            text = current.state_json
        for each in text.splitlines():
            line(each)
    note(
        f"{counted(current.entries, 'entry')}, positions {current.first_position} to {current.last_position}; "
        f"the last: {current.action} by {current.actor}, {short_time(current.occurred_at)}"
    )


def print_activity(rows: Sequence[Activity]) -> None:
    """Prints a line for each actor, day and action."""
    cells = [
        (
            *(row.day.isoformat(), row.actor, row.action, str(row.entries)),
            f"{row.first_occurred_at:%H:%M:%S} - {row.last_occurred_at:%H:%M:%S}",
        )
        for row in rows
    ]  # fmt: skip
    table(("Day", "Actor", "Action", "Entries", "From, to (UTC)"), cells, right=(3,))


def _check_view(ledger: Ledger, name: str) -> None:
    """Prints a note if the view lags behind the ledger. Raises UnknownProjection if it is not built."""
    position = ledger.run(reached(ledger.ref, name))
    behind = ledger.tail().position - position
    if behind > 0:
        note(f"The view {name} is {counted(behind, 'entry')} behind, at position {position}: run 'auditledger project'")


class _Change(msgspec.Struct):
    """A change, with JSON texts as stored; empty if the field did not exist."""

    field: str
    before: msgspec.Raw = msgspec.Raw(b"")
    after: msgspec.Raw = msgspec.Raw(b"")


_changes = msgspec.json.Decoder(list[_Change]).decode


def _side(text: msgspec.Raw) -> str:
    return cut(bytes(text).decode()) or "nothing"
