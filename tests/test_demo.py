"""The demo tells its story, finds the tampering, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ledger import testing
from ledger.cli.demo_data import events
from tests.test_cli_main import ended, process

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
