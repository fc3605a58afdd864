"""Plays one seed: episode after episode, until something is wrong or all are done."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ledger import Ledger
from ledger.projection.base import find_projections, view_positions
from ledger.store.ledgers import ledger_ends
from ledger.stream import wire
from tests.simulation import hostile
from tests.simulation.check import whole_ledger
from tests.simulation.deployment import Key, crew, others, prepare, writers
from tests.simulation.faults import Stage
from tests.simulation.notes import all_lines, lines, restores, standing
from tests.simulation.restore import last_of_stream, set_back
from tests.simulation.schedule import KINDS, SECONDS, Episode, Schedule
from tests.simulation.violation import Violation
from tests.simulation.world import World

CATCH_UP = 120.0
"""Seconds in which, once everything is well, all must have caught up by themselves. It takes a few."""
AFTER_RESTORE = 4.0
"""Seconds of work on the restored database."""


@dataclass
class Played:
    """What an episode was, what hit, what was wrong after it.

    began, ended: of the time under faults, by CLOCK_MONOTONIC. caught_up: seconds it took once all was well.
    """

    episode: Episode
    began: float = 0.0
    ended: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    entries: int = 0
    caught_up: float = 0.0
    left_out: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


def play(schedule: Schedule, home: Path, folder: Path, limit: int) -> Iterator[Played]:
    """The episodes of a seed, each once it has been checked. home: a pair's, fresh. limit: how many at most."""
    with ExitStack() as stack:
        world = stack.enter_context(World(home, str(schedule.seed), pooled=schedule.pooled))
        prepare(world, folder)
        key = Key(folder, 0)
        backups: list[Path] = []
        for episode in schedule.episodes[:limit]:
            played = Played(episode, left_out=world.left_out)
            team = crew(world, schedule, folder, key, episode.number)
            stage = Stage(world, team, folder)
            try:
                key = _play(stage, episode, played, key, backups)
                _check(stage, played, key)
            except Exception as error:
                played.violations.append(Violation("other", f"{type(error).__name__}: {error}"))
            finally:
                team.kill_all()
            played.counts += stage.counts + _counted(world)
            yield played
            if played.violations:
                return


def _play(stage: Stage, episode: Episode, played: Played, key: Key, backups: list[Path]) -> Key:
    """Works under faults, heals, lets all catch up. Returns the key that signs now.

    backups: of this seed so far. What is restored is the newest, or now and then one of an earlier episode.
    """
    chance = random.Random(f"play {episode}")
    team = stage.crew
    team.start()
    played.began = time.monotonic()
    with ThreadPoolExecutor(1) as executor:
        if episode.kind == "restore":
            backup = executor.submit(_back_up, stage, played, chance.uniform(1, 3))
        _inject(stage, episode, played)
    played.ended = time.monotonic()
    _heal(stage)
    if episode.kind == "restore":
        backups.append(backup.result())
        key = set_back(stage, backups[-1] if chance.random() < 0.7 else chance.choice(backups), key)
        team.instruct("signer1", key.path, key.published)
        stage.hit("postgres restored from an older backup")
        team.start()
        time.sleep(AFTER_RESTORE)
    began = time.monotonic()
    late = team.end(writers(team), CATCH_UP)
    _catch_up(stage)
    played.caught_up = time.monotonic() - began
    late += team.end(others(team), 30)
    played.violations += [_hung(stage, name) for name in late]
    played.violations += _failed(stage)
    return key


def _back_up(stage: Stage, played: Played, after: float) -> Path:
    time.sleep(after)
    copy = stage.world.back_up_postgres(f"backup-{played.episode.number}")
    _note(played, "backed up")
    return copy


def _inject(stage: Stage, episode: Episode, played: Played) -> None:
    """Each fault at its time, in a thread of its own; returns once all are over."""
    over = threading.Event()
    failed: list[Exception] = []

    def inject(number: int) -> None:
        at, name, draws = episode.steps[number]
        if over.wait(max(0.0, played.began + at - time.monotonic())):
            return
        _note(played, name)
        try:
            for seconds in KINDS[episode.kind][name](stage, random.Random(draws)):
                over.wait(seconds)
        except Exception as error:
            failed.append(error)
        _note(played, f"{name}: over")

    threads = [threading.Thread(target=inject, args=(number,)) for number in range(len(episode.steps))]
    for thread in threads:
        thread.start()
    while time.monotonic() < played.began + SECONDS:
        if _failed(stage):
            break
        time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _heal(stage: Stage) -> None:
    for proxies in stage.world.proxies.values():
        for proxy in proxies:
            proxy.heal()
    stage.world.start()
    stage.world.demand_standby("")
    stage.say("clock", "0")
    for name in stage.crew.members:
        stage.crew.pause(name, paused=False)
    stage.crew.start()


def _catch_up(stage: Stage) -> None:
    """Waits until sealers, relays, projectors and readers have come to the ends. Raises TimeoutError."""
    hostile.quarantine_lies(stage.world, stage.folder)
    end = time.monotonic() + CATCH_UP
    _drain(stage, end)
    with Ledger(stage.world.direct) as ledger:
        tail = ledger.tail().position
        while behind := _behind(stage, ledger, tail) + _behind_victim(stage, ledger):
            if problem := _failed(stage):
                raise RuntimeError(problem[0].text)
            if time.monotonic() > end:
                raise TimeoutError(f"not caught up with {tail} entries after {CATCH_UP:g} s: {behind}")
            time.sleep(0.2)


def _drain(stage: Stage, end: float) -> None:
    """Waits until the sealers have sealed all. Raises TimeoutError."""
    with stage.world.database() as connection:
        while (rows := connection.execute("select count(*) from ledger.outbox").fetchall()) != [(0,)]:
            if problem := _failed(stage):
                raise RuntimeError(problem[0].text)
            if time.monotonic() > end:
                raise TimeoutError(f"{rows[0][0]} events are not sealed after {CATCH_UP:g} s")
            time.sleep(0.1)


def _behind(stage: Stage, ledger: Ledger, tail: int) -> list[str]:
    behind = []
    with stage.world.redis() as client:
        info = client.xinfo_stream(wire.key("main")) if client.exists(wire.key("main")) else {}
    last = info.get("last-generated-id", b"0-0").decode()
    if not last.endswith(f"-{tail}"):
        behind.append(f"stream at {last}")
    for projection in find_projections():
        at = ledger.run(view_positions(projection.name))[ledger.ref.ledger_id].position
        if at < tail:
            behind.append(f"{projection.name} at {at}")
    back = restores(stage.folder)
    for name, its in all_lines(stage.folder / "followed"):
        if (at := max((line["position"] for line in standing(its, back)), default=0)) < tail:
            behind.append(f"{name} at {at}")
    groups: dict[str, set[tuple[int, str]]] = {}
    for name, its in all_lines(stage.folder / "consumed"):
        groups.setdefault(name.partition("-")[0], set()).update((line["position"], line["hash"]) for line in its)
    with stage.world.database() as connection:
        entries = connection.execute(
            "select position, encode(hash, 'hex') from ledger.audit_logs where ledger_id = %s and position <= %s",
            (ledger.ref.ledger_id, tail),
        ).fetchall()
    for group, seen in groups.items():
        if missing := set(entries) - seen:
            behind.append(f"group {group} lacks {len(missing)}, from {min(missing)[0]} on")
    return behind


def _behind_victim(stage: Stage, ledger: Ledger) -> list[str]:
    [ledger_end] = ledger.run(ledger_ends([hostile.VICTIM]))
    last = last_of_stream(stage.world, hostile.VICTIM)
    behind = [] if last.position == ledger_end.position else [f"{hostile.VICTIM}: stream at {last}"]
    for projection in find_projections():
        at = ledger.run(view_positions(projection.name))[ledger_end.ledger.ledger_id].position
        if at < ledger_end.position:
            behind.append(f"{hostile.VICTIM}: {projection.name} at {at} of {ledger_end.position}")
    return behind


def _check(stage: Stage, played: Played, key: Key) -> None:
    notes = [line["note"].encode() for line in lines(stage.folder / "signed" / key.published.name)]
    entries, found = whole_ledger(stage.world, stage.folder, key.vkey, notes[-20:])
    played.entries = len(entries)
    played.violations += found
    played.violations += hostile.harm(stage.world, stage.folder)


def _hung(stage: Stage, name: str) -> Violation:
    """With where its threads stood when it was given up."""
    return Violation("other", f"{name} did not come to an end: {_end_of(stage.folder / f'{name}.stderr', 80)}")


def _failed(stage: Stage) -> list[Violation]:
    """Who ended as nobody should, with the end of what he said."""
    return [
        Violation("other", f"{name} ended with {how}: {_end_of(stage.folder / f'{name}.stderr')}")
        for name, how in stage.crew.failed().items()
    ]


def _end_of(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _counted(world: World) -> Counter[str]:
    """What the proxies injected since they were last asked."""
    counts: Counter[str] = Counter()
    for side, proxies in world.proxies.items():
        for proxy in proxies:
            for kind, times in proxy.counts.items():
                counts[f"{side} {kind}"] += times
            proxy.counts.clear()
    return +counts


def _note(played: Played, what: str) -> None:
    played.trace.append(f"{time.monotonic() - played.began:6.2f} s  {what}")
