"""SIGTERM and SIGINT: how a long-running command is asked to stop, and ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ledger.cli import standard_streams
from ledger.cli.app import INTERRUPTED, OK
from ledger.cli.context import Interrupted, Shared
from ledger.cli.logs import logging_to_stderr

GRACE = 2.0
"""Seconds in which the current batch may end after a stop was asked for: a server that hangs must not delay it."""


class Stopped(Exception):
    """A stop was asked for before the work was done; the current batch is."""


def interruptible(progress: Callable[..., None], stop: threading.Event) -> Callable[..., None]:
    """A progress callback that passes its counts on, and raises Stopped once `stop` is set."""

    def step(*counts: int) -> None:
        progress(*counts)
        if stop.is_set():
            raise Stopped

    return step


def together(stop: threading.Event, *workers: Callable[[], None]) -> None:
    """Runs each in a thread, until all have ended; the first to end, or to fail, stops the others."""
    errors: list[BaseException] = []

    def work(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    wait_until(stop)
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def wait_until(stop: threading.Event) -> None:
    """Waits in turns, in the main thread, where handlers run: a signal that another thread gets does not wake it."""
    while not stop.wait(0.5):
        pass


@contextmanager
def working(once: bool) -> Iterator[threading.Event]:
    """Gives an event that SIGTERM and SIGINT set; log lines go to stderr meanwhile.

    once: the work has an end, so that a stop before it raises Interrupted; else a stop is how the work ends.
    """
    stop, done = threading.Event(), threading.Event()
    handlers = []
    if threading.current_thread() is threading.main_thread():

        def ask(*_: object) -> None:
            # In a thread: the handler may have interrupted this one while it held the event's lock.
            threading.Thread(target=_end, args=(stop, done, INTERRUPTED if once else OK), daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            handlers.append((number, signal.signal(number, ask)))
    shared = click.get_current_context().find_object(Shared)
    with logging_to_stderr(shared.log_format if shared else "text") as log:
        try:
            yield stop
        except Stopped:
            if once:
                raise Interrupted("stopped before it had caught up") from None
        finally:
            done.set()
            if stop.is_set() and not once:
                log.info("Stopped")
            for number, before in handlers:
                signal.signal(number, before)


def _end(stop: threading.Event, done: threading.Event, code: int) -> None:
    """Asks for a stop; ends the process if the work has not ended in time, which is safe at any moment."""
    stop.set()
    if not done.wait(GRACE):
        log = logging.getLogger("ledger")
        log.warning("Stopped; the current batch was given up after %g s: the next start does it again", GRACE)
        standard_streams.settle()
        os._exit(code)
