"""The demo runs, finds the tampering, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ledger import embedded, testing
from ledger.cli.commands.demo_data import events
from tests.support.cli import AUDITLEDGER, ended, process

pytestmark = pytest.mark.skipif(
    testing.given() is not None or testing.wants_docker(), reason="the demo runs on embedded servers of its own"
)


def in_folder(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "tmp").mkdir()
    return {"cwd": tmp_path, "env": os.environ | {"TMPDIR": str(tmp_path / "tmp"), "LEDGER_DATABASE_URL": "nonsense"}}


def nothing_left(tmp_path: Path) -> bool:
    return [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_the_data_is_the_same_every_time() -> None:
    first, second = list(events()), list(events())
    assert first == second and len(first) > 200
    times = [event.occurred_at for event in first if event.occurred_at is not None]
    assert times == sorted(times)


def test_the_demo(tmp_path: Path) -> None:
    with process("demo", **in_folder(tmp_path)) as popen:
        ran = ended(popen, 120)
    assert ran.code == 0, ran
    for number in range(1, 15):
        assert f"\n{number:>2}. " in ran.out
    assert "body_mismatch" in ran.out and "DOES NOT VERIFY" in ran.out
    assert ran.out.count("\nOK, ledger main: ") == 2
    assert "error" not in ran.err
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("called", ["on the path", "relative", "with settings", "make -C"])
def test_your_turn_works_as_printed(tmp_path: Path, called: str) -> None:
    """Copied, and run by a shell in the folder where the user stands."""
    there = tmp_path / "a checkout"
    (there / ".venv").mkdir(parents=True)
    (there / ".venv/bin").symlink_to(Path(AUDITLEDGER).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    command, stands = ".venv/bin/auditledger demo", there
    match called:
        case "on the path":
            environment["PATH"] = f"{there}/.venv/bin:{environment['PATH']}"
            command = "auditledger demo"
        case "with settings":
            environment |= {"LEDGER_DATABASE_URL": "postgresql://nowhere.invalid/x", "LEDGER_NAME": "billing"}
        case "make -C":
            (there / "Makefile").write_text("demo:\n\t@.venv/bin/auditledger demo\n")
            command, stands = "make -C 'a checkout' demo", tmp_path

    def shell(line: str) -> str:
        here = environment | {"PWD": str(stands)}
        done = subprocess.run(["sh", "-c", line], cwd=stands, env=here, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    [line] = [line for line in shell(command).splitlines() if line.startswith("Your turn: ")]
    try:
        out = shell(f"set -e; {line.removeprefix('Your turn: ')}")
        assert "position 1 " in out and "OK, ledger main: 1 entry" in out
        assert (stands / ".ledger").is_dir()
    finally:
        embedded.stop(stands / ".ledger")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with process("demo", **in_folder(tmp_path)) as popen:
        end = time.monotonic() + 60
        while not list((tmp_path / "tmp").glob("*/postgres/postmaster.pid")):
            assert time.monotonic() < end and popen.poll() is None
            time.sleep(0.05)
        popen.send_signal(signal.SIGINT)
        ran = ended(popen, 60)
    assert ran.code == 130 and "Traceback" not in ran.err
    assert nothing_left(tmp_path)
