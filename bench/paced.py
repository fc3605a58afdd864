"""How soon something is seen while so much happens every second."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from bench import check
from bench.command import command, environment
from ledger.settings import Settings

RATE = 500
"""Calls a second, each made on time whatever became of those before."""
LOOK = 0.002
"""Seconds between looks: by so much at most a latency comes out too long."""
TIMEOUT_SECONDS = 30.0
"""In which a worker must come up, or end, and the last must be seen."""


@contextmanager
def working(figure: str, settings: Settings, job: str) -> Iterator[subprocess.Popen[str]]:
    """`auditledger JOB` in a process of its own, stopped as a service manager would. Raises CheckFailed."""
    process = subprocess.Popen(command(job), env=environment(settings), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    if process.returncode != 0:
        raise check.CheckFailed(f"{figure}: auditledger {job} ended with {process.returncode}: {errors[-500:]}")


async def paced(count: int, call: Callable[[int], Awaitable[None]], look: Coroutine[Any, Any, None]) -> None:
    """Calls with 0, 1, 2 … at RATE. look: runs beside that, and ends when it has seen them all."""
    looking = asyncio.create_task(look)
    began = time.perf_counter()
    tasks = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        tasks.append(asyncio.ensure_future(call(number)))
    await asyncio.gather(*tasks)
    await asyncio.wait_for(looking, TIMEOUT_SECONDS)
