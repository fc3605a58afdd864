"""An entry that a projection cannot apply: found exactly, reported without its body, retried; others go on."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Entry, Event, Ledger, ProjectionFailed
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.projection import base as plans
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.support.cli import cli_of
from tests.support.failing_projection import (
    POISON,
    SECRET,
    Picky,
    live_is_a_replay,
    poisoned,
    positions,
    standstill,
    working,
)
from tests.support.helpers import event, events, eventually
from tests.support.views import leftovers, project, projector, some_events

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
        told = f"projection 'picky' failed at entry {bad} of ledger 'main': ValueError in apply, failing_projection.py:"
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
    assert error is not None and error.startswith("ValueError in apply, failing_projection.py:")
    cli = cli_of(stuck)
    [shown] = [
        view for view in cli.well("status", "--json").json["ledgers"][0]["projections"] if view["name"] == "picky"
    ]
    still = shown["standstill"]
    assert (shown["position"], still["position"], still["error"], still["tries"]) == (5, 6, error, 1)
    assert still["since"].endswith("Z") and 0 <= still["seconds"] < 60 and shown["skipped"] == 0
    text = cli.well("status").out
    assert f"picky BLOCKED:  at entry 6, since {still['since'][:10]}" in text and f"1 attempt: {error}" in text
    ran = cli("doctor", "--json")
    [check] = [each for each in ran.json["checks"] if each["name"] == "main: projection picky"]
    assert check["level"] == "warning" and check["found"] == f"blocked at entry 6: {error}"
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
    assert " in apply, failing_projection.py:" in error and SECRET not in error


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
        eventually(lambda: (standstill(admin)[3] or 0) >= 3)
        ledger.append(event(11))
        ledger.wait_for(11, "timeline", timeout=30)
        other.set()
        eventually(lambda: (standstill(admin)[2] or "").startswith("KeyError in apply"))
        mended.set()
        ledger.wait_for(11, "picky", timeout=60)
    assert standstill(admin) == (11, None, None, None)
    assert positions(admin) == list(range(1, 12))
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if "picky" in record.getMessage()]
    still = "projection 'picky' is blocked at entry 6 of ledger 'main': "
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
        eventually(lambda: (standstill(admin)[3] or 0) >= 3)
        healthy.set()
        ledger.wait_for(10, "picky", timeout=60)
        ledger.append(event(11))
        ledger.wait_for(11, "picky", timeout=30)
        eventually(lambda: not other.failed)
    assert positions(admin) == list(range(1, 12))


def test_what_is_far_behind_holds_up_no_other(ledger: Ledger, admin: psycopg.Connection) -> None:
    """As a projection that is new, or was blocked for long: it catches up by itself, then reads with the others."""
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
        eventually(lambda: not running._behind)
    assert positions(admin) == list(range(1, 4002))


def test_a_stream_is_trimmed_past_a_projection_that_stands_still(stuck: Ledger, redis_url: str) -> None:
    """Else it would grow until somebody looks. It goes on from Postgres."""
    settings = Settings.load(database_url=stuck.settings.database_url, redis_url=redis_url)
    object.__setattr__(settings, "stream_keep", 20)
    stuck.append_many(some_events(990))
    project(stuck, [Timeline()])
    servers = Connector(settings)
    relay = Relay(servers)
    relay.publish()
    relay.trim()
    servers.close()
    with create_redis_connection(redis_url) as redis:
        assert redis.xlen("ledger:{main}:entries") < 500
    project(stuck, [Picky()])
    assert stuck.run(plans.reached(stuck.ref, "picky")) == 1000


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
