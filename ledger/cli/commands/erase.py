"""erase, hold, release, quarantine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ledger.cli.app import Command
from ledger.cli.connect import opened
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import print_receipt
from ledger.cli.params import POSITION, ResourceOrPosition
from ledger.cli.text import note
from ledger.errors import QuarantineRefused
from ledger.store.drafts import prepare
from ledger.store.own_actions import erasing, holding, releasing

_held = click.argument("held", type=ResourceOrPosition(), metavar="TYPE:ID|POSITION")


def who_and_why(reason: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options --actor, --actor-type and --reason. reason: the default reason; None makes --reason required."""
    why: dict[str, Any] = {"required": True} if reason is None else {"default": reason, "show_default": True}

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--actor-type", default="user", metavar="TYPE", show_default=True, help="What kind of actor."),
            click.option("--reason", metavar="TEXT", help="Why. It is never erased: no personal data.", **why),
            click.option("--actor", required=True, metavar="KEY", help="Who, as a key: user:42."),
        ):
            command = option(command)
        return command

    return with_options


@click.command("erase", cls=Command)
@click.argument("position", type=POSITION)
@click.option("--mismatched", is_flag=True, help="Also erase a body that does not match its envelope's hash.")
@who_and_why()
@pass_shared
def erase_command(shared: Shared, position: int, actor: str, reason: str, actor_type: str, mismatched: bool) -> None:
    """Remove the body of the entry at POSITION, and record who did it and why, in one transaction.

    The envelope stays: who, when, which action and resource. The stream and the read views follow when relay and
    project run. Not reached: backups and WAL archives, exported bundles, dead rows until VACUUM, Redis' files until
    they are rewritten. A changed body is evidence: it is erased only with --mismatched, which records its hash.
    """
    prepare(erasing(position, actor, reason, actor_type), "main", own=True)  # checks the arguments before connecting
    with opened(shared) as ledger:
        receipt = ledger.erase(position, actor, reason, actor_type=actor_type, mismatched=mismatched)
    print_receipt(receipt, as_json=shared.json)
    note(f"Entry {position} is erased; older backups and WAL archives still hold its body")


@click.command("hold", cls=Command)
@_held
@who_and_why()
@pass_shared
def hold_command(shared: Shared, held: tuple[str, str] | int, actor: str, reason: str, actor_type: str) -> None:
    """Place a legal hold on a resource or an entry. Nothing under a hold is erased until it is released."""
    prepare(holding(held, actor, reason, actor_type), "main", own=True)
    with opened(shared) as ledger:
        receipt = ledger.hold(held, actor, reason, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)


@click.command("release", cls=Command)
@_held
@who_and_why()
@pass_shared
def release_command(shared: Shared, held: tuple[str, str] | int, actor: str, reason: str, actor_type: str) -> None:
    """Release a legal hold."""
    prepare(releasing(held, actor, reason, actor_type), "main", own=True)
    with opened(shared) as ledger:
        receipt = ledger.release(held, actor, reason, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)


@click.command("quarantine", cls=Command)
@click.argument("position", type=POSITION)
@click.option(
    "--through", type=POSITION, metavar="POSITION", help="And all entries up to this one that fail verification."
)
@who_and_why()
@pass_shared
def quarantine_command(
    shared: Shared, position: int, actor: str, reason: str, actor_type: str, through: int | None
) -> None:
    """Record that the entry at POSITION fails verification, so that workers pass it.

    The entry itself is not changed. relay, project, subscribers, signing and export leave it out as long as the stored
    row stays the same; `verify` keeps reporting it, as `quarantined`. An entry that passes verification is refused.
    """
    if through is not None and through < position:
        raise click.UsageError("--through is before POSITION", click.get_current_context())
    prepare(erasing(position, actor, reason, actor_type), "main", own=True)  # checks the arguments before connecting
    with opened(shared) as ledger:
        for each in range(position, (through or position) + 1):
            try:
                receipt = ledger.quarantine(each, actor, reason, actor_type=actor_type)
            except QuarantineRefused as error:
                if through is None:
                    raise
                note(str(error))  # entries in between may pass verification
            else:
                print_receipt(receipt, as_json=shared.json)
    note("Workers pass it within 30 seconds; 'auditledger verify' keeps reporting it")
