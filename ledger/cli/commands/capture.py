"""capture install, remove, diff, status, backfill: tables whose changes triggers record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click
import msgspec

from ledger.capture import tables
from ledger.cli.app import DOES_NOT_VERIFY, OK, Command
from ledger.cli.connect import connected
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, progress, write_json
from ledger.effects import Plan

_NAMES = ("key", "exclude", "redact", "digest", "allow")
_table = click.argument("table", metavar="TABLE")
_sql = click.option(
    "--sql", "as_sql", is_flag=True, help="Print the statement, for a migration, instead of running it."
)


@click.group("capture", no_args_is_help=True)
def capture_command() -> None:
    """Record the changes of tables, whatever the client: by triggers, in the transactions that make them."""


def _columns(name: str, text: str) -> Callable[..., Any]:
    return click.option(name, multiple=True, metavar="COLUMN", help=f"{text} Repeatable.")


@capture_command.command("install", cls=Command)
@_table
@_columns("--key", "A column that identifies a row; default: the primary key.")
@click.option(
    "--action",
    metavar="TEXT",
    help="'{op}' is created, updated, deleted, truncated or backfilled; default RESOURCE-TYPE.{op}.",
)
@click.option("--resource-type", metavar="TEXT", help="Default: the table's name.")
@_columns("--exclude", "A column that is left out.")
@_columns("--redact", 'A column whose value is {"$redacted": true}.')
@_columns("--digest", "A column whose value is a keyed hash, so that equal values stay equal.")
@_columns("--allow", "A column, key or pattern that the built-in patterns must not redact.")
@click.option("--when", metavar="SQL", help="Only changes of rows for which this holds, before or after.")
@click.option("--full", is_flag=True, help="Record all columns at an update, not those that changed.")
@click.option(
    "--no-actor",
    type=click.Choice(get_args(tables.NoActor)),
    default="user",
    show_default=True,
    help="A change without an actor in its context: is refused, or by 'unknown', or by db:USER.",
)
@_sql
@pass_shared
def install_command(
    shared: Shared,
    table: str,
    key: tuple[str, ...],
    action: str | None,
    resource_type: str | None,
    exclude: tuple[str, ...],
    redact: tuple[str, ...],
    digest: tuple[str, ...],
    allow: tuple[str, ...],
    when: str | None,
    full: bool,
    no_actor: tables.NoActor,
    as_sql: bool,
) -> None:
    """Capture TABLE (as SQL writes it: public.invoices), or change how it is captured.

    Options not given have their defaults, also if the table is captured already.

    By the table's owner or a superuser, with the role ledger_admin. Passwords, tokens, card numbers and the like are
    redacted unless allowed. With --digest the key is LEDGER_DIGEST_KEY, or a random one of the database.
    """
    policy = tables.Policy(
        ledger=(shared.names() or ["main"])[0],
        key=key,
        action=action,
        resource_type=resource_type,
        exclude=exclude,
        redact=redact,
        digest=digest,
        allow=allow,
        condition=when,
        full=full,
        no_actor=no_actor,
    )
    if as_sql:
        line(tables.install_sql(table, policy))
        return
    with connected(shared) as connector:
        before, after = connector.run(_install(table, policy, connector.settings.digest_key))
    if shared.json:
        write_json({"captured": table})
        return
    line(f"Captured {table}")
    for each in after:
        old = next((known for known in before if known.table == each.table), None)
        if old is not None and _how(old) != _how(each):
            line("  before", *_how(old))
            line("  now   ", *_how(each))


def _install(
    table: str, policy: tables.Policy, digest_key: str | None
) -> Plan[tuple[list[tables.Captured], list[tables.Captured]]]:
    """All captured tables, before and after."""
    before = yield from tables.captured()
    yield from tables.install(table, policy, digest_key=digest_key)
    return before, (yield from tables.captured())


def _how(captured: tables.Captured) -> list[str]:
    """The policy in words."""
    policy = msgspec.json.decode(captured.policy)
    how = [f"ledger {captured.ledger}", policy["action"], f"resource type {policy['resource_type']}"]
    how += [f"{name} {', '.join(policy[name])}" for name in _NAMES if policy[name]]
    how += [f"when {policy['condition']}"] if policy["condition"] else []
    how += ["full"] if policy["full_rows"] else []
    return [*how, f"no actor: {policy['no_actor']}"]


@capture_command.command("remove", cls=Command)
@_table
@_sql
@pass_shared
def remove_command(shared: Shared, table: str, as_sql: bool) -> None:
    """End the capture of TABLE; what is recorded stays."""
    if as_sql:
        line(tables.remove_sql(table))
        return
    with connected(shared) as connector:
        connector.run(tables.remove(table))
    write_json({"removed": table}) if shared.json else line(f"{table} is no longer captured")


@capture_command.command("diff", cls=Command)
@click.argument("table", metavar="[TABLE]", required=False)
@pass_shared
def diff_command(shared: Shared, table: str | None) -> int:
    """List what changed since the installation: triggers and columns. Exit code 1 if anything did.

    New columns are recorded, or redacted by the built-in patterns, at once. 'capture install' makes triggers anew.
    """
    with connected(shared) as connector:
        found = connector.run(tables.drift(table))
    for each in found:
        write_json(each._asdict()) if shared.json else line(each.table, each.problem)
    return DOES_NOT_VERIFY if found else OK


@capture_command.command("status", cls=Command)
@pass_shared
def status_command(shared: Shared) -> int:
    """List captured tables, their policies and problems. Exit code 1 if changes of one are not captured."""
    with connected(shared) as connector:
        found, drift = connector.run(tables.captured()), connector.run(tables.drift())
    for each in found:
        problems = [problem for table, broken, problem in drift if broken and table == each.table]
        if shared.json:
            policy = msgspec.json.decode(each.policy)
            write_json({"table": each.table, "ledger": each.ledger, "backfilled": each.backfilled, "policy": policy,
                        "problems": problems})  # fmt: skip
            continue
        line(each.table, *_how(each), "backfilled" if each.backfilled else "not backfilled")
        for problem in problems:
            line("  PROBLEM", problem)
    return DOES_NOT_VERIFY if any(each.broken for each in drift) else OK


@capture_command.command("backfill", cls=Command)
@_table
@click.option(
    "--batch", type=click.IntRange(1, 100_000), default=tables.BATCH, show_default=True, help="Rows of a transaction."
)
@click.option("--again", is_flag=True, help="Record all rows once more.")
@pass_shared
def backfill_command(shared: Shared, table: str, batch: int, again: bool) -> None:
    """Record the rows that TABLE has, one entry each; resumes where it was interrupted, and records none twice."""
    total = 0
    with progress(f"Recording {table}", "rows") as advance, connected(shared) as connector:
        if again:
            connector.run(tables.backfill_again(table))
        while rows := connector.run(tables.backfill(table, batch)):
            total += rows
            advance(total, total)
    write_json({"table": table, "rows": total}) if shared.json else line(f"Recorded {counted(total, 'row')} of {table}")
