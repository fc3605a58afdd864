"""The processes that append: voices that share one Ledger, forks of them, and a host whose clock is stepped."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from ledger import Plan, Query
from ledger.errors import Unavailable
from tests.simulation.forks import fork_when_told
from tests.simulation.life import Life
from tests.simulation.notes import Notes
from tests.simulation.voices import KINDS, Voice
from tests.support.api import AsyncApi, SyncApi
from tests.support.helpers import race

COLOURS: dict[str, type[SyncApi] | type[AsyncApi]] = {"threads": SyncApi, "tasks": AsyncApi}


def append(life: Life, colour: str, kinds: list[str]) -> None:
    """Voices that share one Ledger, or one AsyncLedger; each is a thread, or a task that a thread waits for."""
    api = COLOURS[colour](life.settings)
    voices = [(Voice(life, api, f"{life.name}-{number}-{kind}"), KINDS[kind]) for number, kind in enumerate(kinds)]
    loops = [partial(voice.speak, say) for voice, say in voices]
    loops.append(partial(fork_when_told, life, api))
    if isinstance(api, SyncApi):
        loops.append(partial(_hog, life, api))
    life.together(*loops)
    api.close()


def _hog(life: Life, api: SyncApi) -> None:
    """Takes every connection of the pool for a while, when the scheduler says so: appends then wait for one."""
    notes, done = Notes(life.folder / "hogged" / life.name), life.control("hog")

    def sleep() -> Plan[None]:
        yield Query("select pg_sleep(1.5)")

    def hog() -> None:
        with suppress(Unavailable):
            api.ledger.run(sleep())
            notes.add()

    while not life.stop.wait(0.1):
        asked = life.control("hog")
        if asked != done:
            done = asked
            race(*[hog] * life.settings.pool_max_size)


def step_clock(life: Life, kinds: list[str]) -> None:
    """Appends on a host whose clock the scheduler sets forward and back: time.time says what `control/clock` says."""
    true_time, true_time_ns = time.time, time.time_ns

    def off() -> float:
        return float(life.control("clock") or 0)

    time.time = lambda: true_time() + off()
    time.time_ns = lambda: true_time_ns() + round(off() * 1e9)
    append(life, "threads", kinds)
