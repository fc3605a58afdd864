"""Who may do what: the roles of schema/0005_roles.sql, granting them, and what goes beyond them. Plans.

What each role may do stands in the migrations alone, as `grant` statements and calls of `restrict_readers` that begin a
line: `expected` reads them from there, so that a migration which adds a table says once who may use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ledger.effects import Plan, Query, Refused, sql
from ledger.errors import UsageError
from ledger.findings import Finding
from ledger.migrate import Migration
from ledger.store import all_ledgers, unknown_ledger

SQL = sql("privileges")
READER = "ledger_reader"
ROLES = ("ledger_writer", READER, "ledger_projector", "ledger_eraser", "ledger_admin")
"""The roles that users are given. Nobody is given ledger_owner."""
_REFUSED = "0LP01"

_BODY = re.compile(r"\$\$.*?\$\$|--[^\n]*", re.DOTALL)
_STATEMENT = re.compile(r"^(grant|revoke) ([^;]+?) on (schema |function |)([^;]+?) (?:to|from) ([^;]+);", re.MULTILINE)
_PRIVILEGE = re.compile(r"(\w+)(?: \(([^)]*)\))?")
_RESTRICTED = re.compile(r"^select ledger\.restrict_readers\(([^)]*)\);", re.MULTILINE)


class Grant(NamedTuple):
    """kind: schema, table (views too) or function. column: empty where it is for the whole object."""

    kind: str
    object: str
    column: str
    role: str
    privilege: str


class Expected(NamedTuple):
    """grants: all there are. restricted: the tables of which readers see the rows of their ledgers only, and the roles
    that see all rows of them.
    """

    grants: set[Grant]
    restricted: dict[str, tuple[str, ...]]


def expected(migrations: Sequence[Migration]) -> Expected:
    """What the migrations grant, in all."""
    grants: set[Grant] = set()
    restricted = {}
    for migration in migrations:
        script = _BODY.sub("", migration.sql)
        for verb, *parts in _STATEMENT.findall(script):
            said = _grants(*(" ".join(part.split()) for part in parts))
            grants = grants | said if verb == "grant" else grants - said
        for arguments in _RESTRICTED.findall(script):
            table, *roles = re.findall(r"'([^']*)'", arguments)
            restricted[table] = tuple(roles)
    return Expected(grants, restricted)


def _grants(privileges: str, kind: str, objects: str, roles: str) -> set[Grant]:
    return {
        Grant(kind or "table", target, column, role, privilege)
        for privilege, columns in _PRIVILEGE.findall(privileges)
        for column in columns.split(", ")
        for target in objects.split(", ")
        for role in roles.split(", ")
    }


def check(migrations: Sequence[Migration]) -> Plan[list[Finding]]:
    """One finding for whatever lets a role do more than these migrations grant it.

    Wants the search_path that verify.sql's `begin` sets.
    """
    grants, restricted = expected(migrations)
    columns = [list(column) for column in zip(*sorted(grants), strict=True)]
    roles = [" ".join(roles) for roles in restricted.values()]
    rows = yield Query(SQL["wider"], (*columns, list(restricted), roles))
    return [Finding(None, "unprotected", detail) for (detail,) in rows]


def grant(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Gives a user one of ROLES. ledgers: the names of those that a reader may read, besides what it may already; None
    for all, those to come among them.

    Raises UsageError where there is no such role or user, UnknownLedger.
    """
    yield from _change("grant", role, user, ledgers)


def revoke(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Takes a role from a user. ledgers: the names of those that a reader may read no longer; the role goes with the
    last of them. None: the role, whatever it was given for.

    Raises UsageError where there is no such role or user, where the user reads all ledgers and some are named, or where
    somebody else gave it the role by hand; UnknownLedger.
    """
    yield from _change("revoke", role, user, ledgers)


def _change(how: str, role: str, user: str, ledgers: Sequence[str] | None) -> Plan[None]:
    ids = None
    if ledgers is not None:
        if role != READER:
            raise UsageError(f"{role} is for all ledgers: only {READER} is given ledger by ledger")
        known = {ledger.name: ledger.ledger_id for ledger in (yield from all_ledgers())}
        unknown = [name for name in ledgers if name not in known]
        if unknown:
            raise unknown_ledger(unknown[0], known)
        ids = [known[name] for name in ledgers]
    try:
        yield Query(SQL[how], (role, user, ids))
    except Refused as refused:
        if refused.sqlstate != _REFUSED:
            raise
        raise UsageError(str(refused).partition("\n")[0]) from refused
