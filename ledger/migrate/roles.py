"""Grants and revokes the roles of the schema (schema/declared/roles.sql). Plans."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.effects import Plan, Query, Refused
from ledger.errors import UsageError
from ledger.statements import sql
from ledger.store.ledgers import all_ledgers, unknown_ledger

SQL = sql(__file__)
RECORDER, READER, WRITER = "ledger_recorder", "ledger_reader", "ledger_writer"
ROLES = (RECORDER, WRITER, READER, "ledger_projector", "ledger_eraser", "ledger_admin")
"""The roles that can be granted. ledger_owner is never granted."""
BY_LEDGER = (RECORDER, READER, WRITER)
"""The roles that can be granted for single ledgers."""
_REFUSED = "0LP01"


def grant(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Grants one of ROLES to a user. ledgers: names, for a role of BY_LEDGER, added to those it has; None for all.

    None includes future ledgers. Raises UsageError if the role or the user does not exist, UnknownLedger.
    """
    yield from _change("grant", role, user, ledgers)


def revoke(role: str, user: str, ledgers: Sequence[str] | None = None) -> Plan[None]:
    """Revokes a role from a user. ledgers: names that a role of BY_LEDGER loses, and the role with the last; None: all.

    Raises UsageError if the role or the user does not exist, if single ledgers are named and the user has the role for
    all, or if the role was granted by hand by another user; UnknownLedger.
    """
    yield from _change("revoke", role, user, ledgers)


def _change(how: str, role: str, user: str, ledgers: Sequence[str] | None) -> Plan[None]:
    ids = None
    if ledgers is not None:
        if role not in BY_LEDGER:
            raise UsageError(f"{role} applies to all ledgers; only {', '.join(BY_LEDGER)} are granted by ledger")
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
        raise UsageError(refused.first_line + (f": {refused.hint}" if refused.hint else "")) from refused
