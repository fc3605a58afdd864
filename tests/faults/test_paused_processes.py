"""A process that is paused (SIGSTOP) or killed in the middle of its work: another one takes over.

The stopped one is woken afterwards: what it had begun is gone, and it does nothing twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Ledger
from ledger.checkpoints.keys import create_key, state_beside
from ledger.migrate.migrate import load_migrations, migrate
from ledger.settings import Settings
from ledger.store import tree
from ledger.tlog.note import parse_note
from tests.support.cli import Cli, Ran, cli_of
from tests.support.helpers import checked, events
from tests.support.outcome import LIMIT, NAME, ROOT, Note, check_all, check_stream
from tests.support.pausing import COPY, PIPELINE, SIGNING
from tests.support.signed_checkpoints import MAIN
from tests.support.views import leftovers, project, rows, some_events

QUICK = "options=-c%20idle_in_transaction_session_timeout%3D2s%20-c%20idle_session_timeout%3D2s"


@contextmanager
def frozen(after: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, once it has stopped itself after that."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "tests.support.pausing", after, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(popen.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            popen.returncode = os.waitstatus_to_exitcode(status)
            raise AssertionError(f"it did not come to {after!r}: {popen.communicate()}")
        yield popen
    finally:
        if popen.returncode is None:
            popen.kill()
            popen.communicate()


def woken(popen: subprocess.Popen[str]) -> Ran:
    popen.send_signal(signal.SIGCONT)
    out, err = popen.communicate(timeout=LIMIT)
    return Ran(popen.returncode, out, err)


def until_well(command: Callable[[], Ran]) -> tuple[Ran, float]:
    """Again and again until it comes to a good end; after how many seconds that was. What it says else is no harm."""
    began = time.monotonic()
    while True:
        ran = command()
        if ran.code == 0:
            return ran, time.monotonic() - began
        assert ran.code in (2, 3), ran
        assert time.monotonic() - began < LIMIT, ran
        time.sleep(0.1)


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger)


@pytest.fixture(params=["killed", "stopped"])
def how(request: pytest.FixtureRequest) -> Any:
    return request.param


def url_of(ledger: Ledger, how: str) -> list[str]:
    """For whoever is going to stop: Postgres is to wait for it for two seconds, instead of eight."""
    urls = cli_of(ledger).urls
    return [f"{urls[1]}?{QUICK}" if value == urls[1] else value for value in urls]


def taken_over(popen: subprocess.Popen[str], how: str, command: Callable[[], Ran], note: Note) -> Ran:
    """Lets another do the work, then wakes the first."""
    if how == "killed":
        popen.kill()
        popen.communicate()
    ran, seconds = until_well(command)
    note("taken over after seconds", round(seconds, 1))
    if how == "stopped":
        last = woken(popen)
        assert last.code in (0, 2, 3), last
    return ran


def test_a_relay(ledger: Ledger, cli: Cli, how: str, record_property: Note) -> None:
    """It has published the first batch, and holds nothing but what it believes."""
    ledger.append_many(events(1200))
    with frozen("XADD", *url_of(ledger, how), "relay", "--once") as popen:
        taken_over(popen, how, lambda: cli("relay", "--once"), record_property)
        check_stream(ledger.settings, checked(ledger))
    check_all(ledger)


@pytest.mark.parametrize(
    ("after", "view"),
    [
        ("order by name for update", "timeline"),
        ("Apply(", "timeline"),
        (COPY, "timeline"),
        (PIPELINE, "tests.support.pausing:OneByOne"),
    ],
)
def test_a_projection(
    ledger: Ledger, admin: psycopg.Connection, cli: Cli, how: str, after: str, view: str, record_property: Note
) -> None:
    """It holds its checkpoint's row, with nothing written, with all written, and while it writes."""
    project(ledger)
    ledger.append_many(some_events(50))
    with frozen(after, *url_of(ledger, how), "project", view, "--once") as popen:
        taken_over(popen, how, lambda: cli("project", view, "--once"), record_property)
    table = "one_by_one" if after == PIPELINE else view
    live = rows(admin, table)
    assert len(live) == 50 and cli("replay", view).code == 0
    assert rows(admin, table) == live
    check_all(ledger)


@pytest.mark.parametrize("after", ["fence = fence", COPY])
def test_an_appender(ledger: Ledger, cli: Cli, tmp_path: Path, how: str, after: str, record_property: Note) -> None:
    """It holds the tail, before it has written and while it does. Woken, it settles what became of it, and goes on."""
    lines = "".join(f'{{"actor": "a", "action": "b", "after": {{"number": {n}}}}}\n' for n in range(400))
    (tmp_path / "events").write_text(lines)
    given = ("import", str(tmp_path / "events"))
    with frozen(after, *url_of(ledger, how), *given) as popen:
        taken_over(popen, how, lambda: cli("append", "--actor", "c", "--action", "d"), record_property)
    entries = checked(ledger)
    assert sum(entry.actor == "c" for entry in entries) == 1
    written = [entry.after["number"] for entry in entries if entry.actor == "a"]
    assert written == (list(range(400)) if how == "stopped" else [])
    check_all(ledger)


@pytest.mark.parametrize("after", ["create table ledger.tails", "sql='commit'"])
def test_a_migrator(database_url: str, how: str, after: str, record_property: Note) -> None:
    """In the middle of a migration's transaction, and between two, when its session holds the lock alone."""
    with frozen(after, "--database-url", f"{database_url}?{QUICK}", "migrate") as popen:
        taken_over(popen, how, lambda: Cli("--database-url", database_url)("migrate"), record_property)
    with psycopg.connect(database_url) as connection:
        done = connection.execute("select file, sha256 from ledger.migrations order by file").fetchall()
    assert done == [(each.file, each.sha256) for each in load_migrations()]
    assert migrate(Settings(database_url=database_url)) == []


@pytest.mark.parametrize("after", ["ledger.begin_rebuild", "sql='commit'", COPY, "ledger.swap_in"])
def test_a_replay(
    ledger: Ledger, admin: psycopg.Connection, cli: Cli, how: str, after: str, record_property: Note
) -> None:
    """While it builds, another is refused; so is the live projection held up while it swaps."""
    ledger.append_many(events(50))
    project(ledger)
    live = rows(admin, "timeline")
    with frozen(after, *url_of(ledger, how), "replay", "timeline") as popen:
        taken_over(popen, how, lambda: cli("replay", "timeline"), record_property)
        assert rows(admin, "timeline") == live
    assert rows(admin, "timeline") == live
    assert leftovers(admin) == 0
    ledger.append_many(events(5, 50))
    check_all(ledger)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "main.key"
    create_key(path, NAME)
    return path


@pytest.mark.parametrize("after", ["pg_advisory_xact_lock", "ledger.write_tiles", SIGNING])
def test_a_signer_with_a_state_of_its_own(
    ledger: Ledger, cli: Cli, key: Path, tmp_path: Path, how: str, after: str, record_property: Note
) -> None:
    """It extends the tree, with the lock that all signers of the ledger share; or signs, and holds nothing there."""
    other = tmp_path / "other"
    other.mkdir()
    for file in (key, state_beside(key)):
        (other / file.name).write_bytes(file.read_bytes())
        (other / file.name).chmod(0o600)
    ledger.append_many(events(300))
    sign = ("checkpoint", "--key")
    with frozen(after, *url_of(ledger, how), *sign, str(key)) as popen:
        taken_over(popen, how, lambda: cli(*sign, str(other / key.name)), record_property)
    ledger.append_many(events(300))
    for each in (key, other / key.name):
        assert cli(*sign, str(each)).code == 0
    assert [kept.size for kept in ledger.run(tree.all_kept(MAIN))] == [300, 600]
    check_all(ledger)


def test_a_signer_that_stops_with_the_state_is_not_passed_by(ledger: Ledger, key: Path) -> None:
    """It may have decided what to sign, and would still remember and sign that when it wakes, whatever others signed.

    So it has to be ended. Once it has written its state it stands in nobody's way.
    """
    ledger.append_many(events(300))
    cli = Cli("--database-url", ledger.settings.database_url or "")
    sign = ("checkpoint", "--key", str(key))
    with frozen("pg_advisory_xact_lock", *cli.urls, *sign) as popen:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LEDGER_LOCK_TIMEOUT", "1")
            ran = cli(*sign)
        assert ran.code == 3 and "another signer holds" in ran.error
        popen.kill()
        popen.communicate()
        assert cli(*sign).code == 0
    ledger.append_many(events(300))
    with frozen(SIGNING, *cli.urls, *sign) as popen:
        assert cli(*sign).code == 0
        assert woken(popen).code == 0
    kept = ledger.run(tree.all_kept(MAIN))
    assert [each.size for each in kept] == [300, 600]
    assert all(len(parse_note(each.note).signatures) == 1 for each in kept)
