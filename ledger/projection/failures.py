"""Entries that a projection could not apply: described, noted beside its position, and left out once skipped.

An exception's message may quote a body, which somebody may erase later. So only its type, the database's names and
codes, and where it was raised are noted, logged and recorded: see `described`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ledger.effects import Plan, Query
from ledger.errors import ProjectionFailed
from ledger.statements import sql

SQL = sql(__file__)
LONGEST = 500
"""Bytes of a description."""
NOT_PLAIN = "LE030"
"""SQLSTATE of a read view that a worker with more rights than its owner does not touch (schema/0010)."""
ROW = 10
"""Skipped entries in a row after which no more are skipped: the projection is broken then, not the entries."""

# Classes of SQLSTATE that the written values cause: cardinality, data, integrity, limits, RAISE. The others mean that a
# table or a right is missing, or that the server is busy, full or shutting down.
_OF_ENTRY = ("21", "22", "23", "54", "P0")


class Noted(NamedTuple):
    """tries: how often the entry failed for a reason of its own. row: how many skipped entries are right before it."""

    tries: int
    row: int


def failure(name: str, ledger: str, position: int, error: BaseException, source: type) -> ProjectionFailed:
    """The error for an `apply` that raised. source: the projection's class."""
    sqlstate = getattr(error, "sqlstate", None)
    from_entry = sqlstate.startswith(_OF_ENTRY) if sqlstate else not isinstance(error, OSError | MemoryError)
    text = described(error, source)
    if sqlstate == "42P01":
        text += f"; if a table of it was dropped, 'auditledger replay {name}' builds it anew"
    if sqlstate == NOT_PLAIN:
        text = (
            "its view would run what ledger_projector put there (LE030): work as a user that has only that, "
            f"or find out who made it so, then 'auditledger replay {name}'"
        )
    failed = ProjectionFailed(name, ledger, position, text, from_entry)
    failed.__cause__ = error
    return failed


def described(error: BaseException, source: type) -> str:
    """An exception as text, such as `ValueError in apply, views.py:31`, of which no part comes from an entry."""
    diagnosis = getattr(error, "diag", None)
    names = [
        f"SQLSTATE {error.sqlstate}" if getattr(error, "sqlstate", None) else "",  # type: ignore[attr-defined]
        *(f"{what} {getattr(diagnosis, f'{what}_name', None) or ''}" for what in ("constraint", "table", "column")),
    ]
    more = ", ".join(name for name in names if name and not name.endswith(" "))
    frames = traceback.extract_tb(error.__traceback__)
    files = {getattr(sys.modules.get(each.__module__), "__file__", None) for each in source.__mro__}
    own = [frame for frame in frames if frame.filename in files] or frames
    place = f" in {own[-1].name}, {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    text = f"{type(error).__name__}{f' ({more})' if more else ''}{place}"
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def note(ledger_id: int, failed: ProjectionFailed, version: int) -> Plan[Noted | None]:
    """Notes beside the live position the entry that could not be applied; None if that has moved on meanwhile.

    version: of the projection that failed, which in a rebuild may be another one than the live view's.
    """
    failure_columns = (failed.position, failed.error, int(failed.from_entry))
    rows = yield Query(SQL["note"], (*failure_columns, ledger_id, failed.name, version, ROW))
    return Noted(*rows[0]) if rows else None


def skips(ledger_id: int, names: Sequence[str]) -> Query:
    """Asks which entries these projections skip. Its rows: (name, positions) of each that skips some."""
    return Query(SQL["skips"], (ledger_id, list(names)))
