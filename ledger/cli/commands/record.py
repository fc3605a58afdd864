"""append and import."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import click

from ledger.cli.app import Command
from ledger.cli.commands.import_file import Import
from ledger.cli.connect import opened
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, print_receipt, write_json
from ledger.cli.params import Json, Moment, Resource
from ledger.events import Event
from ledger.store.drafts import prepare


@click.command("append", cls=Command)
@click.option("--actor", required=True, metavar="KEY", help="Who, as a key: user:42.")
@click.option("--action", required=True, metavar="NAME", help="What happened: invoice.updated.")
@click.option("--actor-type", default="user", metavar="TYPE", show_default=True, help="What kind of actor.")
@click.option("--resource", type=Resource(), metavar="TYPE:ID", help="The resource: invoice:inv_7.")
@click.option("--before", type=Json(), metavar="JSON", help="The resource before.")
@click.option("--after", type=Json(), metavar="JSON", help="The resource after.")
@click.option("--metadata", type=Json(), metavar="JSON", help="Anything else: IP address, request id, reason.")
@click.option("--id", "id_", type=click.UUID, metavar="UUID", help="Your own id; appending it again adds nothing.")
@click.option("--idempotency-key", metavar="TEXT", help="Your own text with the same effect as --id.")
@click.option(
    "--occurred-at", type=Moment(zone_needed=True), metavar="TIME", help="ISO 8601 with a time zone; default now."
)
@pass_shared
def append_command(
    shared: Shared,
    actor: str,
    action: str,
    actor_type: str,
    resource: tuple[str, str] | None,
    before: Any,
    after: Any,
    metadata: Any,
    id_: UUID | None,
    idempotency_key: str | None,
    occurred_at: datetime | None,
) -> None:
    """Append one event, and print its receipt once it is durable.

    Actor and resource can never be erased: use keys there. Put personal data into the JSON.
    """
    resource_type, resource_id = resource or (None, None)
    event = Event(
        actor=actor,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        actor_type=actor_type,
        before=before,
        after=after,
        metadata=metadata,
        id=id_,
        idempotency_key=idempotency_key,
        occurred_at=occurred_at,
    )
    prepare(event, "main")  # checks the event before connecting
    with opened(shared) as ledger:
        receipt = ledger.append(event)
    print_receipt(receipt, as_json=shared.json)


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--format", "format_", type=click.Choice(["events", "cloudtrail"]), default="events", show_default=True,
    help="events: objects with Event's fields by name. cloudtrail: AWS CloudTrail records.",
)  # fmt: skip
@pass_shared
def import_command(shared: Shared, file: str, format_: str) -> int:
    """Append events from FILE: JSON lines, plain or gzip; '-' is stdin.

    A bad line ends the import: all events before it are recorded, none after it, and the error names the line. The id
    of a CloudTrail record is its eventID. Importing records, or events with an id, again adds nothing.
    """
    with Import(file, format_) as source, opened(shared) as ledger:
        done = source.run(ledger)
    last = done.last.position if done.last else None
    duplicates = source.read - done.count
    if shared.json:
        write_json({"read": source.read, "recorded": done.count, "duplicates": duplicates, "last_position": last})
    elif not source.read:
        line("Nothing to import: the file has no events")
    else:
        known = f"; {counted(duplicates, 'duplicate')}" if duplicates else ""
        line(f"Recorded {done.count:,} of {counted(source.read, 'event')}{known}; the last is at position {last}")
    return 0
