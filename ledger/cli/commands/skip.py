"""skip, retry: entries that a projection skips. parked: the dead letters of a consumer group."""

from __future__ import annotations

import click

from ledger.bootstrap import open_ledger
from ledger.cli.app import Command
from ledger.cli.commands.erase import who_and_why
from ledger.cli.commands.workers import find
from ledger.cli.connect import opened, ready
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, print_receipt, progress, write_json
from ledger.cli.params import POSITION
from ledger.cli.text import note, one_line
from ledger.projection.retries import unskip
from ledger.store.drafts import prepare
from ledger.store.own_actions import retrying, skipping
from ledger.stream.dead_letters import dead_letters, redeliver

_what = click.argument("name"), click.argument("position", type=POSITION)


@click.command("skip", cls=Command)
@_what[0]
@_what[1]
@who_and_why()
@pass_shared
def skip_command(shared: Shared, name: str, position: int, actor: str, reason: str, actor_type: str) -> None:
    """Leave the entry at POSITION out of projection NAME, which is blocked there; record who did it and why.

    The projection goes on after it, and rebuilds skip it too. The entry itself stays as it is.
    """
    name = _own_name(name)
    prepare(skipping(name, position, actor, reason, actor_type), "main", own=True)  # before any server is asked
    with opened(shared) as ledger:
        receipt = ledger.skip(name, position, actor, reason, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note(f"Projection {name} skips entry {position}; 'auditledger retry {name} {position}' undoes that")


@click.command("retry", cls=Command)
@_what[0]
@_what[1]
@who_and_why("to be applied after all")
@pass_shared
def retry_command(shared: Shared, name: str, position: int, actor: str, reason: str, actor_type: str) -> None:
    """Undo the skip of the entry at POSITION: rebuild projection NAME including it, and record who did it and why.

    The rebuild runs beside the live view, as with replay. If the entry still cannot be applied, nothing changes.
    """
    [projection] = find((name,))
    prepare(retrying(projection.name, position, actor, reason, actor_type), "main", own=True)
    with ready(shared, redis=False) as connector, progress(f"Replaying {projection.name}") as advance:
        ledger = connector.run(open_ledger(connector.settings.name))
        count = unskip(connector, projection, ledger, position, actor, reason, actor_type=actor_type, progress=advance)
    if shared.json:
        write_json({"projection": projection.name, "position": position, "entries": count})
    else:
        line(f"Rebuilt {projection.name} with entry {position}, from {counted(count, 'entry')}")


@click.command("parked", cls=Command)
@click.argument("group")
@click.option("--retry", "again", type=POSITION, multiple=True, metavar="POSITION", help="Redeliver this entry.")
@pass_shared
def parked_command(shared: Shared, group: str, again: tuple[int, ...]) -> None:
    """List GROUP's dead letters: entries delivered too often, their delivery attempts, and the last reason given.

    With --retry, which can be given more than once, those entries are redelivered.
    """
    with ready(shared, redis=True) as connector:
        ledger = connector.run(open_ledger(connector.settings.name))
        for position in again:
            connector.run(redeliver(ledger, group, position))
        letters = connector.run(dead_letters(ledger, group))
    if shared.json:
        write_json([letter._asdict() for letter in letters])
        return
    for letter in letters:
        reason = f": {one_line(letter.reason)}" if letter.reason else ""
        line(f"entry {letter.position}", f"delivered {counted(letter.tries, 'time')}{reason}")
    if not letters:
        line(f"No dead letters of group {group}")


def _own_name(name: str) -> str:
    """A projection's name in the database, if it was given as module:Class."""
    return find((name,))[0].name if ":" in name else name
