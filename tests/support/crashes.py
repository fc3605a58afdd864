"""A deployment as processes that are killed, and the check of everything that was promised."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from ledger import Entry, Ledger, Query
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.simulation.world import family
from tests.support.helpers import checked
from tests.support.outcome import check_stream

ROOT = Path(__file__).parents[2]
VIEWS = ("timeline", "resource_state", "resource_history", "actor_activity")


class Parts:
    """Appenders, a relay and a projector as processes; whoever dies by our hand is started again."""

    def __init__(
        self, settings: Settings, notes: Path, readers: Sequence[str] = (), commands: dict[str, list[str]] | None = None
    ) -> None:
        """commands: by name, what tests/support/parts.py runs; None for all that the class says, and the readers."""
        self._environment = os.environ | {
            "LEDGER_DATABASE_URL": str(settings.database_url),
            "LEDGER_REDIS_URL": str(settings.redis_url),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}",
        }
        self.notes = notes
        self.commands = commands or {
            "a": ["append", "a", str(notes / "a")],
            "b": ["append", "b", str(notes / "b")],
            "relay": ["relay"],
            "project": ["project"],
            **{name: [name, str(notes / name)] for name in readers},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        with (self.notes / f"{name}.stderr").open("ab") as stderr:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.support.parts", *self.commands[name]],
                cwd=ROOT,
                env=self._environment,
                stderr=stderr,
            )

    def kill(self, name: str) -> None:
        process = self.processes[name]
        assert process.poll() is None, f"{name} ended by itself: {(self.notes / f'{name}.stderr').read_text()}"
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def promised(self) -> dict[str, list[list[str]]]:
        """What each appender was handed out: number, position, hash. A torn last line was not yet noted."""
        return {
            part: [
                line.split() for line in (self.notes / part).read_text().splitlines(keepends=True) if line[-1] == "\n"
            ]
            for part in ("a", "b")
        }


def wait_until_promised(parts: Parts, more: int) -> None:
    """Until both appenders have been handed out `more` receipts: work goes on after what was done to it."""
    before = {part: len(notes) for part, notes in _promised(parts).items()}
    end = time.monotonic() + 60
    while any(len(notes) < before[part] + more for part, notes in _promised(parts).items()):
        for name, process in parts.processes.items():
            assert process.poll() is None, f"{name} ended: {(parts.notes / f'{name}.stderr').read_text()}"
        assert time.monotonic() < end, "the appenders stand still"
        time.sleep(0.05)


def _promised(parts: Parts) -> dict[str, list[list[str]]]:
    for part in ("a", "b"):
        (parts.notes / part).touch()
    return parts.promised()


def check_everything(settings: Settings, parts: Parts) -> list[Entry]:
    """The whole-ledger check: chain, receipts, stream, views."""
    with Ledger.open(database_url=settings.database_url, redis_url=settings.redis_url) as ledger:
        report = ledger.verify()
        assert report.ok, report.findings
        entries = checked(ledger)
        by_position = {entry.position: entry for entry in entries}
        assert len({entry.id for entry in entries}) == len(entries), "something was recorded twice"
        for part, notes in parts.promised().items():
            assert [int(number) for number, _, _ in notes] == list(range(len(notes)))
            for _, position, hash_hex in notes:
                assert by_position[int(position)].hash.hex() == hash_hex, f"a false receipt of {part}"
        servers = Connector(settings)
        Relay(servers).publish()
        check_stream(settings, entries)
        projector = Projector(servers, find_projections())
        projector.install()
        projector.catch_up()
        assert not projector.failed
        projector.close()
        check_views(ledger, settings)
        servers.close()
    return entries


def check_views(ledger: Ledger, settings: Settings) -> None:
    """Every view as it is equals a fresh replay of itself."""
    live = {view: ledger.run(_rows(view)) for view in VIEWS}
    assert all(live.values())
    for projection in find_projections():
        rebuild(settings, projection)
    for view, rows in live.items():
        assert ledger.run(_rows(view)) == rows, f"{view} differs from its replay"


def _rows(view: str):  # type: ignore[no-untyped-def]
    rows = yield Query(f"select {view}::text from ledger_views.{view} order by 1")
    return rows


def kill_a_backend(home: Path, chance: random.Random) -> None:
    """SIGKILL of one process of Postgres' that serves a client."""
    postmaster = int((home / "postgres/postmaster.pid").read_text().split()[0])
    backends = [pid for pid in family(postmaster)[1:] if b"postgres: ledger " in command_line(pid)]
    if backends:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(backends), signal.SIGKILL)


def command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_until_up(settings: Settings) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(settings.database_url or "").close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
