"""Every fault: what it does, for how long, and how it is known that it really hit.

A fault is a generator: it injects, yields the seconds that it lasts, and then takes back what it did. Each runs in a
thread of its own, since one may wait for what another has stopped. What it draws comes from its own chance, so from the
seed alone. It counts itself only where it hit: `stage.hit(…)`; the proxies count for themselves.
"""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import psycopg
import redis

from ledger.embedded.process import Server
from ledger.errors import Unavailable
from ledger.stream import wire
from tests.simulation import hostile
from tests.simulation.crew import Crew
from tests.simulation.notes import Notes, all_lines
from tests.simulation.world import World
from tests.support.proxy import Proxy


class Stage:
    """What faults act on."""

    def __init__(self, world: World, crew: Crew, folder: Path) -> None:
        self.world = world
        self.crew = crew
        self.folder = folder
        self.counts: Counter[str] = Counter()

    def hit(self, fault: str, times: int = 1) -> None:
        if times:
            self.counts[fault] += times

    def forgot(self) -> None:
        """Redis lost some of what it had said: who has read what, above all."""
        Notes(self.folder / "forgot").add()

    def say(self, what: str, text: str) -> None:
        """Tells those actors who listen for it."""
        (self.folder / "control" / what).write_text(text)


Playing: TypeAlias = Generator[float, None, None]
Fault: TypeAlias = Callable[[Stage, random.Random], Playing]

SHORT, LONG = (0.1, 2.0), (1.0, 8.0)
"""Seconds that a fault lasts. LONG goes beyond every timeout, and beyond what the database allows `recorded_at` to be
off."""


def _while_reachable() -> AbstractContextManager[None]:
    """For faults that need the server themselves: where another fault has it away, they hit nothing more."""
    return suppress(psycopg.OperationalError, redis.RedisError, Unavailable)


# ------------------------------------------------------------------------------------------------------- network


def _network(side: str, kind: str, stage: Stage, chance: random.Random) -> Playing:
    """One of the two proxies before a server; what it counts is what it hit."""
    proxy = chance.choice(stage.world.proxies[side])
    if (stage.world.appending is not proxy) and side == "postgres" and kind == "duplicate":
        proxy = stage.world.appending  # a projection's transaction replayed statement by statement is no longer one
    _NETWORK[kind](proxy, chance)
    yield chance.uniform(*(LONG if kind in ("stall", "unplug", "refuse") else SHORT))
    proxy.heal()


def _delay(proxy: Proxy, chance: random.Random) -> None:
    least = chance.uniform(0, 0.05)
    proxy.delay(least, least + chance.uniform(0.01, 0.3))


def _refuse(proxy: Proxy, chance: random.Random) -> None:
    proxy.refuse()
    proxy.cut()


def _duplicate(proxy: Proxy, chance: random.Random) -> None:
    proxy.duplicate(chance.randint(1, 3))
    proxy.cut()


_NETWORK: dict[str, Callable[[Proxy, random.Random], object]] = {
    "reset": lambda proxy, chance: proxy.cut(share=chance.choice((1, 0.5))),
    "close": lambda proxy, chance: proxy.cut(reset=False, share=chance.choice((1, 0.5))),
    "delay": _delay,
    "stall": lambda proxy, chance: proxy.stall(),
    "unplug": lambda proxy, chance: proxy.unplug(),
    "refuse": _refuse,
    "torn reply": lambda proxy, chance: proxy.tear("reply", chance.randint(1, 5)),
    "torn request": lambda proxy, chance: proxy.tear("request", chance.randint(1, 5)),
    "duplicate": _duplicate,
}

# ------------------------------------------------------------------------------------------------------- servers


def _server(stage: Stage, side: str) -> Server:
    return stage.world.postgres if side == "postgres" else stage.world.valkey


def _kill(side: str, stage: Stage, chance: random.Random) -> Playing:
    stage.hit(f"{side} killed", stage.world.kill(_server(stage, side)))
    yield chance.uniform(*SHORT)
    stage.world.revive(_server(stage, side))


def _pause(side: str, stage: Stage, chance: random.Random) -> Playing:
    stage.hit(f"{side} paused", stage.world.pause(_server(stage, side)))
    yield chance.uniform(*LONG)
    stage.world.pause(_server(stage, side), paused=False)


def _full(side: str, stage: Stage, chance: random.Random) -> Playing:
    """Hit, once the server's log says so."""
    server = _server(stage, side)
    disk = stage.world.postgres_disk if side == "postgres" else stage.world.valkey_disk
    if disk.refused:
        return
    before = _says_full(server)
    if side == "redis":
        stage.forgot()  # killed now, it would not have what it could not write down
    disk.fill()
    yield chance.uniform(*LONG)
    stage.hit(f"{side} disk full", _says_full(server) > before)
    disk.free()
    stage.world.revive(server)


def _says_full(server: Server) -> int:
    return len(re.findall(rb"No space left on device|Short write", server.log.read_bytes()))


def backend_killed(stage: Stage, chance: random.Random) -> Playing:
    with _while_reachable():
        stage.hit("postgres backend killed", stage.world.kill_backend(chance.randrange(1000)))
    yield 0.5
    stage.world.revive(stage.world.postgres)


def standby_gone(stage: Stage, chance: random.Random) -> Playing:
    """No commit returns, because a synchronous standby is demanded that is not there; until the heal, if need be."""
    with _while_reachable():
        stage.world.demand_standby("nobody")
        stage.hit("synchronous standby gone")
    yield chance.uniform(*LONG)
    with _while_reachable():
        stage.world.demand_standby("")


def tail_held(stage: Stage, chance: random.Random) -> Playing:
    """A transaction of somebody's takes the tail and goes for lunch."""
    with _while_reachable(), stage.world.database() as connection:
        connection.execute("set lock_timeout = '2s'")
        connection.execute("begin")
        connection.execute("update ledger.tails set fence = fence")
        stage.hit("tail held by a long transaction")
        yield chance.uniform(*LONG)
        connection.execute(chance.choice(("rollback", "commit")))


def connections_exhausted(stage: Stage, chance: random.Random) -> Playing:
    """Postgres has no connection left for anybody."""
    taken: list[psycopg.Connection] = []
    try:
        while True:
            taken.append(psycopg.connect(str(stage.world.direct.database_url), connect_timeout=5))
    except psycopg.OperationalError as error:
        stage.hit("postgres out of connections", "too many clients" in str(error))
    yield chance.uniform(*SHORT)
    for connection in taken:
        connection.close()


def pool_exhausted(stage: Stage, chance: random.Random) -> Playing:
    """A Ledger's pool has no connection left for an append."""
    before = _hogged(stage)
    stage.say("hog", str(chance.random()))
    yield 3.0
    stage.hit("pool exhausted", _hogged(stage) >= before + 5)


def _hogged(stage: Stage) -> int:
    return sum(len(lines) for _, lines in all_lines(stage.folder / "hogged"))


def flushall(stage: Stage, chance: random.Random) -> Playing:
    with _while_reachable(), stage.world.redis() as client:
        lost = client.exists(wire.key("main"))
        client.flushall()
        stage.forgot()
        stage.hit("redis FLUSHALL", lost)
    yield 0.0


def rolled_back(stage: Stage, chance: random.Random) -> Playing:
    """Redis comes back with the append-only file that it had a while ago."""
    copy = stage.world.back_up_valkey()
    yield chance.uniform(*LONG)
    stage.world.roll_back_valkey(copy)
    stage.forgot()
    stage.hit("redis rolled back")


def pooler_killed(stage: Stage, chance: random.Random) -> Playing:
    stage.hit("pooler killed", stage.world.kill_pooler())
    yield chance.uniform(*SHORT)
    stage.world.revive_pooler()


def pooler_paused(stage: Stage, chance: random.Random) -> Playing:
    pooler = stage.world.pooler
    if pooler is not None and pooler.process.poll() is None:
        pooler.process.send_signal(signal.SIGSTOP)
        stage.hit("pooler paused")
    yield chance.uniform(*LONG)
    stage.world.revive_pooler()


def pooler_reconnects(stage: Stage, chance: random.Random) -> Playing:
    """Its sessions with Postgres are closed as they become free, and others opened: what a session held is gone."""
    pooler = stage.world.pooler
    if pooler is not None:
        with _while_reachable():
            pooler.tell("RECONNECT")
            stage.hit("pooler reconnects")
    yield 0.0


# ----------------------------------------------------------------------------------------------------- processes


def _anybody(stage: Stage, chance: random.Random) -> str:
    return chance.choice(sorted(stage.crew.members))


def process_killed(stage: Stage, chance: random.Random) -> Playing:
    name = _anybody(stage, chance)
    stage.hit(f"{_trade(name)} killed", stage.crew.kill(name))
    yield chance.uniform(0, 1.0)
    stage.crew.start(name)


def process_paused(stage: Stage, chance: random.Random) -> Playing:
    name = _anybody(stage, chance)
    stage.hit(f"{_trade(name)} paused", stage.crew.pause(name))
    yield chance.uniform(*LONG)
    stage.crew.pause(name, paused=False)


def forked(stage: Stage, chance: random.Random) -> Playing:
    """Processes that append fork in the middle of it; parent and child go on with the same Ledger."""
    before = _forks(stage)
    stage.say("fork", f"{chance.getrandbits(32):08x}")
    yield 2.0
    stage.hit("forked", _forks(stage) - before)


def _forks(stage: Stage) -> int:
    return sum(len(lines) for _, lines in all_lines(stage.folder / "forked"))


def hostile_writer(stage: Stage, chance: random.Random) -> Playing:
    """Somebody who may append to one ledger does the worst that he can to all."""
    with _while_reachable():
        stage.hit("hostile writer", hostile.attack(stage.world, stage.folder, chance))
    yield 0.0


def _trade(name: str) -> str:
    return name.rstrip("0123456789")


def clock_stepped(stage: Stage, chance: random.Random) -> Playing:
    """An application's host is told another time, forward or back. Hit, if an entry was recorded meanwhile."""
    before = _said_by(stage, "clock")
    stage.say("clock", str(chance.choice((-1, 1)) * chance.choice((0.5, 3, 30, 3600, 86400 * 400))))
    yield chance.uniform(1.0, 3.0)
    stage.hit("clock stepped", _said_by(stage, "clock") > before)


def _said_by(stage: Stage, name: str) -> int:
    return sum(len(lines) for part, lines in all_lines(stage.folder / "said") if part.startswith(name))


REDIS: dict[str, Fault] = {
    **{f"redis {kind}": partial(_network, "redis", kind) for kind in _NETWORK},
    "redis killed": partial(_kill, "redis"),
    "redis paused": partial(_pause, "redis"),
    "redis disk full": partial(_full, "redis"),
    "redis FLUSHALL": flushall,
    "redis rolled back": rolled_back,
}
POSTGRES: dict[str, Fault] = {
    **{f"postgres {kind}": partial(_network, "postgres", kind) for kind in _NETWORK},
    "postgres killed": partial(_kill, "postgres"),
    "postgres paused": partial(_pause, "postgres"),
    "postgres disk full": partial(_full, "postgres"),
    "postgres backend killed": backend_killed,
    "synchronous standby gone": standby_gone,
    "tail held by a long transaction": tail_held,
    "postgres out of connections": connections_exhausted,
    "pool exhausted": pool_exhausted,
}
POOLER: dict[str, Fault] = {
    "pooler killed": pooler_killed,
    "pooler paused": pooler_paused,
    "pooler reconnects": pooler_reconnects,
}
HOSTILE: dict[str, Fault] = {"hostile writer": hostile_writer}
PROCESSES: dict[str, Fault] = {
    "process killed": process_killed,
    "process paused": process_paused,
    "clock stepped": clock_stepped,
    "forked": forked,
}
