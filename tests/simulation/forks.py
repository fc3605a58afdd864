"""Forks of a process whose appends are in flight: the child goes on with the Ledger that it inherited, then ends."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from tests.simulation.life import Life
from tests.simulation.notes import Notes
from tests.simulation.voices import Voice, batch, single
from tests.support.api import AsyncApi, SyncApi

SECONDS = 120
"""After so long a child that has not ended is killed, and its parent fails."""


def fork_when_told(life: Life, api: SyncApi | AsyncApi) -> None:
    """Forks each time that the scheduler says so (`control/fork`), and waits for the child."""
    notes, done = Notes(life.folder / "forked" / life.name), life.control("fork")
    while not life.stop.wait(0.05):
        asked = life.control("fork")
        if asked == done:
            continue
        done = asked
        child = os.fork()
        if child == 0:
            _live_as_child(life, api, f"{life.name}-{asked}-forked")
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"the forked child ended with {os.waitstatus_to_exitcode(status)}: its stderr is ours")
        notes.add(child=child)


def _live_as_child(life: Life, api: SyncApi | AsyncApi, part: str) -> None:
    """Says some events and ends the process. The parent's threads are not here, and its locks may be held for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    code = 1
    try:
        voice = Voice(Life(life.role), api if isinstance(api, SyncApi) else AsyncApi.of(api.ledger), part)
        for say in (single, batch, single):
            say(voice)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
