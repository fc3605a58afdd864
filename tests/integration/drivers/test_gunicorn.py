"""gunicorn with --preload: the ledger is used before the fork, and by each worker."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger import Ledger
from tests.support.helpers import checked

ROOT = Path(__file__).parents[3]
WORKERS = 3


@contextmanager
def serving(ledger: Ledger, worker_class: str) -> Iterator[tuple[int, int]]:
    """Its port and the process id of its master."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--threads", "2"]
        command += [
            "--worker-class",
            worker_class,
            "--bind",
            f"fd://{listener.fileno()}",
            "tests.support.preloaded:app",
        ]
        environment = os.environ | {"LEDGER_DATABASE_URL": ledger.settings.database_url or ""}
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True
        )
    try:
        yield port, server.pid
    finally:
        server.terminate()
        _, said = server.communicate(timeout=30)
    assert "Traceback" not in said, said
    assert server.returncode == 0, said


def ask(port: int) -> tuple[int, int, str, str]:
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            said = answer.read()
        except ConnectionError:  # not yet, or a worker that was killed
            assert time.monotonic() < deadline
            time.sleep(0.05)
            continue
        finally:
            connection.close()
        assert answer.status == 200, said
        pid, position, entry_id, entry_hash = json.loads(said)
        return pid, position, entry_id, entry_hash


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_preloaded(ledger: Ledger, worker_class: str) -> None:
    with serving(ledger, worker_class) as (port, master), ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: ask(port), range(120)))
        os.kill(master, signal.SIGTTIN)  # one worker more
        os.kill(answers[0][0], signal.SIGKILL)  # and one in place of this one
        answers += clients.map(lambda _: ask(port), range(60))
    recorded = {entry.position: (str(entry.id), entry.hash.hex()) for entry in checked(ledger)}
    false = [answer for answer in answers if recorded.get(answer[1]) != answer[2:]]
    assert false == []
    assert len({answer[1] for answer in answers}) == len(answers)
    assert len({answer[0] for answer in answers}) > 1
