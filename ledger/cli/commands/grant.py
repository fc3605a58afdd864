"""grant and revoke: roles of database users."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click

from ledger.cli.app import Command
from ledger.cli.connect import connected
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import line, write_json
from ledger.cli.params import Kind
from ledger.migrate import roles
from ledger.settings import check_ledger_name


class _ManyLedgers(Command):
    """A command whose --ledger is repeatable."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        own = next(param for param in self.params if param.name == "ledgers")
        self.params = [param for param in self.params if param is own or "--ledger" not in param.opts]


class _Role(Kind):
    """A role, with or without the prefix `ledger_`."""

    name = "role"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for role in roles.ROLES:
            if value in (role, role.removeprefix("ledger_")):
                return role
        full = value if value.startswith("ledger_") else f"ledger_{value}"
        close = get_close_matches(full, roles.ROLES, 1, 0.8)
        order = f"usage: ROLE USER; the roles are {', '.join(roles.ROLES)}"
        return self.fail(f"{value!r} is not a role: {f'did you mean {close[0]}?' if close else order}", param, ctx)


_role = click.argument("role", type=_Role(), metavar="ROLE")
_user = click.argument("user")
_ROLES = """

    \b
    ledger_recorder   records events, which are appended soon; no read access
    ledger_writer     appends to the granted ledgers, or to all; no read access
    ledger_reader     reads the granted ledgers, or all
    ledger_projector  runs the workers: relay, project, run, replay; with ledger_writer, seal
    ledger_eraser     erases bodies, places and releases legal holds
    ledger_admin      creates ledgers, opens epochs, grants these roles
"""


@click.command("grant", cls=_ManyLedgers, help="Give a database user a role." + _ROLES)
@_role
@_user
@click.option(
    "--ledger", "ledgers", multiple=True, metavar="NAME", help="A ledger to read, append to or record in. Repeatable."
)
@click.option("--all-ledgers", is_flag=True, help="All ledgers, including future ones.")
@pass_shared
def grant_command(shared: Shared, role: str, user: str, ledgers: tuple[str, ...], all_ledgers: bool) -> None:
    named = _named(shared, ledgers)
    if role == roles.READER and bool(named) == all_ledgers:
        raise click.UsageError("ledger_reader needs --ledger NAME (repeatable) or --all-ledgers")
    if named and all_ledgers:
        raise click.UsageError("--ledger and --all-ledgers exclude each other")
    if role not in roles.BY_LEDGER and (named or all_ledgers):
        some = ", ".join(roles.BY_LEDGER)
        raise click.UsageError(f"{role} applies to all ledgers; only {some} are granted by ledger")
    with connected(shared) as connector:
        connector.run(roles.grant(role, user, named or None))
    if shared.json:
        write_json({"granted": role, "user": user, "ledgers": named or None})
    else:
        line(f"Granted {role} to {user}" + (f" for {', '.join(named)}" if named else ""))


@click.command("revoke", cls=_ManyLedgers)
@_role
@_user
@click.option(
    "--ledger",
    "ledgers",
    multiple=True,
    metavar="NAME",
    help="Only this ledger, of a recorder, writer or reader. Repeatable.",
)
@pass_shared
def revoke_command(shared: Shared, role: str, user: str, ledgers: tuple[str, ...]) -> None:
    """Take a role from a database user.

    With --ledger, a recorder, writer or reader loses the named ledgers, and the role with the last of them.
    """
    named = _named(shared, ledgers)
    with connected(shared) as connector:
        connector.run(roles.revoke(role, user, named or None))
    if shared.json:
        write_json({"revoked": role, "user": user, "ledgers": named or None})
    else:
        line(f"Revoked {role} from {user}" + (f" for {', '.join(named)}" if named else ""))


def _named(shared: Shared, ledgers: tuple[str, ...]) -> list[str]:
    """The ledgers of --ledger before and after the command's name. LEDGER_NAME is ignored."""
    named = list(dict.fromkeys((*((shared.ledger,) if shared.ledger else ()), *ledgers)))
    for name in named:
        check_ledger_name(name)
    return named
