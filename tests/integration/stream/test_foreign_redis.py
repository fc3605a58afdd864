"""A Redis with unexpected answers counts as unreachable; readers and views use Postgres."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from ledger_projections import Timeline

from ledger import Ledger, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.errors import Unavailable
from ledger.projection.worker import Projector
from ledger.store.ledgers import create_ledger
from ledger.stream import commands, wire
from ledger.stream.relay import Relay
from tests.support.cli import cli_of
from tests.support.helpers import event, events, eventually

KEY = wire.key("main")
Spoil = Callable[["object"], object]

ENDS: dict[str, list[tuple[object, ...]]] = {
    "trimmed to nothing": [("XTRIM", KEY, "MAXLEN", 0)],
    "the newest is deleted": [("XDEL", KEY, "1-10")],
    "the last three are deleted": [("XDEL", KEY, "1-10", "1-9", "1-8")],
    "the key is deleted": [("DEL", KEY)],
    "renamed": [("RENAME", KEY, "elsewhere")],
    "flushed": [("FLUSHDB",)],
    "a larger last id": [("XDEL", KEY, "1-10"), ("XSETID", KEY, "7-7")],
}


@pytest.fixture
def spoiled(ledger: Ledger) -> Iterator[Ledger]:
    """Ten published entries."""
    ledger.append_many(events(10))
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    servers.close()
    yield ledger


def command(ledger: Ledger, *parts: object) -> None:
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.execute_command(*parts)


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_stream_is_gone(spoiled: Ledger, how: str) -> None:
    """Whoever reads has it from Postgres within a second, with no relay running and no further append."""
    group = spoiled.subscribe("mailer", after=0, claim_after=30)
    for _ in range(7):
        delivery = next(group)
        delivery.ack()
    following = spoiled.follow(after=7)
    for parts in ENDS[how]:
        command(spoiled, *parts)
    began = time.monotonic()
    assert [next(following).position for _ in range(3)] == [8, 9, 10]
    assert time.monotonic() - began < 2
    # The group had taken ten at once; a new consumer of a new group has none.
    began = time.monotonic()
    found = []
    for delivery in spoiled.subscribe(f"new {how}", after=7, idle=3):
        delivery.ack()
        found.append(delivery.entry.position)
        if len(found) == 3:
            break
    assert found == [8, 9, 10] and time.monotonic() - began < 5
    spoiled.append(event(11))
    began = time.monotonic()
    assert next(following).position == 11
    assert time.monotonic() - began < 2


def test_an_entry_that_is_pending_does_not_bring_those_after_it_again(spoiled: Ledger) -> None:
    """The relay is down: what follows the stream comes from Postgres, and once, though an earlier entry is pending."""
    group = spoiled.subscribe("mailer", after=0, claim_after=30)
    positions = []
    for _ in range(10):
        delivery = next(group)
        positions.append(delivery.entry.position)
        if delivery.entry.position != 4:
            delivery.ack()
    spoiled.append_many(events(5))
    for delivery in spoiled.subscribe("mailer", claim_after=30, idle=2):
        positions.append(delivery.entry.position)
        delivery.ack()
    assert positions == [*range(1, 16)]


def test_one_consumer_at_a_time_has_what_the_stream_lacks(spoiled: Ledger) -> None:
    """At least once, dead letters as any other, and noted for the day when Redis is lost."""
    command(spoiled, "XTRIM", KEY, "MAXLEN", 0)
    one = spoiled.subscribe("mailer", after=8, claim_after=1.0, max_tries=2, idle=6)
    nine = next(one)
    assert (nine.entry.position, nine.tries) == (9, 1)
    assert list(spoiled.subscribe("mailer", claim_after=1.0, idle=0.4)) == [], "the other has it"
    found = []
    for delivery in spoiled.subscribe("mailer", claim_after=1.0, max_tries=2, idle=3):
        found.append((delivery.entry.position, delivery.tries))
        if delivery.entry.position == 10:
            delivery.ack()
    assert found == [(9, 2), (10, 1)]
    assert [letter[:2] for letter in spoiled.dead_letters("mailer")] == [(9, 2)]
    assert [(group.position, group.lag) for group in spoiled.groups()] == [(10, 0)]
    command(spoiled, "FLUSHDB")
    assert list(spoiled.subscribe("mailer", idle=0.7)) == []


FOREIGN: dict[str, list[tuple[object, ...]]] = {
    "a string": [("SET", KEY, "x")],
    "a list": [("RPUSH", KEY, "x")],
    "a hash": [("HSET", KEY, "x", "y")],
    "another stream": [("XADD", KEY, "*", "x", "y")],
    "another stream with our fields": [("XADD", KEY, "9-1", "envelope", "\xff", "body", b"\xff", "hash", "z")],
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_foreign_key_holds_up_its_ledger_alone(ledger: Ledger, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The relay publishes the others, waits for this one, says why, and goes on by itself."""
    servers = Connector(ledger.settings)
    servers.run(create_ledger("second"))
    second = Ledger(replace(ledger.settings, name="second"))
    ledger.append_many(events(3))
    for parts in FOREIGN[how]:
        command(ledger, *parts)
    stop = threading.Event()
    relay, projector = Relay(servers), Projector(servers, [Timeline()])
    projector.install()

    def reasons() -> list[str]:
        said = [record.getMessage() for record in caplog.records if record.name == "ledger.stops"]
        return [each for each in said if each.startswith("ledger 'main': ")]

    threads = [threading.Thread(target=each.run, args=(stop,)) for each in (relay, projector)]
    for thread in threads:
        thread.start()
    try:
        second.append_many(events(5))
        ledger.append_many(events(4))
        eventually(lambda: servers.run(commands.state("second")).last.position == 5)
        ledger.wait_for(7, "timeline", timeout=20)
        second.wait_for(5, "timeline", timeout=20)
        assert [entry.position for entry in ledger.follow(after=0, idle=0.8)] == list(range(1, 8))
        eventually(lambda: reasons() != [])
        assert len(reasons()) <= 3, "once a change"
        if "stream" not in how:
            assert "UNUSABLE" in cli_of(ledger).well("status").out
            with pytest.raises(Unavailable, match="WRONGTYPE"):
                ledger.run(commands.state("main"))
            assert cli_of(ledger)("relay", "--once").code == 3
        command(ledger, "DEL", KEY)
        eventually(lambda: servers.run(commands.state("main")).last.position == 7)
        assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        projector.close()
        second.close()
        servers.close()


ANSWERS: dict[str, bytes] = {
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "ASK": b"-ASK 3999 127.0.0.1:6381\r\n",
    "CROSSSLOT": b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "NOPERM": b"-NOPERM this user has no permissions to run the command\r\n",
    "WRONGTYPE": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "NOGROUP": b"-NOGROUP No such key or consumer group\r\n",
    "BUSYGROUP": b"-BUSYGROUP Consumer Group name already exists\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "MISCONF": b"-MISCONF Redis is configured to save RDB snapshots\r\n",
    "NOSCRIPT": b"-NOSCRIPT No matching script.\r\n",
    "BUSY": b"-BUSY Redis is busy running a script.\r\n",
    "an unknown error": b"-WHATEVER \xff\xfe\r\n",
    "nil": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "a list that is too short": b"*1\r\n*1\r\n$1\r\nx\r\n",
    "an integer": b":7\r\n",
    "a status": b"+OK\r\n",
    "not UTF-8": b"*4\r\n$2\r\n\xff\xfe\r\n$2\r\n\xff\xfe\r\n$2\r\n\xff\xfe\r\n$2\r\n\xff\xfe\r\n",
    "an error in a list": b"*2\r\n-ERR x\r\n$1\r\nx\r\n",
    "a push of RESP3": b">2\r\n$10\r\ninvalidate\r\n*0\r\n",
    "a map of RESP3": b"%1\r\n$1\r\nx\r\n$1\r\ny\r\n",
    "an entry of another form": (
        b"*1\r\n*2\r\n$21\r\nledger:{main}:entries\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*1\r\n$1\r\nx\r\n"
    ),
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "noise": b"\x00\x01\x02\r\n\r\n",
    "nothing": b"",
}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives the same answer to everything but what a connection begins with; its URL."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    if not answer:
                        return
                    first = b"HELLO" in data.upper() or b"CLIENT" in data.upper() or b"SELECT" in data.upper()
                    for _ in range(max(1, data.count(b"*"))) if first else (0,):
                        client.sendall(b"+OK\r\n" if first else answer)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield (f"redis://127.0.0.1:{server.getsockname()[1]}/0")
    finally:
        server.close()


@pytest.mark.parametrize("what", ANSWERS)
def test_whatever_redis_answers_views_and_followers_go_on(ledger: Ledger, what: str) -> None:
    """Relay, groups and readers get nothing but Unavailable; nobody ends."""
    ledger.append_many(events(5))
    with answering(ANSWERS[what]) as url:
        settings = replace(ledger.settings, redis_url=url, connect_timeout=2.0)
        servers = Connector(settings)
        with Ledger(settings) as strange:
            following = strange.follow(after=0)
            assert [next(following).position for _ in range(5)] == [1, 2, 3, 4, 5]
            projector = Projector(servers, [Timeline()])
            projector.install()
            assert projector.catch_up() == 5
            for attempt in (Relay(servers).publish, Relay(servers).trim, strange.groups):
                try:
                    attempt()
                except Unavailable as error:
                    assert "Redis" in str(error)
            assert list(strange.subscribe("mailer", after=0, idle=0.6)) == []
            stop = threading.Event()
            thread = threading.Thread(target=Relay(servers).run, args=(stop,))
            thread.start()
            time.sleep(0.3)
            assert thread.is_alive()
            stop.set()
            thread.join()
            assert cli_of(strange)("status").code in (0, 3)
            projector.close()
        servers.close()
