"""doctor: what endangers the ledger, and what to do about it."""

from __future__ import annotations

from collections import Counter

import click

from ledger.cli.app import DOES_NOT_VERIFY, OK, UNREACHABLE, Command
from ledger.cli.commands.status import print_away, server_text
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import line, write_json
from ledger.drivers.pools import Connector
from ledger.ops.doctor import Check, Diagnosis, examine


@click.command("doctor", cls=Command)
@pass_shared
def doctor_command(shared: Shared) -> int:
    """Look at versions, settings, protections, clocks and lag; say what is wrong, and what to do.

    Exits 1 if there is a risk to integrity or durability, 3 where Postgres or Redis is unreachable, 0 for all else:
    warnings too.
    """
    connector = Connector(settings_of(shared, migrated=False))
    try:
        found = examine(connector, shared.names())
    finally:
        connector.close()
    if shared.json:
        write_json(
            {
                "ok": not found.danger and not found.away,
                "postgres": server_text(found.postgres),
                "redis": server_text(found.redis),
                "checks": [check._asdict() for check in found.checks],
            }
        )
    else:
        _print(found)
    if found.danger:
        return DOES_NOT_VERIFY
    return UNREACHABLE if found.away else OK


def _print(found: Diagnosis) -> None:
    width = max((len(check.name) for check in found.checks), default=0)
    for check in found.checks:
        line(_shown(check), check.name.ljust(width), check.found)
        if check.advice is not None:
            line(" " * 7, f"-> {check.advice}")
    print_away(found.postgres, found.redis)
    counts = Counter(check.level for check in found.checks)
    parts = [f"{counts[level]} {level}" for level in ("danger", "warning", "unknown") if counts[level]]
    if parts:
        line(f"Of {len(found.checks)} checks: {', '.join(parts)}")
    elif not found.away:
        line(f"All {len(found.checks)} checks passed")


def _shown(check: Check) -> str:
    return (check.level if check.level == "ok" else check.level.upper()).ljust(7)
