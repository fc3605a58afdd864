"""Do the migrations make what schema/declared/ says? Both are made on a scratch server, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql

from ledger import testing
from ledger.migrate import migrate
from ledger.settings import Settings
from tools import declared, dump

_ROLES = """
    select format('role %s: %s', rolname, to_jsonb(role) - '{oid, rolname, rolpassword}'::text[])
    from pg_roles as role where rolname !~ '^pg_'
    union all
    select format('%s in %s: %s', member::regrole, roleid::regrole, to_jsonb(found) - '{oid, member, roleid}'::text[])
    from pg_auth_members as found where roleid::regrole::text !~ '^pg_'
"""


class Comparison(NamedTuple):
    """migrated, declared: URLs of the two databases. differences: a text for each; empty where they agree."""

    migrated: str
    declared: str
    differences: list[str]


@contextmanager
def compared(schema: Path, server: str) -> Iterator[Comparison]:
    """For as long as the block runs: both databases, on a server that has none of the ledger's roles yet.

    server: a superuser's URL. Raises MigrationTampered, DeclarationError, DumpFailed, and what migrations may raise.
    """
    folder = schema / "declared"
    with own_roles(server), _database(server) as migrated, _database(server) as wanted:
        roles = _declared_roles(folder, server)
        migrate.migrate(Settings(database_url=migrated), folder=schema)
        with psycopg.connect(wanted, autocommit=True) as connection:
            declared.load(folder, connection)
            found = dump.differences({"roles": _roles(connection)}, {"roles": roles})
        found += dump.differences(dump.dump(migrated), dump.dump(wanted))
        yield Comparison(migrated, wanted, found)


@contextmanager
def _database(server: str) -> Iterator[str]:
    """An empty one, in which no name is found without its schema: whoever migrates may have another search_path."""
    with testing.database(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            name = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL("alter database {} set search_path = ''").format(name))
        yield url


@contextmanager
def own_roles(server: str) -> Iterator[None]:
    """Drops the roles that were created within the block."""
    names = "select rolname from pg_roles"
    with psycopg.connect(server, autocommit=True) as connection:
        before = set(connection.execute(names).fetchall())
        try:
            yield
        finally:
            for (name,) in set(connection.execute(names).fetchall()) - before:
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def _declared_roles(folder: Path, server: str) -> str:
    """What roles.sql makes; rolled back, because the migrations make the same."""
    with psycopg.connect(server) as connection:
        for statement in declared.read(folder, Path("roles.sql")):
            connection.execute(statement.sql.encode())
        roles = _roles(connection)
        connection.rollback()
    return roles


def _roles(connection: psycopg.Connection) -> str:
    return "\n".join(sorted(line for (line,) in connection.execute(_ROLES)))
