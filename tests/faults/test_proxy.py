"""The fault proxy between real clients and servers: the faults that it reports are those that clients see."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis

from ledger.drivers.connections import create_redis_connection
from ledger.drivers.run import Redis
from ledger.testing import TestServers
from tests.support.proxy import Proxy


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy.to(redis_url, seed=3) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy, redis_url: str) -> Iterator[Redis]:
    with create_redis_connection(proxy.url(redis_url), read_timeout=20) as connected:
        connected.set("k", "v")
        yield connected


def test_it_forwards_everything(proxy: Proxy, client: Redis) -> None:
    value = bytes(range(256)) * 20_000
    client.set("k", value)
    assert client.get("k") == value
    assert proxy.connections == 1
    assert not proxy.counts


def test_postgres_by_way_of_it(servers: TestServers) -> None:
    with Proxy.to(servers.database_url) as proxy, psycopg.connect(proxy.url(servers.database_url)) as connection:
        assert connection.execute("select sum(n) from generate_series(1, 100000) n").fetchall() == [(5000050000,)]
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


@pytest.mark.parametrize("reset", [True, False])
def test_cut(proxy: Proxy, client: Redis, reset: bool) -> None:
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(client.blpop, ["nothing"])
        _until(lambda: proxy.connections == 1)
        time.sleep(0.1)
        assert proxy.cut(reset=reset) == 1
        with pytest.raises(redis.ConnectionError):
            waiting.result(20)
    assert client.get("k") == b"v"
    assert proxy.counts == {"reset" if reset else "close": 1}


def test_a_cut_that_hits_nothing_does_not_count(proxy: Proxy) -> None:
    assert proxy.cut() == 0
    assert not +proxy.counts


def test_a_reset_is_one_and_a_close_is_none(proxy: Proxy) -> None:
    for reset in (True, False):
        with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
            _until(lambda: proxy.connections == 1)
            _until(lambda reset=reset: proxy.cut(reset=reset) == 1)
            if reset:
                with pytest.raises(ConnectionResetError):
                    raw.recv(1)
            else:
                assert raw.recv(1) == b""


def test_delay(proxy: Proxy, client: Redis) -> None:
    proxy.delay(0.1, 0.15)
    began = time.monotonic()
    assert [client.get("k") for _ in range(2)] == [b"v", b"v"]
    assert time.monotonic() - began >= 0.4
    assert proxy.counts == {"delay": 1}
    proxy.heal()
    assert client.get("k") == b"v"


def test_stall(proxy: Proxy, client: Redis, redis_url: str) -> None:
    proxy.stall()
    with create_redis_connection(proxy.url(redis_url), read_timeout=0.3) as another, pytest.raises(redis.TimeoutError):
        another.get("k")
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(client.get, "k")
        time.sleep(0.2)
        assert not waiting.done()
        proxy.heal()
        assert waiting.result(20) == b"v"
    assert proxy.counts == {"stall": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux'")
def test_unplug(proxy: Proxy, client: Redis) -> None:
    """Nothing is acknowledged: the kernel's own timeouts see a dead network, which a hung server does not show them."""
    assert proxy.unplug() == 1
    with socket.socket() as raw, pytest.raises(TimeoutError):
        raw.settimeout(0.3)
        raw.connect(("127.0.0.1", proxy.port))
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(client.get, "k")
        time.sleep(0.2)
        assert not waiting.done()
        proxy.heal()
        assert waiting.result(20) == b"v"
    assert proxy.counts == {"unplug": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux'")
def test_tcp_user_timeout_sees_a_pulled_cable(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
        raw.settimeout(20)
        _until(lambda: proxy.unplug() == 1)
        raw.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError) as ended:
            raw.recv(1)
        assert ended.value.errno, "the kernel ended it, not our own patience"


def test_refuse(proxy: Proxy, client: Redis, redis_url: str) -> None:
    proxy.refuse()
    assert client.get("k") == b"v"
    with create_redis_connection(proxy.url(redis_url)) as another, pytest.raises(redis.ConnectionError):
        another.get("k")
    assert proxy.counts == {"refuse": 1}


def test_half_a_reply(proxy: Proxy, client: Redis) -> None:
    client.set("k", b"x" * 30_000)
    proxy.tear("reply")
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    assert client.get("k") == b"x" * 30_000
    assert proxy.counts == {"torn reply": 1}


def test_half_a_request(proxy: Proxy, client: Redis) -> None:
    proxy.tear("request")
    with pytest.raises(redis.ConnectionError):
        client.set("k", b"x" * 30_000)
    assert client.get("k") == b"v"
    assert proxy.counts == {"torn request": 1}


def test_a_connection_made_twice(proxy: Proxy, redis_url: str) -> None:
    proxy.duplicate()
    with create_redis_connection(proxy.url(redis_url)) as client:
        client.set("n", 0)
        for _ in range(5):
            client.incr("n")
        _until(lambda: client.get("n") == b"10")
    assert proxy.counts == {"duplicate": 1}


def test_a_server_that_is_not_there(redis_url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with (
            Proxy("127.0.0.1", nobody.getsockname()[1]) as proxy,
            create_redis_connection(proxy.url(redis_url)) as client,
            pytest.raises(redis.ConnectionError),
        ):
            client.get("k")


def test_the_same_seed_does_the_same(redis_url: str) -> None:
    def torn() -> list[int]:
        lengths = []
        with Proxy.to(redis_url, seed=5) as proxy, create_redis_connection(redis_url) as direct:
            direct.set("k", b"x" * 10_000)
            password = direct.connection_pool.connection_kwargs["password"]
            for _ in range(4):
                with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
                    raw.sendall(f"AUTH {password}\r\n".encode())
                    raw.recv(100)
                    raw.sendall(b"SELECT 0\r\n")
                    raw.recv(100)
                    proxy.tear("reply")
                    raw.sendall(b"PING 0123456789012345678901234567890123456789\r\n")
                    lengths.append(len(_all_of(raw)))
        return lengths

    assert torn() == torn()


def _all_of(raw: socket.socket) -> bytes:
    got = b""
    try:
        while data := raw.recv(100):
            got += data
    except ConnectionResetError:
        pass
    return got


def _until(holds) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
