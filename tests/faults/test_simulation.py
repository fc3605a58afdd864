"""A short run of the simulation (tests/simulation), and its checks against violations made on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from ledger import Event, Ledger, Receipt
from ledger.embedded.servers import Postgres
from ledger.errors import InvalidSetting
from tests.simulation import outbox
from tests.simulation.check import CHECKS, Books
from tests.simulation.notes import Notes, Restore
from tests.simulation.recorders import COUNT, COUNTED
from tests.simulation.report import KINDS
from tests.simulation.schedule import SECONDS, schedule
from tests.simulation.voices import COUNTER
from tests.support.helpers import checked
from tests.support.parts import said

ROOT = Path(__file__).parents[2]
SEED = 14
"""One that begins with an episode of everything, and a restored backup."""


@pytest.mark.timeout(400)
def test_a_short_run(tmp_path: Path) -> None:
    try:
        Postgres.wheel.installed()
    except InvalidSetting as error:
        pytest.skip(f"needs embedded servers of its own: {error}")
    assert [episode.kind for episode in schedule(SEED).episodes[:2]] == ["mixed", "restore"]
    figures = tmp_path / "figures"
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", f"{SEED},", "--episodes", "2", "--json", figures],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(figures.read_text())
    assert found["episodes"] == 2
    assert found["entries"] > 50
    assert found["faults"]["postgres restored from an older backup"]["injected"] == 1
    assert sum(fault["injected"] for fault in found["faults"].values()) > 5
    for fault in found["faults"].values():
        assert not any(fault[kind] for kind in KINDS)


def test_the_seed_alone_decides() -> None:
    assert schedule(3) == schedule(3)
    assert schedule(3) != schedule(4)
    for seed in range(50):
        for episode in schedule(seed).episodes:
            assert all(0 < step.at < SECONDS for step in episode.steps)
            assert bool(episode.steps) == (episode.kind != "calm")


def test_faults_of_the_field_are_drawn() -> None:
    """A pooler between, which fails, too; forks in the middle of appends; a hostile writer."""
    schedules = [schedule(seed) for seed in range(20)]
    drawn = {step.fault for each in schedules for episode in each.episodes for step in episode.steps}
    assert {each.pooled for each in schedules} == {True, False}
    assert drawn >= {"pooler killed", "pooler paused", "pooler reconnects", "forked", "hostile writer"}


# ---------------------------------------------------------------------------------------------------------- its checks


class Told:
    """Six entries of a voice and two of a counter, and notes that are true of them."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.folder = folder
        self.ledger = ledger
        self.said = Notes(folder / "said" / "a-0-single")
        for number in range(6):
            self.promised(number, ledger.append(said("a-0-single", number)))
        counts = Notes(folder / "said" / "a-1-counting")
        for number, since in enumerate((0, 7)):
            event = said("a-1-counting", number)
            receipt = ledger.append(Event(event.actor, event.action, *COUNTER, id=event.id))
            counts.add(**line_of(number, receipt), since=since)
        self.followed = Notes(folder / "followed" / "r-threads")
        self.consumed = Notes(folder / "consumed" / "alone-r-threads")
        for entry in ledger.read():
            shown = {"position": entry.position, "hash": entry.hash.hex(), "session": "s"}
            self.followed.add(**shown)
            self.consumed.add(**shown, tries=1)

    def promised(self, number: int, receipt: Receipt, **fields: object) -> None:
        self.said.add(**(line_of(number, receipt) | fields))

    def wrong(self, *restores: Restore) -> list[str]:
        books = Books(self.folder, checked(self.ledger), list(restores), set())
        return [violation.kind for check in CHECKS for violation in check(books)]


def line_of(number: int, receipt: Receipt) -> dict[str, object]:
    at = receipt.recorded_at.timestamp()
    place = {"position": receipt.position, "hash": receipt.hash.hex()}
    return {"n": number, "count": 1, "recorded_at": at, "now": at, "took": 0.0} | place


@pytest.fixture
def told(ledger: Ledger, tmp_path: Path) -> Told:
    return Told(ledger, tmp_path)


def test_checks_are_content_with_the_truth(told: Told) -> None:
    assert told.wrong() == []


LIES: dict[str, tuple[Callable[[Told], object], set[str]]] = {
    "a promise beyond the end": (lambda told: told.promised(6, _receipt(told, 1), position=99), {"lost"}),
    "a promise of another hash": (lambda told: told.promised(6, _receipt(told, 8), hash="00"), {"false"}),
    "a promise of another's entry": (lambda told: told.promised(6, _receipt(told, 8)), {"false"}),
    "a voice out of order": (lambda told: told.promised(6, _receipt(told, 2)), {"misordered", "false"}),
    "a batch that is not whole": (lambda told: told.promised(4, _receipt(told, 8), count=3), {"lost", "false"}),
    "a clock ahead": (lambda told: told.promised(6, _receipt(told, 8), recorded_at=2e9, now=1e9), {"other", "false"}),
    "an entry that nobody said": (lambda told: told.ledger.append(Event("x", "y")), {"doubled", "lost"}),
    "a count over a change": (lambda told: _noted(told, "said/b-1-counting", 8, n=0, since=6), {"misordered", "false"}),
    "a recorded event that is not there": (
        lambda told: Notes(told.folder / "said" / "r-0-recorded").add(n=0, count=1, recorded=True),
        {"lost"},
    ),
    "an expectation that did not hold": (
        lambda told: _noted(told, "said/c-1-expecting", 5, n=0, expected=3),
        {"misordered", "false"},
    ),
    "a follower who skips": (lambda told: _shown(told, told.followed, 3, 5), {"misordered"}),
    "a follower who is shown one twice": (lambda told: _shown(told, told.followed, 8), {"doubled"}),
    "a follower who sees too little": (lambda told: _noted(told, "followed/q", 1, session="s"), {"lost"}),
    "a reader who sees what never was": (lambda told: told.followed.add(position=9, hash="00", session="s"), {"other"}),
    "a tail that is gone": (lambda told: Notes(told.folder / "shown" / "v").add(position=8, hash="00"), {"other"}),
    "a group that goes back": (lambda told: _shown(told, told.consumed, 7, tries=1), {"misordered"}),
    "a group that sees too little": (lambda told: _noted(told, "consumed/shared-q", 1, session="s", tries=1), {"lost"}),
    "an erasure that did nothing": (lambda told: _noted(told, "erased/s", 8, erased=1), {"other"}),
    "a false checkpoint": (lambda told: Notes(told.folder / "signed" / "p").add(size=3, root="00"), {"other"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_checks_find(told: Told, lie: str) -> None:
    tell, kinds = LIES[lie]
    tell(told)
    assert set(told.wrong()) == kinds


def test_what_a_restore_took_away_is_not_lost(told: Told) -> None:
    told.promised(6, _receipt(told, 8), position=99)
    assert told.wrong(Restore(float("inf"), 8)) == []


COUNTS: dict[str, tuple[str, list[str], set[str]]] = {
    "the truth": ("", ["1/1", "2/1", "1/2"], set()),
    "an entry is missing": ("", ["1/1", "2/1"], {"lost"}),
    "one is there twice": ("", ["1/1", "1/1", "2/1", "1/2"], {"doubled"}),
    "one was undone": ("", ["1/1", "1/2", "2/1", "2/2"], {"doubled"}),
    "two are in the wrong order": ("", ["1/2", "1/1", "2/1"], {"misordered"}),
    "what was counted is gone": ("update counts set number = 0 where row = 2", ["1/1", "1/2"], {"lost"}),
    "one waits": ("select ledger.record('main', 'user:1', 'a.b')", ["1/1", "2/1", "1/2"], {"lost"}),
    "one was set aside": (
        "insert into ledger.rejected (ledger_id, seq, id, named, recorded_at, actor, actor_type, action, reason)"
        " values (1, 1, gen_random_uuid(), true, now(), 'user:1', 'user', 'a.b', 'why not')",
        ["1/1", "2/1", "1/2"],
        {"lost"},
    ),
}


@pytest.mark.parametrize("case", COUNTS)
def test_checks_of_the_outbox(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, case: str) -> None:
    statement, entries, kinds = COUNTS[case]
    admin.execute(COUNTED.encode())
    admin.execute("update counts set number = 3 - row where row < 3")
    if statement:
        admin.execute(statement.encode())
    ledger.append_many(Event("user:1", "row.counted", COUNT, each) for each in entries)
    notes = Notes(tmp_path / "said" / "r-0-counted")
    for number, counted in enumerate(("1/1", "2/1", "1/2")):
        notes.add(n=number, count=1, counted=counted)
    books = Books(tmp_path, checked(ledger), [], set())
    found = [*outbox.counts(books, admin), *outbox.rejected(books, admin)]
    assert {violation.kind for violation in found} == kinds
    later = books._replace(restores=[Restore(float("inf"), 0)])
    assert bool(list(outbox.counts(later, admin))) == (bool(kinds) and not statement), (
        "lost by a restore, by definition"
    )


def _receipt(told: Told, position: int) -> Receipt:
    [entry] = told.ledger.read(position - 1, 1)
    return Receipt(entry.id, entry.position, entry.hash, entry.recorded_at)


def _noted(told: Told, file: str, position: int, **fields: object) -> None:
    Notes(told.folder / file).add(**(line_of(0, _receipt(told, position)) | fields))


def _shown(told: Told, notes: Notes, *positions: int, **fields: object) -> None:
    for position in positions:
        notes.add(position=position, hash=_receipt(told, position).hash.hex(), session="s", **fields)
