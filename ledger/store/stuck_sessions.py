"""Ends sessions whose process fell silent in the middle of a pipeline or a COPY: it was stopped, or its network hangs.

Between two statements of a transaction Postgres ends such a session by itself (drivers/connections.py). While it waits
for the rest of a pipeline, or for the rows of a COPY, it heeds none of its timeouts, and what the transaction locked
stays locked. So a plan that waited for that in vain looks for such sessions of the same database user, and ends them.
Their processes find the connection lost, and their work undone.
"""

from __future__ import annotations

from ledger.effects import Plan, Query, Refused, Wait
from ledger.statements import sql

SQL = sql(__file__)
SECOND_LOOK = 1.0
"""Seconds in which a session that is alive must have come on, by a statement or a byte."""


def end_silent_sessions() -> Plan[None]:
    """Ends those that have been silent for a while. For a connection without a transaction."""
    try:
        silent = yield Query(SQL["silent_sessions"])
        if silent:
            yield Wait(SECOND_LOOK)
            pids, began, taken = zip(*silent, strict=True)
            yield Query(SQL["end_sessions"], (list(pids), list(began), list(taken)))
    except Refused:
        return  # this database user may not look, or not end them; the caller reports its wait
