"""The declared schema: schema/declared/, plain SQL, one object a file, with all that belongs to it.

Its statements need no order: one that asks for something that is not there yet is tried again after the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import errors

OBJECTS = {"tables": "table", "functions": "function", "views": "view"}
"""Folder → what its files create."""
_STATEMENT = re.compile(r"(?:--[^\n]*|'[^']*'|\$\$.*?\$\$|[^;'$-]|-(?!-)|\$(?!\$))++;", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*")
_NOT_YET = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.UndefinedObject,
    errors.InvalidSchemaName,
)


class DeclarationError(Exception):
    """A declared file that is not what it should be; names the file."""


class Statement(NamedTuple):
    """file: where it stands, below the declaration's folder. sql: with the empty lines and comments above it."""

    file: Path
    sql: str

    @property
    def name(self) -> str:
        """Of the object that the file declares."""
        return f"ledger.{self.file.stem}"


def read(folder: Path, file: Path) -> list[Statement]:
    """The statements of one file. Raises DeclarationError."""
    rest = (folder / file).read_text()
    statements = []
    while found := _STATEMENT.match(rest):
        statements.append(Statement(file, found[0]))
        rest = rest[found.end() :]
    if _COMMENT.sub("", rest).strip():
        raise DeclarationError(f"{file}: its last statement has no semicolon, or a quote is open")
    kind = OBJECTS.get(file.parent.name)
    beginning = _COMMENT.sub("", statements[0].sql).lstrip() if statements else ""
    if kind is not None and not re.match(rf"create {kind} ledger\.{file.stem}\b", beginning):
        raise DeclarationError(f"{file}: it must begin with 'create {kind} ledger.{file.stem}'")
    return statements


def objects(folder: Path) -> list[Statement]:
    """The statements of all tables, functions and views. Raises DeclarationError."""
    files = sorted(file.relative_to(folder) for kind in OBJECTS for file in (folder / kind).glob("*.sql"))
    return [statement for file in files for statement in read(folder, file)]


def missing(folder: Path, connection: psycopg.Connection) -> list[Statement]:
    """The statements of the objects that are not in the database."""
    rows = connection.execute(
        "select relname from pg_class where relnamespace = 'ledger'::regnamespace and relkind in ('r', 'p', 'v')"
        " union all select proname from pg_proc where pronamespace = 'ledger'::regnamespace"
    ).fetchall()
    there = {f"ledger.{name}" for (name,) in rows}
    return [statement for statement in objects(folder) if statement.name not in there]


def load(folder: Path, connection: psycopg.Connection) -> None:
    """Makes the declared schema in an empty database, whose server has its roles. Raises DeclarationError."""
    for file in sorted((folder / "schemas").glob("*.sql")):
        for statement in read(folder, file.relative_to(folder)):
            connection.execute(statement.sql.encode())
    _, left = run(objects(folder), connection)
    for statement, error in left:
        raise DeclarationError(f"{statement.file}: {error}")


def run(
    statements: Iterable[Statement], connection: psycopg.Connection
) -> tuple[list[Statement], list[tuple[Statement, psycopg.Error]]]:
    """As ledger_owner. The statements in the order in which they could be run, and those that want what is not there.

    Raises DeclarationError for one that fails for another reason.
    """
    done: list[Statement] = []
    pending = list(statements)
    connection.execute("set role ledger_owner")
    while True:
        left: list[tuple[Statement, psycopg.Error]] = []
        for statement in pending:
            try:
                with connection.transaction():
                    connection.execute(statement.sql.encode())
                done.append(statement)
            except _NOT_YET as error:
                left.append((statement, error))
            except psycopg.Error as error:
                raise DeclarationError(f"{statement.file}: {error}") from None
        if len(left) in (0, len(pending)):
            break
        pending = [statement for statement, _ in left]
    connection.execute("reset role")
    return done, left
