"""Skipped entries in the database: only through the functions that record them; `verify` compares both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from ledger import Event, Ledger, Plan
from ledger.drivers.run import drive
from ledger.format.actions import SKIP_TYPE, SKIPPED
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.idempotency import Outcome
from ledger.store.own_actions import erasing, record_own, retrying, skipping
from tests.support.erasure import CHANGE, call, refused
from tests.support.failing_projection import POISON, Picky, poisoned, retry
from tests.support.findings import places
from tests.support.helpers import checked
from tests.support.views import project, projector, some_events


@pytest.fixture
def stuck(ledger: Ledger) -> Ledger:
    """Picky is blocked at entry 2."""
    ledger.append_many([*some_events(1), POISON, POISON])
    with projector(ledger, [Picky(poisoned)]) as running:
        running.catch_up()
    return ledger


STATEMENTS = [
    "insert into ledger.skips values (1, 'picky', 2, 9, null)",
    "update ledger.skips set retried = 9",
    "update ledger.skips set position = 9",
    "delete from ledger.skips",
    "truncate ledger.skips",
]


def test_nobody_changes_them_by_hand(stuck: Ledger, admin: psycopg.Connection) -> None:
    """Not the owner, and not whoever knows the setting."""
    stuck.skip("picky", 2, "user:ops", "x")
    for statement in STATEMENTS:
        refused(admin, CHANGE, admin.execute, statement)
    admin.execute("create role ledger_test_clever")
    try:
        admin.execute("grant usage on schema ledger to ledger_test_clever")
        admin.execute("grant all on ledger.skips, ledger.audit_logs, ledger.holds to ledger_test_clever")
        admin.execute("set role ledger_test_clever")
        for action in ("ledger.entry_skipped", "ledger.entry_retried"):
            admin.execute("select set_config('ledger.own', %s, false)", [action])
            for statement in STATEMENTS:
                refused(admin, CHANGE, admin.execute, statement)
    finally:
        admin.execute("reset role")
        admin.execute("drop owned by ledger_test_clever")
        admin.execute("drop role ledger_test_clever")


def test_a_function_records_only_its_own(stuck: Ledger, admin: psycopg.Connection) -> None:
    tail = stuck.tail()
    sound = skipping("picky", 2, "user:x", "y")

    def with_resource(resource_type: str | None, resource_id: str | None) -> Event:
        return Event("user:x", SKIPPED, resource_type, resource_id, metadata={"reason": "y"})

    for function, false, sqlstate in (
        ("skip_entry", erasing(1, "user:x", "y"), "LE002"),
        ("retry_entry", sound, "LE010"),
        ("erase_entry", sound, "LE002"),
        ("place_hold", sound, "LE002"),
        ("skip_entry", with_resource("ledger.entry", "2"), "LE002"),
        ("skip_entry", with_resource(None, None), "LE002"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky"), "LE002"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky:02"), "LE002"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky:2:2"), "LE002"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky:2\n"), "LE002"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky:9"), "LE006"),
        ("skip_entry", with_resource(SKIP_TYPE, "picky:1"), "LE010"),
        ("skip_entry", Event("user:x", SKIPPED, SKIP_TYPE, "picky:2"), "LE002"),
        ("skip_entry", Event("user:x", SKIPPED, SKIP_TYPE, "picky:2", after=1, metadata={"reason": "y"}), "LE002"),
        ("retry_entry", retrying("picky", 2, "user:x", "y"), "LE010"),
    ):
        refused(admin, sqlstate, call, admin, function, false, tail)
    call(admin, "skip_entry", sound, tail)
    refused(admin, "LE010", call, admin, "skip_entry", skipping("picky", 3, "user:x", "y"), stuck.tail())
    assert len(checked(stuck)) == 4 and stuck.verify().ok


@contextmanager
def by_hand(admin: psycopg.Connection) -> Iterator[None]:
    """As a superuser with the triggers on the skips off, and on again."""
    admin.execute("alter table ledger.skips disable trigger all")
    yield
    for trigger in ("append_only", "skipped_by_entries", "retried_by_entries"):
        admin.execute(f"alter table ledger.skips enable always trigger {trigger}".encode())


def test_verify_compares_them_with_the_chain(stuck: Ledger, admin: psycopg.Connection) -> None:
    stuck.skip("picky", 2, "user:ops", "x")  # 4
    with projector(stuck, [Picky(poisoned)]) as running:
        running.catch_up()
    stuck.skip("picky", 3, "user:ops", "x")  # 5
    project(stuck, [Picky(poisoned)])
    retry(stuck, Picky(), 2)  # 6
    assert stuck.verify().findings == []
    for statement, positions in (
        ("delete from ledger.skips where skipped = 5", [5]),
        ("update ledger.skips set retried = null where skipped = 4", [6]),
        ("update ledger.skips set retried = 99 where skipped = 4", [4, 6]),
        ("update ledger.skips set retried = 6 where skipped = 5", [5]),
        ("update ledger.skips set name = 'timeline' where skipped = 5", [5, 5]),
        ("update ledger.skips set position = 1 where skipped = 5", [5, 5]),
        ("insert into ledger.skips values (1, 'picky', 1, 3, null)", [3]),
        ("insert into ledger.skips values (1, 'timeline', 3, 99, null)", [99]),
    ):
        before = admin.execute("table ledger.skips").fetchall()
        with by_hand(admin):
            admin.execute(statement)
        findings = stuck.verify().findings
        assert places(findings) == [(each, "unprotected") for each in positions]
        assert all("ledger.skips" in each.detail for each in findings)
        assert stuck.verify(workers=2).findings == findings
        with by_hand(admin):
            admin.execute("delete from ledger.skips")
            for row in before:
                admin.execute("insert into ledger.skips values (%s, %s, %s, %s, %s)", row)
    assert stuck.verify().findings == []


@pytest.mark.parametrize("effects", range(6))
def test_a_crash_in_a_skip_leaves_both_or_nothing(stuck: Ledger, admin: psycopg.Connection, effects: int) -> None:
    """After each of its effects: the projection's lock, the tail's, the function, the commit."""
    draft = prepare(skipping("picky", 2, "user:ops", "x"), "main", own=True)
    done = []

    def cut_short(plan: Plan[list[Outcome]]) -> Plan[None]:
        effect = next(plan)
        try:
            for _ in range(effects):
                brought = yield effect
                done.append(effect)
                effect = plan.send(brought)
        except StopIteration:
            return

    with psycopg.connect(stuck.settings.database_url or "", autocommit=True) as connection:
        drive(cut_short(record_own(Appender(stuck.ref), draft)), connection)
        connection.close()
    whole = len(done) == 4
    assert admin.execute("select position, skipped from ledger.skips").fetchall() == ([(2, 4)] if whole else [])
    assert len(checked(stuck)) == 3 + whole and whole == (effects >= 4)
    assert stuck.verify().ok
    assert stuck.skip("picky", 2, "user:ops", "x").position == 4
