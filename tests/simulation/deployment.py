"""A deployment in a world: the schema, the consumer groups, the signer's key, and who works in it."""

from __future__ import annotations

from pathlib import Path

from ledger import Ledger
from ledger.checkpoints.keys import create_key
from ledger.drivers.pools import Connector
from ledger.migrate.migrate import migrate
from ledger.projection.base import find_projections
from ledger.projection.worker import Projector
from tests.simulation import actors
from tests.simulation.crew import Crew, Member
from tests.simulation.hostile import prepare_victim
from tests.simulation.life import Role
from tests.simulation.readers import LONE, SHARED
from tests.simulation.recorders import COUNTED
from tests.simulation.schedule import Schedule
from tests.simulation.transactions import ORDERS
from tests.simulation.world import World


class Key:
    """The log's key of one generation: a ledger that lost what was signed goes on under another name."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.path = folder / f"key-{generation}"
        self.published = folder / f"published-{generation}"
        self.vkey = create_key(self.path, f"log{generation}.example/main").vkey


def prepare(world: World, folder: Path) -> None:
    """The schema, the views' tables and the consumer groups, which begin with the first entry."""
    migrate(world.direct)
    (folder / "control").mkdir()
    with world.database() as connection:
        connection.execute(ORDERS)
        connection.execute(COUNTED.encode())
    prepare_victim(world)
    servers = Connector(world.direct)
    Projector(servers, find_projections()).install()
    servers.close()
    with Ledger(world.direct) as ledger:
        for group in (LONE, SHARED):
            assert not list(ledger.subscribe(group, after=0, idle=0.1))


def crew(world: World, schedule: Schedule, folder: Path, key: Key, episode: int) -> Crew:
    """Everybody, each by way of the proxies that are before his servers."""
    appending = world.settings(world.appending, world.reading)
    publishing = world.settings(world.working, world.publishing, stream_keep=schedule.keep)
    reading = world.settings(world.working, world.reading)

    def role(name: str, settings: object) -> Role:
        return Role(name, settings, folder, f"{schedule.seed} {episode}")  # type: ignore[arg-type]

    return Crew(
        [
            Member(role("threads1", appending), actors.append, ("threads", ["single", "keyed", "batch", "counting"])),
            Member(role("tasks1", appending), actors.append, ("tasks", ["single", "batch", "expecting", "counting"])),
            Member(role("clock1", appending), actors.step_clock, (["single", "keyed"],)),
            Member(role("orders1", appending), actors.transact, ("threads", 2)),
            Member(role("orders2", appending), actors.transact, ("tasks", 2)),
            Member(role("recorders1", appending), actors.record, ("threads", ["recorded", "counted", "counted"])),
            Member(role("recorders2", appending), actors.record, ("tasks", ["recorded", "counted", "counted"])),
            *(Member(role(f"sealer{each}", reading), actors.seal) for each in (1, 2)),
            *(Member(role(f"relay{each}", publishing), actors.relay) for each in range(1, schedule.relays + 1)),
            *(Member(role(f"projector{each}", reading), actors.project) for each in range(1, schedule.projectors + 1)),
            Member(role("reader1", reading), actors.read_on, (LONE,)),
            Member(role("reader2", reading), actors.read_on, (SHARED,)),
            Member(role("steward1", reading), actors.tend),
            Member(role("signer1", reading), actors.sign, (key.path, key.published)),
        ]
    )


WRITERS = ("threads", "tasks", "clock", "orders", "recorders", "steward", "signer")
"""Who adds something to the ledger: they end first, so that the others can catch up."""


def writers(team: Crew) -> list[str]:
    return [name for name in team.members if name.startswith(WRITERS)]


def others(team: Crew) -> list[str]:
    return [name for name in team.members if not name.startswith(WRITERS)]
