"""Ends sessions whose process fell silent in the middle of what it says: stopped, hung, or swallowed on the way.

Between two statements of a transaction Postgres ends such a session by itself (drivers/connections.py). While it waits
for the rest of a pipeline, or for the rows of a COPY, it heeds none of its timeouts, and what the transaction locked
stays locked. So whoever waited for that in vain looks for such a session of the same database user, and ends it. Its
process finds the connection lost, and its work undone.
"""

from __future__ import annotations

from ledger.effects import Plan, Query, Refused, Wait
from ledger.statements import sql

SQL = sql(__file__)
SECOND_LOOK = 1.0
"""Seconds in which a session that is alive must have come on, by a statement or a byte."""


def end_silent_sessions() -> Plan[None]:
    """Ends those that have begun a while ago and stand still. On a connection without a transaction."""
    try:
        found = yield Query(SQL["silent_sessions"])
        if found:
            yield Wait(SECOND_LOOK)
            pids, began, taken = zip(*found, strict=True)
            yield Query(SQL["end_sessions"], (list(pids), list(began), list(taken)))
    except Refused:
        return  # this database user may not look, or not end them; who waited says that it waited in vain
