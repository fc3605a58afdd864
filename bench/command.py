"""The command line as its users start it: a process of its own."""

from __future__ import annotations

import os
import sys

from ledger.settings import Settings


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from ledger.cli import main; sys.exit(main())", *arguments]


def environment(settings: Settings) -> dict[str, str]:
    """Where it finds the servers; nothing of the developer's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return own | {"LEDGER_DATABASE_URL": settings.database_url or "", "LEDGER_REDIS_URL": settings.redis_url or ""}
