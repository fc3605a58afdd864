"""A worker of the command line as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ledger import Ledger
from ledger.drivers.connections import create_redis_connection
from ledger.stream.wire import key as stream_key
from tests.support.cli import Cli, process
from tests.support.outcome import LIMIT

WITHIN = 60.0
"""Seconds in which a worker must have done something, however busy the machine is."""


class Worker:
    """A running command, and what it has logged so far."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self.lines.extend(iter(self.popen.stderr.readline, ""))  # extends line by line

    def said(self, pattern: str) -> re.Match[str]:
        """The first line, of now or later, that has the pattern."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.05)
        raise AssertionError((pattern, self.lines))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """The exit code, and how many seconds it took."""
        began = time.monotonic()
        self.popen.send_signal(number)
        code = self.popen.wait(30)
        took = time.monotonic() - began
        self._reader.join(5)
        return code, took


@contextmanager
def worker(cli: Cli, *arguments: str, cwd: Path | None = None) -> Iterator[Worker]:
    with process(*cli.urls, *arguments, stdout=subprocess.DEVNULL, cwd=cwd) as popen:
        yield Worker(popen)


VIEWS = ["timeline", "resource_state", "resource_history", "actor_activity"]


def seconds_until(done: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < LIMIT
        time.sleep(0.01)
    return round(time.monotonic() - began, 2)


def published(ledger: Ledger) -> int:
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        last = client.xrevrange(stream_key("main"), count=1)
    return int(last[0][0].split(b"-")[1]) if last else 0


def projected(admin: psycopg.Connection) -> int:
    """Up to where the slowest view has come."""
    [(position, count)] = admin.execute("select min(position), count(*) from ledger.projections").fetchall()
    return int(position) if count == len(VIEWS) else 0
