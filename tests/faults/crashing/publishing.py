"""Jobs on the stream: the relay, a new epoch, and a consumer group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from ledger import Entry, Ledger
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.errors import Unavailable, UsageError
from ledger.format.canonical import body, envelope
from ledger.settings import Settings
from ledger.stream import consumer_group, publish, wire
from ledger.stream.dead_letters import redeliver
from ledger.stream.relay import Relay, open_epoch
from tests.faults.crashing.jobs import BATCH, Job, Tell, World, again
from tests.support.helpers import checked
from tests.support.signed_checkpoints import MAIN


def check_stream(settings: Settings, entries: Sequence[Entry], epoch: int = 1) -> None:
    """The stream holds every entry as it is; one that was erased without its body, or not at all."""
    with create_redis_connection(settings.redis_url or "") as client:
        rows = {id_.decode(): fields for id_, fields in client.xrange(wire.key("main"))}
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
        publish.BATCH = BATCH
        with closing(Connector(self.settings)) as servers:
            running = Relay(servers)
            again(running.publish)
            again(running.trim)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        check_stream(self.settings, checked(world.ledger))


@dataclass
class HandOutAgain(Job):
    """An entry that a consumer group has parked is handed out again."""

    parked: int = 0

    def prepare(self, world: World) -> None:
        self.parked = world.ledger.append(self.event(0)).position
        world.relay.publish()
        with create_redis_connection(self.settings.redis_url or "") as redis:
            redis.xgroup_create(wire.key("main"), self.name, "$")
            redis.hset(wire.group_keys("main", self.name).parked, str(self.parked), "5")

    def run(self, tell: Tell) -> None:
        with closing(Connector(self.settings)) as servers, suppress(UsageError):  # it is not parked any more
            again(lambda: servers.run(redeliver(MAIN, self.name, self.parked)))

    def look(self, world: World) -> None:
        """It is parked, or it waits to be handed out, or both."""
        with create_redis_connection(self.settings.redis_url or "") as redis:
            parked = redis.hlen(wire.group_keys("main", self.name).parked)
            waiting = redis.xpending(wire.key("main"), self.name)["pending"]
        assert (parked, waiting) in ((1, 0), (1, 1), (0, 1))

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        with create_redis_connection(self.settings.redis_url or "") as redis:
            assert redis.hlen(wire.group_keys("main", self.name).parked) == 0
            assert redis.xpending(wire.key("main"), self.name)["pending"] == 1


class NewEpoch(Job):
    """The stream is filled anew under the next epoch, and rid of what was in it."""

    def prepare(self, world: World) -> None:
        if not world.ledger.tail().position:
            world.ledger.append_many(self.events(2 * BATCH))
            world.relay.publish()
            world.ledger.append_many(self.events(2, 2 * BATCH))

    def run(self, tell: Tell) -> None:
        publish.BATCH = BATCH
        with closing(Connector(self.settings)) as servers:
            again(lambda: servers.run(open_epoch(MAIN)))
            running = Relay(servers)
            again(running.publish)
            again(running.trim)

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
        """Whoever comes after another one does not wait for long until it takes over what that left behind."""
        consumer_group.SAVE_SECONDS, consumer_group.RETRY_SECONDS = 0.0, 0.01
        end = time.monotonic() + 30
        with Ledger(self.settings) as ledger:
            while (group := self._group()) is None or (group["pending"], group["last-delivered-id"]) != (0, self._last):
                assert time.monotonic() < end, "some are never handed out again"
                claim_after, idle = (60, 5) if group is None else (0.01, 0.05)
                with suppress(Unavailable):
                    self._deal(ledger, tell, claim_after, idle)

    def _deal(self, ledger: Ledger, tell: Tell, claim_after: float, idle: float) -> None:
        after = self.positions[0] - 1
        for delivery in ledger.subscribe(self.name, after=after, claim_after=claim_after, idle=idle):
            tell("handed out", delivery.entry.position)
            again(delivery.ack)
            tell("acknowledged", delivery.entry.position)
            if delivery.entry.position == self.positions[-1]:
                return

    def _group(self) -> dict[str, Any] | None:
        with create_redis_connection(self.settings.redis_url or "") as redis:
            groups = {each["name"]: each for each in redis.xinfo_groups(wire.key("main"))}
        return groups.get(self.name.encode())

    @property
    def _last(self) -> bytes:
        return b"1-%d" % self.positions[-1]

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        """At least once; not again once it was acknowledged, but for the erased one, of which Redis knows nothing."""
        assert {position for what, position in told if what == "handed out"} == set(self.positions)
        done: set[int] = set()
        for what, position in told:
            assert position not in done, f"{position} was acknowledged, and handed out again"
            if what == "acknowledged" and position != self.positions[2]:
                done.add(position)
        rows = world.admin.execute("select position from ledger.subscriptions where name = %s", (self.name,))
        [(saved,)] = rows.fetchall()
        assert saved <= self.positions[-1]
