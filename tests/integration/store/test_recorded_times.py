"""An entry that reaches the database late, after a pause of process or network, is not refused as false."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import pytest

from ledger import Ledger
from ledger.drivers.run import drive
from ledger.effects import CopyIn, Pipeline, Plan, Query, Refused
from ledger.errors import Unavailable
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.ledgers import SQL
from ledger.store.own_actions import erasing, record_own
from tests.support.helpers import checked, event, numbers

T = TypeVar("T")
STILL = 5.5
"""Seconds: the database believes five, and an idle transaction is ended after eight."""


def still(
    plan: Plan[T], before: Callable[[Any], bool] | None = None, after: Callable[[Any], bool] | None = None
) -> Plan[T]:
    """The plan, in a process that stands still before it sends such an effect, or before it sees the answer; once."""
    effect, done = next(plan), False
    try:
        while True:
            if not done and before is not None and before(effect):
                done = True
                time.sleep(STILL)
            try:
                brought = yield effect
            except Refused as refused:
                effect = plan.throw(refused)
            else:
                if not done and after is not None and after(effect):
                    done = True
                    time.sleep(STILL)
                effect = plan.send(brought)
    except StopIteration as stop:
        assert done
        result: T = stop.value
        return result


def writes(effect: Any) -> bool:
    """Does it send an entry that was made for a locked tail?"""
    queries = effect.queries if isinstance(effect, Pipeline) else [effect]
    return any(
        isinstance(each, CopyIn)
        or (isinstance(each, Query) and (each.sql == SQL["insert"] or "ledger.erase" in each.sql))
        for each in queries
    )


def locks(effect: Any) -> bool:
    queries = effect.queries if isinstance(effect, Pipeline) else [effect]
    return any(isinstance(each, Query) and each.sql in (SQL["lock_tail"], SQL["lock_tail_in_time"]) for each in queries)


def guesses(effect: Any) -> bool:
    return isinstance(effect, Query) and effect.sql == SQL["insert_after"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_append_that_stood_still_with_the_tail_in_hand(
    ledger: Ledger, admin: psycopg.Connection, count: int
) -> None:
    drafts = [prepare(event(number), "main") for number in range(count)]
    appender = Appender(ledger.ref)
    with pytest.raises(Unavailable, match="nothing was recorded"):
        drive(still(appender.append(drafts), writes), admin)
    admin.rollback()
    assert ledger.tail().position == 0
    drive(appender.append(drafts), admin)
    assert numbers(checked(ledger)) == list(range(count))


def test_an_erasure_that_stood_still(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(event())
    draft = prepare(erasing(1, "user:dpo", "asked for"), "main", own=True)
    with pytest.raises(Unavailable, match="nothing was recorded"):
        drive(still(record_own(Appender(ledger.ref), draft), writes), admin)
    admin.rollback()
    assert not checked(ledger)[0].erased


def test_an_answer_that_came_late(ledger: Ledger, admin: psycopg.Connection) -> None:
    """It tells a time that is over: found by the simulation, seed 700."""
    drafts = [prepare(event(), "main")]
    appender = Appender(ledger.ref)
    with pytest.raises(Unavailable, match="nothing was recorded"):
        drive(still(appender.append(drafts), after=locks), admin)
    admin.rollback()
    drive(appender.append(drafts), admin)
    assert numbers(checked(ledger)) == [0]


def test_a_guess_that_came_late_is_made_again_in_the_same_transaction(ledger: Ledger, migrated_url: str) -> None:
    """It must not abort what the caller has done so far."""
    appender = Appender(ledger.ref)
    with psycopg.connect(migrated_url) as connection:
        drive(appender.append_within([prepare(event(0), "main")]), connection, raw_errors=True)
        connection.commit()
        connection.execute("select 1")
        late = still(appender.append_within([prepare(event(1), "main")]), guesses)
        drive(late, connection, raw_errors=True)
    assert numbers(checked(ledger)) == [0, 1]


def test_a_late_entry_in_the_callers_transaction(ledger: Ledger, migrated_url: str) -> None:
    """The transaction is over, and the error says that beginning it again is safe."""
    appender = Appender(ledger.ref)
    with psycopg.connect(migrated_url) as connection:
        connection.execute("select 1")
        late = still(appender.append_within([prepare(event(), "main")]), writes)
        with pytest.raises(Unavailable, match="nothing was recorded"):
            drive(late, connection, raw_errors=True)
        connection.rollback()
    assert ledger.tail().position == 0
