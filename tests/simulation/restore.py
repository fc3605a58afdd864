"""Postgres is set back to an older backup. What was promised after it is lost, by definition; what must happen then:

- the signer refuses to sign fewer entries than it has signed, or others (`truncated`, `rewritten`), and the ledger goes
  on under another key;
- relays wait, say so, and change nothing in the stream, until they are told to open a new epoch;
- projectors stop where they have seen more than there is; after a replay they go on.
"""

from __future__ import annotations

from pathlib import Path

from ledger import Entry, Event, Ledger
from ledger.checkpoints.signer import checkpoint
from ledger.errors import SigningRefused
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.stream.relay import open_new_epoch
from ledger.stream.wire import NO_ID, StreamId
from ledger.stream.wire import key as key_of_stream
from tests.simulation import hostile
from tests.simulation.check import MARK
from tests.simulation.deployment import Key
from tests.simulation.faults import Stage
from tests.simulation.notes import Notes, lines
from tests.simulation.world import World
from tests.support.helpers import eventually


def set_back(stage: Stage, backup: Path, key: Key) -> Key:
    """Nobody is at work at its end. Returns the key that is to sign from now on. Raises AssertionError."""
    crew, world = stage.crew, stage.world
    crew.kill_all()
    world.kill(world.postgres)  # what the killed had under way comes to its end: done or not
    world.start()
    with Ledger(world.direct) as ledger:
        before = list(ledger.read())
    world.restore_postgres(backup)
    with Ledger(world.direct) as ledger:
        base = _shared(before, list(ledger.read()))
        lost = Notes(stage.folder / "lost")
        for entry in before[base:]:
            lost.add(position=entry.position, hash=entry.hash.hex())
        Notes(stage.folder / "restores").add(base=base)
        new_key = _signer_refuses(world, key, base, stage.folder)
        ledger.append(Event(actor="simulation", action=MARK))
        if _relay_stops(stage):
            ledger.run(open_new_epoch(ledger.ref))
        assert not hostile.diverged(ledger)
    hostile.open_epochs(world)
    for projection in find_projections():
        rebuild(world.direct, projection)
    return new_key


def _shared(before: list[Entry], now: list[Entry]) -> int:
    """Up to where they are the same: an older backup may be of another course of things than the one before it."""
    pairs = zip(before, now, strict=False)
    return next((one.position - 1 for one, other in pairs if one.hash != other.hash), min(len(before), len(now)))


def _signer_refuses(world: World, key: Key, base: int, folder: Path) -> Key:
    """Where it must, or was killed before it had noted what it signed: its state knows."""
    signed = max((line["size"] for line in lines(folder / "signed" / key.published.name)), default=0)
    try:
        checkpoint(world.direct, [key.path])
    except SigningRefused as refused:
        assert refused.kind in ("truncated", "rewritten"), f"signed {signed}, of which there are {base}: {refused}"
        return Key(folder, int(key.path.name.partition("-")[2]) + 1)
    assert signed <= base, f"{signed} entries were signed, of which there are {base}, and nobody refused that"
    return key


def _relay_stops(stage: Stage) -> bool:
    """Whether one stops, as it must where the stream holds other entries; whoever is started stops again, and changes
    nothing.
    """
    before = last_of_stream(stage.world)
    with Ledger(stage.world.direct) as ledger:
        stops = hostile.diverged(ledger)
    for _ in range(2 if stops else 0):
        errors = stage.folder / "relay1.stderr"
        said = errors.read_text().count("--new-epoch") if errors.exists() else 0
        stage.crew.start("relay1")
        eventually(lambda: errors.read_text().count("--new-epoch") > said)  # noqa: B023
        stage.crew.kill("relay1")
        assert last_of_stream(stage.world) == before, "a relay went on though the stream holds other entries"
    return stops


def last_of_stream(world: World, name: str = "main") -> StreamId:
    with world.redis() as client:
        if not client.exists(key_of_stream(name)):
            return NO_ID
        return StreamId.parse(client.xinfo_stream(key_of_stream(name))["last-generated-id"])
