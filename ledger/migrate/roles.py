"""Who may do what: the roles of schema/0005_roles.sql, and granting them. Plans."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.effects import Plan, Query, Refused
from ledger.errors import UsageError
from ledger.statements import sql
from ledger.store.ledgers import all_ledgers, unknown_ledger

SQL = sql(__file__)
READER, WRITER = "ledger_reader", "ledger_writer"
ROLES = (WRITER, READER, "ledger_projector", "ledger_eraser", "ledger_admin")
"""The roles that users are given. Nobody is given ledger_owner."""
BY_LEDGER = (READER, WRITER)
"""Those that are given for some ledgers, or for all."""
_REFUSED = "0LP01"


def grant(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Gives a user one of ROLES. ledgers: the names of those that a reader may read, or a writer append to, besides
    what it may already; None for all, those to come among them.

    Raises UsageError where there is no such role or user, UnknownLedger.
    """
    yield from _change("grant", role, user, ledgers)


def revoke(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Takes a role from a user. ledgers: the names of those that a reader or writer has it for no longer; the role goes
    with the last of them. None: the role, whatever it was given for.

    Raises UsageError where there is no such role or user, where the user has it for all ledgers and some are named, or
    where somebody else gave it the role by hand; UnknownLedger.
    """
    yield from _change("revoke", role, user, ledgers)


def _change(how: str, role: str, user: str, ledgers: Sequence[str] | None) -> Plan[None]:
    ids = None
    if ledgers is not None:
        if role not in BY_LEDGER:
            raise UsageError(f"{role} is for all ledgers: only {' and '.join(BY_LEDGER)} are given ledger by ledger")
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
