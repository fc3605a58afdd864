"""salvage: saves the entries that the stream has and its database lost."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from ledger.cli.app import PROGRAM, Command
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, raw_json, time_text, write_json
from ledger.cli.text import note, plain
from ledger.drivers.pools import Connector
from ledger.errors import UsageError
from ledger.events import Entry
from ledger.files import new_private
from ledger.format.actions import ERASED, ERASED_TYPE, HOLD_PLACED, HOLD_RELEASED
from ledger.store.ledgers import LedgerRef, find_ledger
from ledger.stream.salvage import Lost, entries_of, lost

_POSITION = re.compile(r"[1-9][0-9]{0,18}").fullmatch
_OWN = {ERASED: "erase", HOLD_PLACED: "hold", HOLD_RELEASED: "release"}


@click.command("salvage", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_shared
def salvage_command(shared: Shared, file: Path) -> None:
    """Write to FILE the entries that the stream has and its database lost, before 'relay --new-epoch' drops them.

    For use after a failover or a restore, when the relay says that the stream diverged. Prints the commands that record
    them again, as new entries with their old ids. Check them first: anybody who may write to Redis can make entries.
    """
    connector = Connector(settings_of(shared, redis=True))
    try:
        ledger = connector.run(find_ledger(connector.settings.name))
        missing = connector.run(lost(ledger))
        commands = [] if missing is None else _salvage(connector, ledger, missing, file)
    finally:
        connector.close()
    if missing is None:
        note(f"The stream of ledger {ledger.name} has no entry that the database lacks")
    if shared.json:
        positions = None if missing is None else {"after": missing.after.position, "last": missing.last.position}
        write_json({"ledger": ledger.name, "lost": positions, "commands": commands})
    else:
        for command in commands:
            line(command)


def _salvage(connector: Connector, ledger: LedgerRef, missing: Lost, file: Path) -> list[str]:
    """Writes the file. Returns the commands that record all of it again."""
    events, own, unusable = 0, list[str](), 0
    program = f"{PROGRAM} --ledger {ledger.name}"
    try:
        with new_private(file) as output:  # bodies may be personal data
            for entry in _entries(connector, ledger, missing):
                if entry is None:
                    unusable += 1
                elif entry.action.startswith("ledger."):
                    own.append(_again(entry, missing.after.position, program))
                else:
                    output.write(_event(entry) + b"\n")
                    events += 1
    except FileExistsError:
        raise UsageError(f"{file} exists already: name a new file") from None
    note(
        f"Ledger {ledger.name}: the stream's entries {missing.after.position + 1} to {missing.last.position} are not "
        f"in the database: {counted(events, 'event')} written to {file}, {len(own)} of the ledger's own, "
        f"{unusable} not readable"
    )
    return [*([f"{program} import {shlex.quote(str(file))}"] if events else []), *own]


def _entries(connector: Connector, ledger: LedgerRef, missing: Lost) -> Iterator[Entry | None]:
    after = missing.after
    while after < missing.last:
        after, entries = connector.run(entries_of(ledger, after))
        if not entries:
            return
        yield from entries


def _event(entry: Entry) -> bytes:
    """An entry as `import` takes it: one line of JSON."""
    return msgspec.json.encode({
        "actor": entry.actor, "action": entry.action, "resource_type": entry.resource_type,
        "resource_id": entry.resource_id, "actor_type": entry.actor_type, "before": raw_json(entry.before_json),
        "after": raw_json(entry.after_json), "metadata": raw_json(entry.metadata_json), "id": str(entry.id),
        "occurred_at": time_text(entry.occurred_at),
    })  # fmt: skip


def _again(entry: Entry, common: int, program: str) -> str:
    """The command that repeats the action of one of the ledger's own entries. common: the last position not lost."""
    about = f"{entry.resource_type}:{entry.resource_id}"
    if entry.resource_type == ERASED_TYPE:
        about = str(entry.resource_id)
        if not _POSITION(about) or int(about) > common:
            return plain(
                f"# {entry.action} of entry {about}, which is lost: nothing to do, unless it has a new position"
            )
    if entry.action not in _OWN or not isinstance(entry.metadata, dict):
        return plain(f"# {entry.action} {about} by {entry.actor}: do it again by hand")
    reason = str(entry.metadata.get("reason", ""))
    # No word of it can be taken for an option.
    who = [f"--actor={entry.actor}", f"--actor-type={entry.actor_type}", f"--reason={reason}"]
    return f"{program} {_OWN[entry.action]} {shlex.join([*who, '--', about])}"
