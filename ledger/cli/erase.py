"""erase, hold, release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ledger.cli.app import Command
from ledger.cli.connect import opened
from ledger.cli.output import print_receipt
from ledger.cli.shared import Shared, pass_shared
from ledger.cli.text import note
from ledger.cli.types import POSITION, ResourceOrPosition
from ledger.erasure import erasing, holding, releasing
from ledger.writer import prepare

_held = click.argument("held", type=ResourceOrPosition(), metavar="TYPE:ID|POSITION")


def who_and_why(reason: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of whatever the ledger records itself. reason: where none is given; None demands one."""
    why: dict[str, Any] = {"required": True} if reason is None else {"default": reason, "show_default": True}

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--actor-type", default="user", metavar="TYPE", show_default=True, help="What kind of actor."),
            click.option("--reason", metavar="TEXT", help="Why. It stays for ever: no personal data.", **why),
            click.option("--actor", required=True, metavar="KEY", help="Who, as a key: user:42."),
        ):
            command = option(command)
        return command

    return with_options


@click.command("erase", cls=Command)
@click.argument("position", type=POSITION)
@who_and_why()
@pass_shared
def erase_command(shared: Shared, position: int, actor: str, reason: str, actor_type: str) -> None:
    """Remove the body of the entry at POSITION, and record who did it and why, in one transaction.

    What happened stays: who, when, to which resource. The stream and the views follow when relay and project run. Not
    reached: backups and WAL archives, exported bundles, dead rows until VACUUM, Redis' files until they are rewritten.
    """
    prepare(erasing(position, actor, reason, actor_type), "main", own=True)  # before any server is asked
    with opened(shared) as ledger:
        receipt = ledger.erase(position, actor, reason, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note(f"Entry {position} is erased; backups and WAL archives made before still hold its body")


@click.command("hold", cls=Command)
@_held
@who_and_why()
@pass_shared
def hold_command(shared: Shared, held: tuple[str, str] | int, actor: str, reason: str, actor_type: str) -> None:
    """Place a legal hold: until it is released, nothing about a resource, or not the entry at a position, is erased."""
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
