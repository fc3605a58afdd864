"""Processes that do the same at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from typing import Any

from bench import check

START_SECONDS = 60.0
"""In which all must have come to the barrier."""


def together(figure: str, target: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What each of the processes put into the queue, in any order.

    target: called in a process for each of these arguments, with a barrier, at which all wait for one another, and the
    queue behind them. Raises CheckFailed if one ends otherwise than with 0.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments))
    done: SimpleQueue[Any] = context.SimpleQueue()
    running = [context.Process(target=target, args=(*each, barrier, done)) for each in arguments]
    for process in running:
        process.start()
    for process in running:
        process.join()
    failed = sum(process.exitcode != 0 for process in running)
    if failed:
        raise check.CheckFailed(f"{figure}: {failed} of {len(running)} processes failed")
    return [done.get() for _ in running]
