"""An entry that is committed and not yet durable: what an append leaves behind whose process dies between the two."""

from __future__ import annotations

from typing import Any

from ledger import Event
from ledger.drivers.connections import connect
from ledger.drivers.run import drive
from ledger.effects import Effect, Pipeline, Plan
from ledger.settings import Settings
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.durability import FLUSH
from ledger.store.ledgers import find_ledger


def without_flush(plan: Plan[Any]) -> Plan[bool]:
    """A plan up to its flush, which never comes. Returns whether there was one."""
    try:
        effect: Effect = next(plan)
        while True:
            if isinstance(effect, Pipeline) and effect.queries[-1] is FLUSH:
                yield Pipeline(effect.queries[:-1])
                return True
            effect = plan.send((yield effect))
    except StopIteration:
        return False
    finally:
        plan.close()


def commit_unflushed(settings: Settings, event: Event) -> None:
    """Records an event as an append does that had to wait for the tail, and dies before it flushes."""
    connection = connect(settings)
    try:
        appender = Appender(drive(find_ledger(settings.name), connection))
        plan = appender.append([prepare(event, settings.name)])
        assert drive(without_flush(plan), connection), "this append flushes nothing"
    finally:
        connection.close()
