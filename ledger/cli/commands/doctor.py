"""doctor: risks and misconfigurations, with advice."""

from __future__ import annotations

from collections import Counter

import click

from ledger.cli.app import DOES_NOT_VERIFY, OK, UNREACHABLE, Command
from ledger.cli.commands.status import print_unreachable, server_text
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import line, write_json
from ledger.drivers.pools import Connector
from ledger.ops.doctor import examine
from ledger.ops.doctor_types import Check, Diagnosis


@click.command("doctor", cls=Command)
@pass_shared
def doctor_command(shared: Shared) -> int:
    """Check versions, settings, protections, clocks and lag; print each problem with advice.

    Exit code 1 if there is a risk to integrity or durability, 3 if Postgres or Redis is unreachable, else 0, also with
    warnings.
    """
    connector = Connector(settings_of(shared, migrated=False))
    try:
        diagnosis = examine(connector, shared.names())
    finally:
        connector.close()
    if shared.json:
        write_json(
            {
                "ok": not diagnosis.danger and not diagnosis.unreachable,
                "postgres": server_text(diagnosis.postgres),
                "redis": server_text(diagnosis.redis),
                "checks": [check._asdict() for check in diagnosis.checks],
            }
        )
    else:
        _print(diagnosis)
    if diagnosis.danger:
        return DOES_NOT_VERIFY
    return UNREACHABLE if diagnosis.unreachable else OK


def _print(diagnosis: Diagnosis) -> None:
    width = max((len(check.name) for check in diagnosis.checks), default=0)
    for check in diagnosis.checks:
        line(_shown(check), check.name.ljust(width), check.found)
        if check.advice is not None:
            line(" " * 7, f"-> {check.advice}")
    print_unreachable(diagnosis.postgres, diagnosis.redis)
    counts = Counter(check.level for check in diagnosis.checks)
    parts = [f"{counts[level]} {level}" for level in ("danger", "warning", "unknown") if counts[level]]
    if parts:
        line(f"Of {len(diagnosis.checks)} checks: {', '.join(parts)}")
    elif not diagnosis.unreachable:
        line(f"All {len(diagnosis.checks)} checks passed")


def _shown(check: Check) -> str:
    return (check.level if check.level == "ok" else check.level.upper()).ljust(7)
