"""Two processes of every kind at once: each entry is published, projected, signed and handled once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from ledger.checkpoints.keys import create_key, read_key, state_beside
from ledger.migrate.migrate import load_migrations
from ledger.store import tree
from ledger.tlog.merkle import check_consistency
from tests.support.cli import AUDITLEDGER, Cli, cli_of, ended, process
from tests.support.helpers import checked, event, events
from tests.support.outcome import NAME, ROOT, Note, check_all
from tests.support.signed_checkpoints import MAIN
from tests.support.views import leftovers, project, rows, some_events
from tests.support.worker import VIEWS, projected, published, seconds_until

BACKLOG = 3000


class Pair:
    """Two processes of one command, and whoever takes the place of one that was killed."""

    def __init__(self, urls: tuple[str, ...], notes: Path, *commands: tuple[str, ...]) -> None:
        self.urls, self.notes, self.commands = urls, notes, commands
        self.running: list[subprocess.Popen[bytes]] = []
        for which in (0, 1):
            self.running.append(self.start(which))
        self.wait_until_they_work()

    def start(self, which: int) -> subprocess.Popen[bytes]:
        with self.said(which).open("wb") as said:
            command = [AUDITLEDGER, *self.urls, *self.commands[which]]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)

    def said(self, which: int) -> Path:
        return self.notes / f"said {which}"

    def wait_until_they_work(self) -> None:
        seconds_until(lambda: all("stops" in self.said(which).read_text() for which in (0, 1)))

    def kill(self, which: int) -> None:
        """As kill -9 does it; dead when this returns."""
        assert self.running[which].poll() is None, self.said(which).read_text()
        self.running[which].kill()
        self.running[which].wait()

    def restart(self, which: int) -> None:
        self.running[which] = self.start(which)
        self.wait_until_they_work()

    def stop(self) -> None:
        for popen in self.running:
            popen.kill()
            popen.wait()


@pytest.fixture
def pair(ledger: Ledger, tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def start(*commands: tuple[str, ...]) -> Pair:
        made.append(Pair(cli_of(ledger).urls, tmp_path, *commands))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def take_over(pair: Pair, ledger: Ledger, reached: Callable[[], int], note: Note, how: str = "killed") -> None:
    """Each of the two dies in turn, or stops, in the middle of a backlog; that, and what is appended then, arrives."""

    def arrived(position: int) -> float:
        return seconds_until(lambda: reached() >= position)

    end = 0
    for which in (0, 1, 0):
        ledger.append_many(some_events(BACKLOG, end))
        arrived(end + 100)
        pair.kill(which) if how == "killed" else pair.running[which].send_signal(signal.SIGSTOP)
        ledger.append(event(0))
        end += BACKLOG + 1
        note(f"{pair.commands[which][0]} {how}: taken over after seconds", arrived(end))
        assert reached() == end
        pair.restart(which) if how == "killed" else pair.running[which].send_signal(signal.SIGCONT)


def test_relays(ledger: Ledger, pair: Callable[..., Pair], record_property: Note) -> None:
    take_over(pair(("relay",), ("relay",)), ledger, lambda: published(ledger), record_property)
    check_all(ledger)


def test_projectors(
    ledger: Ledger, admin: psycopg.Connection, pair: Callable[..., Pair], record_property: Note
) -> None:
    take_over(pair(("project",), ("project",)), ledger, lambda: projected(admin), record_property)
    check_all(ledger)
    check_views(ledger, admin)


@pytest.mark.parametrize("shared", [True, False], ids=["one state", "a state each"])
def test_everything_in_two_processes(
    ledger: Ledger,
    admin: psycopg.Connection,
    pair: Callable[..., Pair],
    tmp_path: Path,
    shared: bool,
    record_property: Note,
) -> None:
    """Relay, projections and signer in each of two `run`s."""
    key, other = tmp_path / "main.key", tmp_path / "copy/main.key"
    create_key(key, NAME)
    other.parent.mkdir()
    for file in (key, state_beside(key)):
        shutil.copy(file, other.parent)
    run = ("run", "--checkpoint-every", "1s", "--key")
    both = pair((*run, str(key)), (*run, str(key if shared else other)))
    take_over(both, ledger, lambda: min(published(ledger), projected(admin), signed(ledger)), record_property)
    both.stop()
    check_all(ledger)
    check_views(ledger, admin)
    check_signed(ledger, key)


def test_one_of_two_stops(
    ledger: Ledger, admin: psycopg.Connection, pair: Callable[..., Pair], record_property: Note
) -> None:
    """Wherever it stands then, and goes on from when it is woken."""
    both = pair(("run",), ("run",))
    take_over(both, ledger, lambda: min(published(ledger), projected(admin)), record_property, "stopped")
    ledger.append(event(0))
    seconds_until(lambda: min(published(ledger), projected(admin)) == 3 * (BACKLOG + 1) + 1)
    assert [popen.poll() for popen in both.running] == [None, None]
    both.stop()
    check_all(ledger)
    check_views(ledger, admin)


def signed(ledger: Ledger) -> int:
    newest = ledger.run(tree.newest_kept(MAIN))
    return newest.size if newest else 0


def check_signed(ledger: Ledger, key: Path) -> None:
    """Every checkpoint continues the one before, and verify makes the same roots from the entries."""
    kept = ledger.run(tree.all_kept(MAIN))
    assert len(kept) > 1
    for old, new in pairwise(kept):
        proof = ledger.run(tree.consistency_proof(MAIN, old.size, new.size))
        check_consistency(old.size, old.root, new.size, new.root, proof)
    report = ledger.verify(checkpoints=[kept[-1].note], keys=[read_key(key).vkey])
    assert report.ok, report.findings


def check_views(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Each as it was kept up to date equals a replay of itself."""
    live = {view: rows(admin, view) for view in VIEWS}
    assert all(live.values())
    cli = Cli("--database-url", ledger.settings.database_url or "")
    assert cli("replay", "--all").code == 0
    assert {view: rows(admin, view) for view in VIEWS} == live


def test_migrators(database_url: str) -> None:
    """One dies; whoever is left does what it had not done."""
    url = ("--database-url", database_url)
    with process(*url, "migrate") as one, process(*url, "migrate") as two, psycopg.connect(database_url) as admin:
        admin.autocommit = True
        seconds_until(lambda: admin.execute("select to_regnamespace('ledger') is null").fetchone() == (False,))
        one.kill()
        one.communicate()
        assert ended(two).code == 0
        done = admin.execute("select file, sha256 from ledger.migrations order by file").fetchall()
    assert done == [(each.file, each.sha256) for each in load_migrations()]
    with Ledger.open(database_url=database_url) as ledger:
        assert ledger.append(event(0)).position == 1


def test_replays(ledger: Ledger, admin: psycopg.Connection) -> None:
    """One at a time: the second is refused, and leaves the first alone."""
    ledger.append_many(some_events(4000))
    project(ledger)
    live = rows(admin, "timeline")
    url = ("--database-url", ledger.settings.database_url or "")
    with process(*url, "replay", "timeline") as one, process(*url, "replay", "timeline") as two:
        ran = [ended(one), ended(two)]
    codes = Counter(each.code for each in ran)
    assert codes[0] >= 1 and codes[0] + codes[2] == 2, ran
    assert all(each.code == 0 or "another rebuild" in each.err for each in ran)
    assert rows(admin, "timeline") == live
    assert leftovers(admin) == 0


def test_subscribers(ledger: Ledger, tmp_path: Path, record_property: Note) -> None:
    """What one had claimed and not acknowledged when it died is handed to the other; nothing else twice."""
    ledger.append_many(events(200))
    assert cli_of(ledger)("relay", "--once").code == 0
    notes = [tmp_path / name for name in ("one", "two")]
    environment = os.environ | {
        "LEDGER_DATABASE_URL": ledger.settings.database_url or "",
        "LEDGER_REDIS_URL": ledger.settings.redis_url or "",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.parts", "subscribe", str(file)], cwd=ROOT, env=environment
        )
        for file in notes
    ]
    try:
        seconds_until(lambda: all(len(dealt_with(file)) > 10 for file in notes))
        both[0].kill()
        both[0].wait()
        first = len(dealt_with(notes[0]))
        record_property(
            "claims taken over after seconds",
            seconds_until(lambda: len(set(dealt_with(notes[0]) + dealt_with(notes[1]))) == 200),
        )
    finally:
        for popen in both:
            popen.kill()
            popen.wait()
    times = Counter(dealt_with(notes[0]) + dealt_with(notes[1]))
    assert first >= 10 and set(times) == set(range(1, 201))
    assert sum(times.values()) <= 201, "only what was dealt with, but not yet acknowledged, comes again"
    assert checked(ledger)[-1].position == 200


def dealt_with(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []
