"""groups: the consumer groups of a ledger, listed, deleted, their offsets set."""

from __future__ import annotations

import click

from ledger.cli.app import Command
from ledger.cli.connect import opened
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, write_json
from ledger.cli.text import note, one_line


@click.group("groups", invoke_without_command=True)
@click.pass_context
def groups_command(context: click.Context) -> None:
    """List the consumer groups; delete one, or set its offset.

    Without a command: list each group's offset, lag, pending entries, dead letters (see 'parked') and consumers.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@groups_command.command("list", cls=Command)
@pass_shared
def list_command(shared: Shared) -> None:
    """List the consumer groups, with offset, lag, pending entries, dead letters and consumers."""
    with opened(shared) as ledger:
        groups = ledger.groups()
    if shared.json:
        write_json([group._asdict() for group in groups])
        return
    for group in groups:
        behind = f"{group.lag:,} behind" if group.lag else "up to date"
        more = f"{group.pending} pending, {counted(group.dead_letters, 'dead letter')}"
        line(one_line(group.name), f"at {group.position}", behind, more, counted(group.consumers, "consumer"))
    if not groups:
        line("No consumer groups")


@groups_command.command("delete", cls=Command)
@click.argument("name")
@pass_shared
def delete_command(shared: Shared, name: str) -> None:
    """Delete consumer group NAME with its dead letters. Stop its consumers first: they would create it again."""
    with opened(shared) as ledger:
        ledger.delete_group(name)
    write_json({"deleted": name}) if shared.json else note(f"Deleted group {one_line(name)}")


@groups_command.command("reset", cls=Command)
@click.argument("name")
@click.option("--after", type=click.IntRange(0), required=True, metavar="POSITION", help="0 for all entries.")
@pass_shared
def reset_command(shared: Shared, name: str, after: int) -> None:
    """Set consumer group NAME's offset to a position. Its pending entries are dropped, its dead letters stay."""
    with opened(shared) as ledger:
        ledger.reset_group(name, after=after)
    write_json({"group": name, "after": after}) if shared.json else note(
        f"Group {one_line(name)} continues after {after}"
    )
