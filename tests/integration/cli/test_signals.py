"""Signals whose handlers raise, such as Ctrl-C, at any moment."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger import Ledger
from tests.support.cli import cli_of, ended, process

ROOT = Path(__file__).parents[3]

# Each command has so many numbers that most signals arrive while they are packed.
HAMMERED = """
import signal, sys, time
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.run import drive
from ledger.effects import Command

class Rang(Exception): pass

def ring(*_): raise Rang

def touch():
    yield Command(("TOUCH", *range(2000)))

signal.signal(signal.SIGALRM, ring)
heard, until = 0, time.monotonic() + 1
client = create_redis_connection(sys.argv[1])
while time.monotonic() < until:
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        drive(touch(), None, client)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Rang:
        heard += 1
        client.close()
print(heard)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tgkill is Linux's")
def test_a_signal_that_another_thread_is_given_is_heeded_too(ledger: Ledger) -> None:
    """As the kernel may do where the main thread has one already: SIGCONT, then SIGTERM."""
    with process(*cli_of(ledger).urls, "run") as popen:
        assert popen.stderr is not None
        assert "stops" in popen.stderr.readline()
        time.sleep(3)  # by now it waits
        tasks = [int(task.name) for task in Path(f"/proc/{popen.pid}/task").iterdir()]
        other = next(task for task in tasks if task != popen.pid)
        assert ctypes.CDLL(None).tgkill(popen.pid, other, int(signal.SIGTERM)) == 0
        assert ended(popen, 30).code == 0


def test_a_signal_while_a_command_is_packed_does_no_harm(redis_url: str) -> None:
    """hiredis 3.5 ended the process with a segmentation fault: `tail --follow` at Ctrl-C, once in some 100 times."""
    ran = subprocess.run(
        [sys.executable, "-c", HAMMERED, redis_url],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 0
