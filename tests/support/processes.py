"""Server processes, by what they serve; stopped and continued."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that are there and do not answer."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def pid_of(home: Path, server: str) -> int:
    file = {"postgres": "postgres/postmaster.pid", "redis": "valkey/valkey.pid"}[server]
    return int((home / file).read_text().split()[0])
