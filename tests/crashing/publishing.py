"""Jobs on the stream: the relay, a new epoch, and a consumer group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from ledger import Entry, Ledger, relay, stream, subscription
from ledger.canonical import body, envelope
from ledger.connections import create_redis_connection
from ledger.errors import Unavailable
from ledger.relay import Relay, open_epoch
from ledger.servers import Servers
from ledger.settings import Settings
from tests.checkpoints import MAIN
from tests.crashing.jobs import BATCH, Job, Tell, World, again
from tests.support import checked


def check_stream(settings: Settings, entries: Sequence[Entry], epoch: int = 1) -> None:
    """The stream holds every entry as it is; one that was erased without its body, or not at all."""
    with create_redis_connection(settings.redis_url or "") as client:
        rows = {id_.decode(): fields for id_, fields in client.xrange(stream.key("main"))}
    wanted = {
        f"{epoch}-{entry.position}": {
            b"envelope": envelope(entry),
            b"body": b"" if entry.erased else body(entry),
            b"hash": entry.hash.hex().encode(),
        }
        for entry in entries
    }
    gone = {f"{epoch}-{entry.position}" for entry in entries if entry.erased} - rows.keys()
    assert rows == {id_: fields for id_, fields in wanted.items() if id_ not in gone}


class Publish(Job):
    """Three batches, the second of which erases an entry of the first, and one that was published before."""

    count = 3 * BATCH

    def prepare(self, world: World) -> None:
        first = world.ledger.tail().position + 1
        world.ledger.append_many(self.events(3))
        world.relay.publish()
        world.ledger.append_many(self.events(self.count - 3, 3))
        for position in (first, first + 4):
            world.ledger.erase(position, "officer", "asked for")

    def run(self, tell: Tell) -> None:
        relay.BATCH = BATCH
        with closing(Servers(self.settings)) as servers:
            running = Relay(servers)
            again(running.publish)
            again(running.tend)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        check_stream(self.settings, checked(world.ledger))


class NewEpoch(Job):
    """The stream is filled anew under the next epoch, and rid of what was in it."""

    def prepare(self, world: World) -> None:
        if not world.ledger.tail().position:
            world.ledger.append_many(self.events(2 * BATCH))
            world.relay.publish()
            world.ledger.append_many(self.events(2, 2 * BATCH))

    def run(self, tell: Tell) -> None:
        relay.BATCH = BATCH
        with closing(Servers(self.settings)) as servers:
            again(lambda: servers.run(open_epoch(MAIN)))
            running = Relay(servers)
            again(running.publish)
            again(running.tend)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        [(epoch,)] = world.admin.execute("select epoch from ledger.tails").fetchall()
        check_stream(self.settings, checked(world.ledger), epoch)


@dataclass
class Subscribe(Job):
    """A consumer group deals with entries, one of which was erased."""

    positions: Sequence[int] = ()
    count = 7

    def prepare(self, world: World) -> None:
        before = world.ledger.tail().position
        world.ledger.append_many(self.events(self.count))
        world.relay.publish()
        world.ledger.erase(before + 3, "officer", "asked for")
        world.relay.publish()
        self.positions = range(before + 1, before + self.count + 2)

    def run(self, tell: Tell) -> None:
        """Whoever cannot know what others left unacknowledged asks for that soon."""
        subscription.SAVE_EVERY, subscription.AWAY = 0.0, 0.01
        claim_after = 60.0
        end = time.monotonic() + 30
        with Ledger(self.settings) as ledger:
            while not self._is_settled():
                assert time.monotonic() < end, "some are never handed out again"
                with suppress(Unavailable):
                    self._deal(ledger, tell, claim_after)
                claim_after = 0.01

    def _deal(self, ledger: Ledger, tell: Tell, claim_after: float) -> None:
        after, last = self.positions[0] - 1, self.positions[-1]
        for delivery in ledger.subscribe(self.name, after=after, claim_after=claim_after, idle=0.05):
            tell("handed out", delivery.entry.position)
            again(delivery.ack)
            tell("acknowledged", delivery.entry.position)
            if delivery.entry.position == last:
                return

    def _is_settled(self) -> bool:
        with create_redis_connection(self.settings.redis_url or "") as redis:
            groups = {each["name"]: each for each in redis.xinfo_groups(stream.key("main"))}
        mine = groups.get(self.name.encode())
        return mine is not None and (mine["pending"], mine["last-delivered-id"]) == (0, b"1-%d" % self.positions[-1])

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        """At least once; not again once it was acknowledged. Redis keeps no claim on the erased one."""
        handed_out = [position for what, position in told if what == "handed out"]
        erased = self.positions[2]
        assert set(handed_out) | {erased} == set(self.positions)
        done: set[int] = set()
        for what, position in told:
            assert position not in done, f"{position} was acknowledged, and handed out again"
            if what == "acknowledged":
                done.add(position)
        parked = world.admin.execute("select position from ledger.subscriptions where name = %s", (self.name,))
        [(saved,)] = parked.fetchall()
        assert saved <= self.positions[-1]
