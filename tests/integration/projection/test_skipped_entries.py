"""Skipped entries: by hand or by --skip-after, on the record, and undone by a rebuild."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import Entry, InvalidEvent, Ledger, Plan, ProjectionFailed, SkipRefused, TailBusy
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.projection import base as plans
from ledger.projection import failures
from ledger.projection.apply import advance_exactly
from ledger.projection.rebuild import begin_rebuild, swap
from ledger.projection.worker import Projector
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.ledgers import read
from ledger.store.own_actions import record_own, retrying
from ledger.stream.reader import EMPTY_TAIL
from tests.support.api import Api
from tests.support.cli import cli_of
from tests.support.failing_projection import (
    POISON,
    Picky,
    live_is_a_replay,
    poisoned,
    positions,
    retry,
    standstill,
    working,
)
from tests.support.helpers import checked, event, events, eventually
from tests.support.views import leftovers, project, projector, some_events

# -------------------------------------------------------------------------------------------------------------- skip


def test_skipped_on_the_record(stuck: Ledger, admin: psycopg.Connection) -> None:
    receipt = stuck.skip("picky", 6, "user:ops", "ticket 12")
    assert standstill(admin) == (5, None, None, None)
    project(stuck, [Picky(poisoned), Timeline()])
    assert positions(admin) == [*range(1, 6), *range(7, 12)]
    said = checked(stuck)[-1]
    assert (said.position, said.hash) == (receipt.position, receipt.hash)
    assert (said.actor, said.action, said.resource_type, said.resource_id, said.metadata) == (
        "user:ops", "ledger.entry_skipped", "ledger.skip", "picky:6", {"reason": "ticket 12"}
    )  # fmt: skip
    live_is_a_replay(stuck, admin, Picky(poisoned))
    live_is_a_replay(stuck, admin, Timeline())
    assert stuck.verify().findings == []
    [shown] = [
        view
        for view in cli_of(stuck).well("status", "--json").json["ledgers"][0]["projections"]
        if view["name"] == "picky"
    ]
    assert (shown["skipped"], shown["standstill"], shown["position"]) == (1, None, 11)
    assert "1 entry skipped" in cli_of(stuck).well("status").out


def test_a_worker_goes_on_behind_what_was_skipped(ledger: Ledger, admin: psycopg.Connection) -> None:
    """And is blocked at the next one."""
    ledger.append_many([*some_events(5), POISON, *some_events(4), POISON])
    with working(ledger, Picky(poisoned)) as running:
        eventually(lambda: standstill(admin)[1] == 6)
        ledger.skip("picky", 6, "user:ops", "ticket 12")
        eventually(lambda: standstill(admin)[1] == 11)
        eventually(lambda: [failed.position for failed in running.failed] == [11])
        ledger.skip("picky", 11, "user:ops", "ticket 13")
        ledger.wait_for(13, "picky", timeout=30)
        eventually(lambda: not running.failed)
    assert positions(admin) == [*range(1, 6), *range(7, 11), 12, 13]
    live_is_a_replay(ledger, admin, Picky(poisoned))


class TestSkipping:
    @pytest.fixture
    def roles(self) -> tuple[str, ...]:
        return ("ledger_reader", "ledger_admin")

    def test_skipping_again(self, stuck: Ledger, api: Api) -> None:
        first = api.skip("picky", 6, "user:ops", "ticket 12")
        assert api.skip("picky", 6, "user:ops", "ticket 12") == first
        with pytest.raises(SkipRefused, match=r"ledger.skip:picky:6 was skipped already, by user:ops at position 11"):
            api.skip("picky", 6, "user:other", "ticket 12")
        assert len(checked(api)) == 11

    def test_what_cannot_be_skipped(self, stuck: Ledger, api: Api) -> None:
        """Only an entry at which a projection is blocked: nothing is hidden from a view that works."""
        for name, position, problem in (
            ("picky", 5, "picky is not blocked at entry 5: nothing was recorded"),
            ("picky", 7, "is not blocked at entry 7"),
            ("timeline", 6, "timeline is not blocked"),
            ("unknown", 6, "unknown is not blocked"),
            ("picky", 99, "there is no entry 99"),
        ):
            with pytest.raises(SkipRefused, match=problem):
                api.skip(name, position, "user:ops", "ticket 12")
        for name, position, reason in (
            ("Picky", 6, "x"), ("picky:6", 6, "x"), ("", 6, "x"), ("picky", 0, "x"), ("picky", 10**30, "x"),
            ("picky", 6, " "),
        ):  # fmt: skip
            with pytest.raises(InvalidEvent):
                api.skip(name, position, "user:ops", reason)
        assert len(checked(api)) == 10


def test_an_erasure_is_never_left_out(ledger: Ledger, admin: psycopg.Connection) -> None:
    """The view would keep what it made of the body."""
    ledger.append(POISON)
    ledger.erase(1, "user:dpo", "asked for")
    bad = Picky(lambda entry: ValueError() if entry.action == "ledger.entry_erased" else None)
    with projector(ledger, [bad]) as running:
        running.catch_up()
    assert standstill(admin)[1] == 2
    with pytest.raises(SkipRefused, match="entry 2 is an erasure, which no view may leave out"):
        ledger.skip("picky", 2, "user:ops", "x")


def test_what_is_skipped_is_no_part_of_an_erasure(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Neither is its own erasure told to the view, nor does it come among the others about the resource."""

    class Telling(Picky):
        def erase(self, ledger_id: int, entry: Entry, about: object, tx: plans.Writes) -> None:
            others = ",".join(str(each.position) for each in about)  # type: ignore[attr-defined]
            tx.execute("update picky set note = %s where position = %s", (others, entry.position))
            assert entry.position != 2

    ledger.append_many([event(0, resource_type="person", resource_id="p"), POISON, POISON])
    ledger.append(event(0, resource_type="person", resource_id="p"))
    for position in (2, 3):
        with projector(ledger, [Telling(poisoned)]) as running:
            running.catch_up()
        ledger.skip("picky", position, "user:ops", "x")
    ledger.erase(1, "user:dpo", "asked for")
    ledger.erase(2, "user:dpo", "asked for")
    project(ledger, [Telling(poisoned)])
    assert admin.execute("select note from ledger_views.picky where position = 1").fetchall() == [("1,4",)]
    live_is_a_replay(ledger, admin, Telling(poisoned))


def test_applied_or_skipped_never_both(stuck: Ledger, admin: psycopg.Connection) -> None:
    """While a worker applies the entry, who skips it waits; appends do not. It was applied: nothing is left to skip."""
    result: list[Exception | None] = []

    def skip() -> None:
        try:
            stuck.skip("picky", 6, "user:ops", "x")
        except SkipRefused as refused:
            result.append(refused)

    with psycopg.connect(stuck.settings.database_url or "") as worker, Ledger(stuck.settings) as other:
        worker.execute("select from ledger.projections where name = 'picky' for update")
        skipping = threading.Thread(target=skip)
        skipping.start()
        waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        eventually(lambda: admin.execute(waits).rowcount > 0)
        assert other.append(event(0)).position == 11
        worker.execute(
            "update ledger.projections set (position, hash, recorded_at) ="
            " (select position, hash, recorded_at from ledger.audit_logs where ledger_id = 1 and position = 6),"
            " failed_position = null, failed_error = null,"
            " failing_since = null, failed_tries = null where name = 'picky'"
        )
        worker.commit()
        skipping.join()
    assert "is not blocked at entry 6" in str(result[0])


def test_a_rebuild_that_has_applied_it_is_in_the_way(stuck: Ledger, admin: psycopg.Connection) -> None:
    """Its view would have the entry, once it is in place."""
    admin.execute(
        "insert into ledger.projections (ledger_id, name, building, version, position, hash, recorded_at)"
        " select 1, 'picky', true, 1, position, hash, recorded_at from ledger.audit_logs where position = 6"
    )
    with pytest.raises(SkipRefused, match="a rebuild of projection picky has applied entry 6"):
        stuck.skip("picky", 6, "user:ops", "x")


# ------------------------------------------------------------------------------------------------------------- retry


def test_taken_back_once_it_can_be_applied(stuck: Ledger, admin: psycopg.Connection) -> None:
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    project(stuck, [Picky(poisoned)])
    before = positions(admin)
    with pytest.raises(ProjectionFailed, match="at entry 6 of"):
        retry(stuck, Picky(poisoned), 6)
    assert (positions(admin), len(checked(stuck)), leftovers(admin)) == (before, 11, 0)
    assert retry(stuck, Picky(), 6) == 11
    assert positions(admin) == list(range(1, 12))
    said = checked(stuck)[-1]
    assert (said.position, said.action, said.resource_id, said.metadata) == (
        12, "ledger.entry_retried", "picky:6", {"reason": "mended"}
    )  # fmt: skip
    project(stuck, [Picky()])
    live_is_a_replay(stuck, admin, Picky())
    assert stuck.verify().findings == []
    with pytest.raises(SkipRefused, match="entry 6 is not skipped by projection 'picky'"):
        retry(stuck, Picky(), 6)


def test_skipped_taken_back_and_skipped_again(stuck: Ledger, admin: psycopg.Connection) -> None:
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    project(stuck, [Picky(poisoned)])
    retry(stuck, Picky(), 6)
    admin.execute("delete from ledger.projections where name = 'picky'")
    admin.execute("drop table ledger_views.picky")
    with projector(stuck, [Picky(poisoned)]) as running:  # the mended one had a fault of its own
        running.catch_up()
        assert [failed.position for failed in running.failed] == [6]
    assert stuck.skip("picky", 6, "user:ops", "ticket 12").position == 13
    project(stuck, [Picky(poisoned)])
    live_is_a_replay(stuck, admin, Picky(poisoned))
    assert stuck.verify().findings == []


def test_taking_back_while_a_worker_goes_on(stuck: Ledger, admin: psycopg.Connection) -> None:
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    done = threading.Event()

    def append() -> None:
        while not done.wait(0.01):
            stuck.append_many(some_events(5))

    appending = threading.Thread(target=append)
    with working(stuck, Picky(), Timeline()):
        stuck.wait_for(11, "picky", timeout=30)
        appending.start()
        try:
            retry(stuck, Picky(), 6)
        finally:
            done.set()
            appending.join()
        stuck.wait_for(stuck.tail().position, "picky", timeout=60)
    assert positions(admin) == list(range(1, stuck.tail().position + 1))
    assert stuck.verify().findings == []


def test_a_tail_that_is_held_puts_nothing_in_place(stuck: Ledger, admin: psycopg.Connection) -> None:
    """The record and the view come together or not at all."""
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    project(stuck, [Picky(poisoned)])
    before = positions(admin)
    with psycopg.connect(stuck.settings.database_url or "") as holder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.projection.rebuild.TRIES", 2)
        holder.execute("select from ledger.tails for update")
        with pytest.raises(TailBusy):
            retry(stuck, Picky(), 6)
    assert (positions(admin), len(checked(stuck)), leftovers(admin)) == (before, 11, 0)


@pytest.mark.parametrize("effects", range(14))
def test_a_crash_while_it_is_put_in_place(stuck: Ledger, admin: psycopg.Connection, effects: int) -> None:
    """After each effect of the swap: the view has the entry if and only if the ledger says so."""
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    project(stuck, [Picky(poisoned)])
    draft = prepare(retrying("picky", 6, "user:ops", "mended"), "main", own=True)
    again = plans.Retry(1, 6, lambda: record_own(Appender(stuck.ref), draft, begun=True))
    ended = False

    def cut_short(plan: Plan[Any]) -> Plan[None]:
        nonlocal ended
        effect = next(plan)
        try:
            for _ in range(effects):
                effect = plan.send((yield effect))
        except StopIteration:
            ended = True

    with psycopg.connect(stuck.settings.database_url or "", autocommit=True) as connection:

        def run(plan: Plan[Any]) -> Any:
            return drive(plan, connection)

        run(begin_rebuild(Picky(), [stuck.ref]))
        entries = run(read(stuck.ref, 0))
        run(advance_exactly(stuck.ref, Picky(), EMPTY_TAIL, entries, epoch=1, building=True, retry=again))
        run(cut_short(swap(Picky(), [stuck.ref], again)))
        connection.close()
    [(retried,)] = admin.execute("select retried from ledger.skips").fetchall()
    assert (6 in positions(admin)) == (retried is not None) == (len(checked(stuck)) == 12)
    assert stuck.verify().findings == []
    assert retried == 12 or not ended
    assert ended or effects < 13
    if retried is None:
        assert retry(stuck, Picky(), 6) == 11
    assert positions(admin) == list(range(1, 12))


# ---------------------------------------------------------------------------------------------------------- by policy


def test_parked_after_so_many_tries(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    picky = Picky(poisoned)
    with working(ledger, picky, Timeline(), skip_after=3) as running:
        ledger.wait_for(10, "picky", timeout=60)
        eventually(lambda: not running.failed)
        ledger.wait_for(11, "picky", timeout=30)
    said = checked(ledger)[-1]
    assert (said.actor, said.actor_type, said.action, said.resource_id) == (
        "system:projector", "system", "ledger.entry_skipped", "picky:6"
    )  # fmt: skip
    assert said.metadata["reason"].startswith("failed 3 times: ValueError in apply, failing_projection.py:")
    assert positions(admin) == [*range(1, 6), *range(7, 12)]
    live_is_a_replay(ledger, admin, Picky(poisoned))
    assert ledger.verify().findings == []


def test_parked_once_the_tail_can_be_had(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many([POISON, *some_events(4)])
    settings = replace(ledger.settings, lock_timeout=0.2)
    with Ledger(settings) as impatient, psycopg.connect(settings.database_url or "") as holder:
        holder.execute("select from ledger.tails for update")
        with working(impatient, Picky(poisoned), skip_after=1):
            eventually(lambda: standstill(admin)[1] == 1)
            time.sleep(1)
            holder.rollback()
            ledger.wait_for(6, "picky", timeout=60)
    assert positions(admin) == [2, 3, 4, 5, 6]


def test_what_was_skipped_meanwhile_is_no_trouble(stuck: Ledger, admin: psycopg.Connection) -> None:
    """A worker was still trying the entry when somebody skipped it."""
    stuck.skip("picky", 6, "user:ops", "ticket 12")
    failed = ProjectionFailed("picky", "main", 6, "ValueError")
    assert stuck.run(failures.note(1, failed, 1)) is None
    assert standstill(admin) == (5, None, None, None)


def test_with_once_each_call_is_a_try(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many([POISON, *some_events(4)])
    servers = Connector(ledger.settings)
    for tries in (1, 2):
        running = Projector(servers, [Picky(poisoned)], skip_after=3)
        running.install()
        running.catch_up()
        assert standstill(admin)[3] == tries and running.failed
    running.catch_up()  # not the time to try again
    assert standstill(admin)[3] == 2
    running = Projector(servers, [Picky(poisoned)], skip_after=3)
    running.catch_up()
    assert not running.failed and positions(admin) == [2, 3, 4, 5, 6]
    servers.close()


def test_entries_of_the_ledgers_own_are_never_parked(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Or each skip would bring the next."""
    ledger.append_many(events(2))
    ledger.hold(1, "user:1", "a lawsuit")
    bad = Picky(lambda entry: ValueError() if entry.action.startswith("ledger.") else None)
    servers = Connector(ledger.settings)
    for _ in range(3):
        running = Projector(servers, [bad], skip_after=1)
        running.install()
        running.catch_up()
    servers.close()
    assert standstill(admin)[1] == 3 and len(checked(ledger)) == 3
    ledger.skip("picky", 3, "user:ops", "by hand it can be")


def test_a_projection_that_fails_at_everything_is_not_emptied_by_policy(
    ledger: Ledger, admin: psycopg.Connection
) -> None:
    """After ten in a row it is taken for what is broken."""
    ledger.append_many(events(50))
    servers = Connector(ledger.settings)
    running = Projector(servers, [Picky(lambda entry: ValueError())], skip_after=1)
    running.install()
    running.catch_up()
    assert [failed.position for failed in running.failed] == [11]
    assert len(checked(ledger)) == 60
    servers.close()


class Odd(Exception):
    """Not the database's, though it looks like it."""

    sqlstate = "23505"


@pytest.mark.parametrize(
    "error",
    [OSError("disk"), MemoryError(), psycopg.errors.DiskFull(), psycopg.errors.UndefinedTable(), Odd()],
)
def test_what_lies_not_in_the_entry_is_no_reason_to_park_it(
    ledger: Ledger, admin: psycopg.Connection, error: Exception
) -> None:
    ledger.append_many(events(3))
    parked = isinstance(error, Odd)
    servers = Connector(ledger.settings)
    running = Projector(servers, [Picky(lambda entry: error if entry.position == 2 else None)], skip_after=1)
    running.install()
    running.catch_up()
    servers.close()
    assert standstill(admin)[1:] == (None, None, None) if parked else (standstill(admin)[1::2] == (2, 0))
    assert len(checked(ledger)) == 3 + parked
