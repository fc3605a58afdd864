"""The statements that make the declared schema of a migrated one.

`results` finds what differs. What is new, and functions and views that changed, are written as they are declared:
so they keep their comments and grants, and the form in which `verify` reads them from the migrations.
"""

from __future__ import annotations

import re
from importlib import import_module
from itertools import groupby
from pathlib import Path

import psycopg

from tools import declared

_REPLACED = re.compile(r'create or replace (?:function|view) "?ledger"?\."?(\w+)', re.IGNORECASE)


def script(folder: Path, migrated: str, wanted: str) -> str:
    """folder: of the declaration. The URLs of both databases; what is new is created in the migrated one.

    Raises ModuleNotFoundError where `results` is not installed.
    """
    results = import_module("results")
    close_pool = import_module("results.database").close_pool
    with psycopg.connect(migrated, autocommit=True) as connection:
        new, _ = declared.run(declared.missing(folder, connection), connection)
    try:
        found = results.db(migrated).schemadiff_as_statements(results.db(wanted))
    finally:
        close_pool(migrated)
        close_pool(wanted)
    changes = [_as_declared(folder, statement.strip()) for statement in found if not statement.startswith("set ")]
    return _joined(new) + "".join(f"{change}\n" for change in changes)


def _joined(statements: list[declared.Statement]) -> str:
    """As they stand in their files; an empty line between files."""
    files = groupby(statements, lambda statement: statement.file)
    return "".join("".join(each.sql for each in group).strip() + "\n\n" for _, group in files)


def _as_declared(folder: Path, statement: str) -> str:
    found = _REPLACED.match(statement)
    if found is None:
        return statement
    file = next(file for file in folder.glob(f"*/{found[1]}.sql") if file.parent.name in ("functions", "views"))
    sql = declared.read(folder, file.relative_to(folder))[0].sql.strip()
    return re.sub(r"^create ", "create or replace ", sql, count=1, flags=re.MULTILINE)
