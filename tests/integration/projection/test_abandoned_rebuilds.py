"""Leftovers of a killed rebuild are found, reported and dropped; an erasure reaches a running rebuild."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import Ledger
from ledger.migrate.migrate import migrate
from ledger.projection.rebuild import rebuild
from tests.support.cli import Cli
from tests.support.helpers import event
from tests.support.logins import Logins
from tests.support.views import leftovers, project, some_events

SECRET = "secretofsomebody"


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    ledger.append_many(some_events(10))
    ledger.append(event(11, after={"name": SECRET}))
    migrate(ledger.settings)
    project(ledger)
    return ledger


def copies(admin: psycopg.Connection) -> int:
    """Rows of a rebuild's timeline that have the secret; 0 where there is none."""
    if admin.execute("select to_regclass('ledger_rebuild_timeline.timeline')").fetchall() == [(None,)]:
        return 0
    found = admin.execute("select from ledger_rebuild_timeline.timeline where words like %s", (f"%{SECRET}%",))
    return found.rowcount


def killed(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Leaves a rebuild of which one batch is committed and whose process was killed with SIGKILL."""
    popen = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, time\n"
         "from ledger.projection.rebuild import rebuild\nfrom ledger.settings import Settings\n"
         "from ledger_projections import Timeline\n"
         "rebuild(Settings(database_url=sys.argv[1]), Timeline(),"
         " lambda done, to_do: (print('built', flush=True), time.sleep(60)))",
         ledger.settings.database_url or ""],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert popen.stdout is not None
    assert popen.stdout.readline() == "built\n"
    assert copies(admin) == 1
    assert abandoned(ledger) == [False]
    popen.send_signal(signal.SIGKILL)
    popen.wait()
    popen.stdout.close()
    deadline = time.monotonic() + 10
    while admin.execute("select ledger.left_rebuilds()").fetchall() != [("timeline",)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def abandoned(ledger: Ledger) -> list[bool]:
    cli = Cli("--database-url", ledger.settings.database_url or "")
    [found] = cli.well("status", "--json").json["ledgers"]
    return [each["abandoned"] for each in found["projections"] if each["rebuilding"]]


def test_a_killed_rebuild_is_named_and_dropped_by_the_next_worker(full: Ledger, admin: psycopg.Connection) -> None:
    killed(full, admin)
    cli = Cli("--database-url", full.settings.database_url or "")
    assert abandoned(full) == [True]
    assert "timeline (abandoned rebuild)" in cli.well("status").out
    assert "was killed, and left copies of bodies" in cli("doctor").out
    project(full)
    assert leftovers(admin) == copies(admin) == 0
    assert full.verify().ok


@pytest.mark.parametrize("how", ["migrate", "replay of another", "erase"])
def test_others_drop_it_too(full: Ledger, admin: psycopg.Connection, login: Logins, how: str) -> None:
    killed(full, admin)
    match how:
        case "migrate":
            migrate(full.settings)
        case "replay of another":
            Cli("--database-url", login("ledger_projector")).well("replay", "timeline")
        case "erase":
            with Ledger.open(database_url=login("ledger_eraser")) as eraser:
                eraser.erase(11, "user:1", "asked to")
    assert leftovers(admin) == copies(admin) == 0


def test_one_that_lives_is_left_alone_and_follows_erasures(full: Ledger, admin: psycopg.Connection) -> None:
    seen: list[int] = []

    def meanwhile(done: int, to_do: int) -> None:
        if seen:
            return
        seen.append(copies(admin))
        assert admin.execute("select ledger.left_rebuilds()").rowcount == 0
        full.erase(11, "user:1", "asked to")  # clears what is left behind: this is not
        project(full)
        migrate(full.settings)
        seen.append(copies(admin))

    rebuild(full.settings, Timeline(), meanwhile)
    assert seen == [1, 1]
    assert leftovers(admin) == 0
    [(left,)] = admin.execute("select count(*) from ledger_views.timeline where words like %s", (f"%{SECRET}%",))
    assert left == 0


def test_a_schema_by_hand_is_not_taken_for_one(full: Ledger, admin: psycopg.Connection) -> None:
    """What is named like a rebuild, but as no projection can be, stays."""
    admin.execute('create schema "ledger_rebuild_Other"')
    assert ("Other",) in admin.execute("select ledger.left_rebuilds()").fetchall()
    project(full)
    assert admin.execute("select to_regnamespace('\"ledger_rebuild_Other\"') is null").fetchall() == [(False,)]
