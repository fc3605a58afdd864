"""The built-in read views of an audit ledger, and the plans that query them.

    from ledger import Ledger
    from ledger_projections import search, state

    with Ledger.open() as ledger:
        entries, cursor = ledger.run(search(ledger.ref, action="invoice.*", text="overdue -paid"))
        invoice = ledger.run(state(ledger.ref, "invoice", "inv_7"))

They use only `ledger`'s public names, as a user's own do. `auditledger project` keeps them up to date.
"""

from ledger_projections.actor_activity import Activity, ActorActivity, activity
from ledger_projections.diff import Change
from ledger_projections.resource_history import HistoryItem, ResourceHistory, history
from ledger_projections.resource_state import ResourceState, State, state
from ledger_projections.timeline import Page, Timeline, search

__all__ = [
    "Activity",
    "ActorActivity",
    "Change",
    "HistoryItem",
    "Page",
    "ResourceHistory",
    "ResourceState",
    "State",
    "Timeline",
    "activity",
    "history",
    "search",
    "state",
]
