"""Ends a COPY whose process fell silent in the middle of it: stopped, hung, or swallowed by something on the way.

Every other silence in a transaction Postgres ends by itself (connections.py). While it waits for the rows of a COPY it
heeds none of its own timeouts, and what the transaction locked stays locked. So whoever waited for that in vain looks
for such a session of the same database user, and ends it. Its process finds the connection lost, and its work undone.
"""

from __future__ import annotations

from ledger.effects import Plan, Query, Refused, Wait, sql

SQL = sql("silence")
SECOND_LOOK = 1.0
"""Seconds in which a COPY that is alive must have moved on by a byte."""


def end_silent_copies() -> Plan[None]:
    """Ends those that have begun a while ago and stand still. On a connection without a transaction."""
    try:
        found = yield Query(SQL["waiting_copies"])
        if found:
            yield Wait(SECOND_LOOK)
            yield Query(SQL["end_copies"], ([pid for pid, _ in found], [done for _, done in found]))
    except Refused:
        return  # this database user may not look, or not end them; who waited says that it waited in vain
