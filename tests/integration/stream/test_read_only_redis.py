"""A Redis that takes no writes (a replica, out of memory): workers wait, errors have advice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ledger import Event, Ledger, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.errors import Unavailable
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.support.cli import Cli
from tests.support.helpers import OwnServers, events


@pytest.fixture
def settings(own_servers: OwnServers) -> Settings:
    found = Settings(database_url=own_servers.database_url, redis_url=own_servers.redis_url)
    migrate(found)
    return found


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings) as opened:
        yield opened


REFUSALS = {
    "a replica": ("replicaof 127.0.0.1 1", "replicaof no one", "is a replica and takes no writes"),
    "out of memory": ("config set maxmemory 1", "config set maxmemory 0", "is out of memory"),
    "too few replicas": (
        "config set min-replicas-to-write 1",
        "config set min-replicas-to-write 0",
        "too few replicas",
    ),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_redis_that_takes_no_writes_is_waited_for(
    ledger: Ledger, settings: Settings, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin, end, message = REFUSALS[how]
    ledger.append_many(events(5))
    servers = Connector(settings)
    relay = Relay(servers)
    relay.publish()
    stop = threading.Event()
    delivered: list[int] = []

    def subscribe() -> None:
        for delivery in ledger.subscribe("mailer", after=0, idle=8):
            delivered.append(delivery.entry.position)
            delivery.ack()
            if delivery.entry.position == 8:
                return

    with create_redis_connection(settings.redis_url or "") as redis:
        redis.execute_command(*begin.split())
        with pytest.raises(Unavailable, match=message):
            ledger.append_many(events(3, 5))
            relay.publish()
        threads = [threading.Thread(target=relay.run, args=(stop,)), threading.Thread(target=subscribe)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(2.5)
            assert all(thread.is_alive() for thread in threads)
            assert message in caplog.text
            redis.execute_command(*end.split())
            threads[1].join(20)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
    servers.close()
    assert delivered == list(range(1, 9))
    assert [entry.position for entry in ledger.follow(after=0, idle=0.3)] == list(range(1, 9))


def test_what_the_command_line_says(ledger: Ledger, settings: Settings) -> None:
    ledger.append(Event("a", "b"))
    cli = Cli("--database-url", settings.database_url or "", "--redis-url", settings.redis_url or "")
    with create_redis_connection(settings.redis_url or "") as redis:
        redis.execute_command("replicaof", "127.0.0.1", "1")
        ran = cli("relay", "--once")
        redis.execute_command("replicaof", "no", "one")
    assert ran.code == 3 and "promote it" in ran.error
    assert cli("relay", "--once").code == 0
