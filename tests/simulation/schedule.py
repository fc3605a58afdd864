"""Which faults when. The seed alone decides."""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.simulation.faults import HOSTILE, POOLER, POSTGRES, PROCESSES, REDIS, Fault

SECONDS = 10.0
"""Of work in an episode, before everything heals."""
EPISODES = 5
KINDS: dict[str, dict[str, Fault]] = {
    "calm": {},
    "redis": REDIS,
    "postgres": POSTGRES | POOLER,
    "processes": PROCESSES | HOSTILE,
    "mixed": REDIS | POSTGRES | POOLER | PROCESSES | HOSTILE,
    "restore": PROCESSES | {name: fault for name, fault in REDIS.items() if name != "redis rolled back"},
}
"""What may happen in an episode. restore: besides, Postgres is set back to an older backup at the end."""
WEIGHTS = {"calm": 1, "redis": 2, "postgres": 2, "processes": 2, "mixed": 4, "restore": 2}


class Step(NamedTuple):
    """A fault, so many seconds after the episode began. draws: what its parameters are drawn from."""

    at: float
    fault: str
    draws: str


class Episode(NamedTuple):
    number: int
    kind: str
    steps: list[Step]


class Schedule(NamedTuple):
    """relays, projectors: how many of each work side by side. keep: LEDGER_STREAM_KEEP. pooled: by way of PgBouncer."""

    seed: int
    relays: int
    projectors: int
    keep: int
    pooled: bool
    episodes: list[Episode]


def schedule(seed: int) -> Schedule:
    chance = random.Random(f"schedule {seed}")
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=EPISODES)
    return Schedule(
        seed,
        relays=chance.choice((1, 2)),
        projectors=chance.choice((1, 2)),
        keep=chance.choice((200, 1_000_000)),
        pooled=chance.random() < 0.5,
        episodes=[_episode(seed, number, kind) for number, kind in enumerate(kinds, 1)],
    )


def _episode(seed: int, number: int, kind: str) -> Episode:
    faults = sorted(KINDS[kind])
    chance = random.Random(f"episode {seed} {number}")
    count = chance.randint(4, 12) if faults else 0
    times = sorted(chance.uniform(0.5, SECONDS - 1) for _ in range(count))
    names = [chance.choice(faults) for _ in times]
    return Episode(
        number, kind, [Step(at, name, f"{seed} {number} {at}") for at, name in zip(times, names, strict=True)]
    )
