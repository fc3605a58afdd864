"""What every actor of the crew has. It runs in a process of its own, which may be killed or paused at any moment."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ledger.errors import IntegrityError, Unavailable
from ledger.settings import Settings
from tests.simulation.notes import Notes

T = TypeVar("T")

UNEXPECTED = 9
"""How a process ends that was told what nobody may be told."""
DIVERGED = 8
"""How one ends on an IntegrityError: right after a restore, wrong at any other time."""
SETTLE = 45.0
"""Seconds in which what is in hand must come to an end once everything is well again."""


@dataclass(frozen=True)
class Role:
    """Who an actor is. folder: of the whole seed, for notes. draws: what its chances are drawn from."""

    name: str
    settings: Settings
    folder: Path
    draws: str


class Life:
    def __init__(self, role: Role) -> None:
        self.role = role
        self.name = role.name
        self.settings = role.settings
        self.folder = role.folder
        self.chance = random.Random(f"{role.draws} {role.name}")
        self.stop = threading.Event()
        self._errors = Notes(role.folder / "errors" / role.name)

    def settle(self, attempt: Callable[[], T]) -> T:
        """Tries until it succeeds, as an application does: only Unavailable says that trying again is safe."""
        stopped = None
        while True:
            try:
                return attempt()
            except Unavailable as error:
                self.saw(error)
                if self.stop.is_set():
                    stopped = stopped or time.monotonic()
                    if time.monotonic() - stopped > SETTLE:
                        raise
                time.sleep(self.chance.uniform(0.02, 0.2))

    def saw(self, error: Exception) -> None:
        """An error that may come while servers are mistreated."""
        self._errors.add(error=type(error).__name__, text=str(error)[:200])

    def together(self, *loops: Callable[[], None]) -> None:
        """Each in a thread, until all have ended."""
        threads = [threading.Thread(target=_loudly, args=(loop,)) for loop in loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a signal that another thread takes does not wake a join that has no end
                thread.join(0.5)

    def control(self, name: str) -> str:
        """What the scheduler says at the moment; empty where it says nothing."""
        try:
            return (self.folder / "control" / name).read_text()
        except FileNotFoundError:
            return ""


def live(act: Callable[..., None], role: Role, args: tuple[Any, ...]) -> None:
    """The whole life of a process: works until SIGTERM, ends with 0 if it was never told what it must not be told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.open(role.folder / f"{role.name}.stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(signal.SIGUSR1)
    threading.Thread(target=_outlive_nobody, args=(os.getppid(),), daemon=True).start()
    life = Life(role)
    # In a thread: the handler may have interrupted this one while it held the event's lock.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=life.stop.set).start())
    _loudly(lambda: act(life, *args))


def _outlive_nobody(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _loudly(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(DIVERGED if isinstance(error, IntegrityError) else UNEXPECTED)
