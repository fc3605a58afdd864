"""An entry that a projection cannot apply: found exactly, told without its body, tried again, skipped on the record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Entry, Event, InvalidEvent, Ledger, Plan, ProjectionFailed, SkipRefused, TailBusy
from ledger import projection as plans
from ledger.applying import advance_exactly
from ledger.connections import create_redis_connection
from ledger.consumer import BEGINNING
from ledger.drive import drive
from ledger.erasure import record_own, retrying
from ledger.projector import Projector
from ledger.rebuilding import begin_rebuild, swap
from ledger.relay import Relay
from ledger.replay import rebuild
from ledger.servers import Servers
from ledger.settings import Settings
from ledger.store import Appender, read
from ledger.writer import prepare
from tests.api import Api
from tests.poison import POISON, SECRET, Picky, live_is_a_replay, poisoned, positions, retry, standstill
from tests.support import checked, event, events
from tests.test_cli_main import cli_of
from tests.views import leftovers, project, projector, some_events


@contextmanager
def working(ledger: Ledger, *projections: plans.Projection, park_after: int | None = None) -> Iterator[Projector]:
    """A worker that runs in a thread."""
    servers, stop = Servers(ledger.settings), threading.Event()
    running = Projector(servers, projections, park_after=park_after)
    running.install()
    thread = threading.Thread(target=running.run, args=(stop,))
    thread.start()
    try:
        yield running
    finally:
        stop.set()
        thread.join()
        running.close()
        servers.close()


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def stuck(ledger: Ledger) -> Ledger:
    """Ten entries, of which Picky cannot apply the sixth."""
    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    with projector(ledger, [Picky(poisoned), Timeline()]) as running:
        running.catch_up()
        assert len(running.failed) == 1
    return ledger


# ---------------------------------------------------------------------------------------------------- found, and told


@pytest.mark.parametrize("count", [3, 40, 700])
@pytest.mark.parametrize("at", ["first", "somewhere", "last"])
def test_the_very_entry_is_found(ledger: Ledger, admin: psycopg.Connection, count: int, at: str) -> None:
    """Whatever batch it came in; all before it is applied, once."""
    bad = {"first": 1, "somewhere": 2 * count // 3, "last": count}[at]
    said = list(some_events(count))
    said[bad - 1] = POISON
    ledger.append_many(said)
    with projector(ledger, [Picky(poisoned), Timeline(), ActorActivity()]) as running:
        running.catch_up()
        [failed] = running.failed
        assert (failed.name, failed.position, failed.from_entry) == ("picky", bad, True)
        told = f"projection 'picky' failed at entry {bad} of ledger 'main': ValueError in apply, poison.py:"
        assert str(failed).startswith(told) and SECRET not in str(failed)
        assert str(failed.__cause__) == f"no such customer: {SECRET}"
    assert positions(admin) == list(range(1, bad))
    assert len(positions(admin, "timeline")) == count
    assert standstill(admin)[:2] == (bad - 1, bad)
    with pytest.raises(ProjectionFailed, match=f"at entry {bad} of"):
        rebuild(ledger.settings, Picky(poisoned))
    assert leftovers(admin) == 0


def test_what_is_noted_says_nothing_of_the_body(stuck: Ledger, admin: psycopg.Connection) -> None:
    at, failed, error, tries = standstill(admin)
    assert (at, failed, tries) == (5, 6, 1)
    assert error is not None and error.startswith("ValueError in apply, poison.py:")
    cli = cli_of(stuck)
    [shown] = [
        view for view in cli.well("status", "--json").json["ledgers"][0]["projections"] if view["name"] == "picky"
    ]
    still = shown["standstill"]
    assert (shown["position"], still["position"], still["error"], still["tries"]) == (5, 6, error, 1)
    assert still["since"].endswith("Z") and 0 <= still["seconds"] < 60 and shown["skipped"] == 0
    text = cli.well("status").out
    assert f"picky STANDS STILL:  at entry 6, since {still['since'][:10]}" in text and f"1 try: {error}" in text
    ran = cli("doctor", "--json")
    [check] = [each for each in ran.json["checks"] if each["name"] == "main: projection picky"]
    assert check["level"] == "warning" and check["found"] == f"stands still at entry 6: {error}"
    assert "auditledger --ledger main skip picky 6" in check["advice"]
    assert SECRET not in text + ran.out


def test_names_of_the_databases_errors_are_told_and_nothing_else(ledger: Ledger, admin: psycopg.Connection) -> None:
    class Unique(Picky):
        schema = Picky.schema + "; create unique index by_note on picky (note)"

    ledger.append_many([event(1, action=SECRET), event(2, action=SECRET)])
    with projector(ledger, [Unique()]) as running:
        running.catch_up()
        assert SECRET in str(running.failed[0].__cause__) and SECRET not in str(running.failed[0])
    error = standstill(admin)[2]
    assert error is not None and error.startswith("UniqueViolation (SQLSTATE 23505, constraint by_note, table picky)")
    assert " in apply, poison.py:" in error and SECRET not in error


class Wrong(Picky):
    """Its statement lacks a parameter, which the driver says without asking the database."""

    def apply(self, ledger_id: int, entries: object, tx: plans.Writes) -> None:
        tx.execute("insert into picky values (%s, %s, %s)", (ledger_id,))


def test_an_error_of_the_driver_stops_no_other_projection(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(3))
    with projector(ledger, [Wrong(), Timeline()]) as running:
        running.catch_up()
        [failed] = running.failed
    assert (failed.name, failed.position) == ("picky", 1) and failed.error.startswith("ProgrammingError in apply")
    assert len(positions(admin, "timeline")) == 3


# ------------------------------------------------------------------------------------------------------ tried again


def test_it_is_tried_again_after_growing_pauses_and_goes_on(
    ledger: Ledger, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on meanwhile. The log says it when it begins, when it changes and when it ends."""
    caplog.set_level(logging.INFO, "ledger")
    other, mended = threading.Event(), threading.Event()
    times: list[float] = []

    def bad(entry: Entry) -> Exception | None:
        if entry.action != "poison" or mended.is_set():
            return None
        times.append(time.monotonic())
        return KeyError(SECRET) if other.is_set() else ValueError(SECRET)

    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    with working(ledger, Picky(bad), Timeline()):
        until(lambda: (standstill(admin)[3] or 0) >= 3)
        ledger.append(event(11))
        ledger.wait_for(11, "timeline", timeout=30)
        other.set()
        until(lambda: (standstill(admin)[2] or "").startswith("KeyError in apply"))
        mended.set()
        ledger.wait_for(11, "picky", timeout=60)
    assert standstill(admin) == (11, None, None, None)
    assert positions(admin) == list(range(1, 12))
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if "picky" in record.getMessage()]
    still = "projection 'picky' stands still at entry 6 of ledger 'main': "
    assert [text.partition(" in apply")[0] for _, text in lines] == [
        *(f"{still}ValueError", f"{still}KeyError", "projection 'picky' goes on in ledger 'main'")
    ]
    assert [level for level, _ in lines] == ["ERROR", "ERROR", "INFO"]
    assert SECRET not in caplog.text
    first, _, third, *_ = [after - before for before, after in pairwise(times) if after - before > 0.5]
    assert third > first + 1


def test_two_workers_at_the_same_entry(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Whoever can, goes on; the other one follows."""
    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    healthy = threading.Event()
    one = Picky(lambda entry: None if healthy.is_set() else poisoned(entry))
    with working(ledger, Picky(poisoned)) as other, working(ledger, one):
        until(lambda: (standstill(admin)[3] or 0) >= 3)
        healthy.set()
        ledger.wait_for(10, "picky", timeout=60)
        ledger.append(event(11))
        ledger.wait_for(11, "picky", timeout=30)
        until(lambda: not other.failed)
    assert positions(admin) == list(range(1, 12))


def test_what_is_far_behind_holds_up_no_other(ledger: Ledger, admin: psycopg.Connection) -> None:
    """As a projection that is new, or stood still for long: it catches up by itself, then reads with the others."""
    ledger.append_many(some_events(4000))
    project(ledger, [Timeline()])
    slow = Picky(lambda entry: time.sleep(0.001))
    with working(ledger, Timeline(), slow) as running:
        began = time.monotonic()
        ledger.append(event(0))
        ledger.wait_for(4001, "timeline", timeout=30)
        assert ledger.run(plans.reached(ledger.ref, "picky")) < 4000, "it came too early to show anything"
        ledger.wait_for(4001, "picky", timeout=60)
        assert time.monotonic() - began > 1
        until(lambda: not running._behind)
    assert positions(admin) == list(range(1, 4002))


def test_a_stream_is_trimmed_past_a_projection_that_stands_still(stuck: Ledger, redis_url: str) -> None:
    """Else it would grow until somebody looks. It goes on from Postgres."""
    settings = Settings.load(database_url=stuck.settings.database_url, redis_url=redis_url)
    object.__setattr__(settings, "stream_keep", 20)
    stuck.append_many(some_events(990))
    project(stuck, [Timeline()])
    servers = Servers(settings)
    relay = Relay(servers)
    relay.publish()
    relay.tend()
    servers.close()
    with create_redis_connection(redis_url) as redis:
        assert redis.xlen("ledger:{main}:entries") < 500
    project(stuck, [Picky()])
    assert stuck.run(plans.reached(stuck.ref, "picky")) == 1000


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
    """And stands still at the next one."""
    ledger.append_many([*some_events(5), POISON, *some_events(4), POISON])
    with working(ledger, Picky(poisoned)) as running:
        until(lambda: standstill(admin)[1] == 6)
        ledger.skip("picky", 6, "user:ops", "ticket 12")
        until(lambda: standstill(admin)[1] == 11)
        until(lambda: [failed.position for failed in running.failed] == [11])
        ledger.skip("picky", 11, "user:ops", "ticket 13")
        ledger.wait_for(13, "picky", timeout=30)
        until(lambda: not running.failed)
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
        """Only what a projection stands still at: nothing is hidden from a view that works."""
        for name, position, problem in (
            ("picky", 5, "picky does not stand still at entry 5: nothing was recorded"),
            ("picky", 7, "does not stand still at entry 7"),
            ("timeline", 6, "timeline does not stand still"),
            ("unknown", 6, "unknown does not stand still"),
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
        until(lambda: admin.execute(waits).rowcount)
        assert other.append(event(0)).position == 11
        worker.execute(
            "update ledger.projections set position = 6, failed_position = null, failed_error = null,"
            " failing_since = null, failed_tries = null where name = 'picky'"
        )
        worker.commit()
        skipping.join()
    assert "does not stand still at entry 6" in str(result[0])


def test_a_rebuild_that_has_applied_it_is_in_the_way(stuck: Ledger, admin: psycopg.Connection) -> None:
    """Its view would have the entry, once it is in place."""
    admin.execute(
        "insert into ledger.projections (ledger_id, name, building, version, position) values (1, 'picky', true, 1, 6)"
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
        patch.setattr("ledger.replay.TRIES", 2)
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
            return drive(plan, lambda: connection)

        assert run(begin_rebuild(Picky(), [stuck.ref]))
        entries = run(read(stuck.ref, 0))
        run(advance_exactly(stuck.ref, Picky(), BEGINNING, entries, epoch=1, building=True, retry=again))
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
    with working(ledger, picky, Timeline(), park_after=3) as running:
        ledger.wait_for(10, "picky", timeout=60)
        until(lambda: not running.failed)
        ledger.wait_for(11, "picky", timeout=30)
    said = checked(ledger)[-1]
    assert (said.actor, said.actor_type, said.action, said.resource_id) == (
        "system:projector", "system", "ledger.entry_skipped", "picky:6"
    )  # fmt: skip
    assert said.metadata["reason"].startswith("failed 3 times: ValueError in apply, poison.py:")
    assert positions(admin) == [*range(1, 6), *range(7, 12)]
    live_is_a_replay(ledger, admin, Picky(poisoned))
    assert ledger.verify().findings == []


def test_with_once_each_call_is_a_try(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many([POISON, *some_events(4)])
    servers = Servers(ledger.settings)
    for tries in (1, 2):
        running = Projector(servers, [Picky(poisoned)], park_after=3)
        running.install()
        running.catch_up()
        assert standstill(admin)[3] == tries and running.failed
    running.catch_up()  # not the time to try again
    assert standstill(admin)[3] == 2
    running = Projector(servers, [Picky(poisoned)], park_after=3)
    running.catch_up()
    assert not running.failed and positions(admin) == [2, 3, 4, 5, 6]
    servers.close()


def test_entries_of_the_ledgers_own_are_never_parked(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Or each skip would bring the next."""
    ledger.append_many(events(2))
    ledger.hold(1, "user:1", "a lawsuit")
    bad = Picky(lambda entry: ValueError() if entry.action.startswith("ledger.") else None)
    servers = Servers(ledger.settings)
    for _ in range(3):
        running = Projector(servers, [bad], park_after=1)
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
    servers = Servers(ledger.settings)
    running = Projector(servers, [Picky(lambda entry: ValueError())], park_after=1)
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
    servers = Servers(ledger.settings)
    running = Projector(servers, [Picky(lambda entry: error if entry.position == 2 else None)], park_after=1)
    running.install()
    running.catch_up()
    servers.close()
    assert standstill(admin)[1:] == (None, None, None) if parked else (standstill(admin)[1::2] == (2, 0))
    assert len(checked(ledger)) == 3 + parked


# ------------------------------------------------------------------------------------------------------- new versions


class Pickier(Picky):
    version = 2


def test_a_new_version_that_cannot_be_built_holds_up_no_other(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Its old view stays as it is; `status` says why; skipped, it is built by the next worker."""
    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    project(ledger, [Picky(), Timeline()])
    ledger.append_many(some_events(5))
    with projector(ledger, [Pickier(poisoned), Timeline()]) as running:
        running.catch_up()
        assert [(failed.name, failed.position) for failed in running.failed] == [("picky", 6)]
    assert len(positions(admin, "timeline")) == 15
    assert standstill(admin)[:2] == (10, 6) and positions(admin) == list(range(1, 11))
    ledger.skip("picky", 6, "user:ops", "ticket 12")
    project(ledger, [Pickier(poisoned), Timeline()])
    assert positions(admin) == [*range(1, 6), *range(7, 17)]
    live_is_a_replay(ledger, admin, Pickier(poisoned))


def test_a_poison_entry_in_one_ledger_is_none_in_another(ledger: Ledger, admin: psycopg.Connection) -> None:
    admin.execute("select ledger.create_ledger('second')")
    with Ledger.open(database_url=ledger.settings.database_url, name="second") as second:
        for each in (ledger, second):
            each.append_many([*some_events(2), Event("user:1", "maybe"), *some_events(2)])
        bad = Picky(lambda entry: ValueError() if entry.action == "maybe" and entry.ledger == "main" else None)
        with projector(ledger, [bad]) as running:
            running.catch_up()
            assert [failed.ledger for failed in running.failed] == ["main"]
            second.append(event(0))
            running.catch_up()
        assert ledger.run(plans.reached(second.ref, "picky")) == 6
        assert ledger.run(plans.reached(ledger.ref, "picky")) == 2
