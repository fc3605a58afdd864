"""up, down, migrate and create."""

from __future__ import annotations

import click

from ledger import embedded
from ledger.cli.app import Command
from ledger.cli.connect import connected, settings_of, start_embedded
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import line, write_json
from ledger.cli.text import note
from ledger.migrate.migrate import migrate
from ledger.settings import Settings, check_ledger_name
from ledger.store.ledgers import create_ledger


@click.command("up", cls=Command)
@pass_shared
def up_command(shared: Shared) -> None:
    """Start the embedded Postgres and Valkey, and print their URLs.

    They run until 'auditledger down'. To use them in your shell: eval "$(auditledger up)"
    """
    settings = start_embedded(shared.embedded_home(), Settings())
    if shared.json:
        write_json({"database_url": settings.database_url, "redis_url": settings.redis_url})
    else:
        line(f"export LEDGER_DATABASE_URL='{settings.database_url}'")
        line(f"export LEDGER_REDIS_URL='{settings.redis_url}'")


@click.command("down", cls=Command)
@pass_shared
def down_command(shared: Shared) -> None:
    """Stop the embedded servers. Their data stays."""
    home = shared.embedded_home()
    stopped = embedded.stop(home)
    if shared.json:
        write_json({"stopped": stopped})
    else:
        line(f"Stopped the servers of {home}" if stopped else f"No servers were running in {home}")


@click.command("migrate", cls=Command)
@click.option("--dry-run", is_flag=True, help="Print the pending migrations; change nothing.")
@pass_shared
def migrate_command(shared: Shared, dry_run: bool) -> None:
    """Bring the schema up to date, and create ledger main. Safe to run at every start."""
    files = migrate(settings_of(shared, migrated=False), dry_run=dry_run)
    if shared.json:
        write_json({"applied": [] if dry_run else files, "pending": files if dry_run else []})
        return
    for file in files:
        line("would apply" if dry_run else "applied", file)
    if not files:
        line("The schema is up to date.")


@click.command("create", cls=Command)
@click.argument("name")
@pass_shared
def create_command(shared: Shared, name: str) -> None:
    """Create another ledger in the database."""
    check_ledger_name(name)
    with connected(shared) as connector:
        created = connector.run(create_ledger(name))
    if shared.json:
        write_json({"ledger": name, "created": created})
    elif created:
        line(f"Created ledger {name}")
    else:
        note(f"Ledger {name} already exists")
