"""The HTTP servers of witness and metrics: no client can block the others."""

from __future__ import annotations

import http.client
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.drivers.pools import Connector
from ledger.ops.metrics import serve_metrics
from ledger.tlog import http_server
from ledger.tlog.witness_protocol import PATH
from tests.support.helpers import eventually, race
from tests.support.logs import Log
from tests.support.witnesses import request, serving

MOST = 20
WITHIN = 5.0
"""Seconds in which an honest client has its answer, whatever others do. Less than any timeout of the servers."""
LOG = Log(5)
Address = tuple[str, int]


@pytest.fixture(params=["witness", "metrics"])
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[Address, str]]:
    """Where a server listens, and which it is."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", MOST)
    if request.param == "witness":
        with serving(tmp_path / "state", LOG) as witness:
            found = re.search(r"//(.*):(\d+)", witness.url)
            assert found is not None
            yield (found[1], int(found[2])), "witness"
        return
    pytest.importorskip("prometheus_client")
    ledger: Ledger = request.getfixturevalue("ledger")
    servers = Connector(ledger.settings)
    try:
        with caplog.at_level(logging.INFO, "ledger.metrics"), serve_metrics(servers.settings, ("127.0.0.1", 0), None):
            found = re.search(r"Metrics at http://(.*):(\d+)/", caplog.text)
            assert found is not None
            yield (found[1], int(found[2])), "metrics"
    finally:
        servers.close()


def ask(served: tuple[Address, str]) -> float:
    """An honest client's request, from an address of its own; how long its answer took."""
    (host, port), kind = served
    began = time.monotonic()
    client = http.client.HTTPConnection(host, port, timeout=WITHIN, source_address=("127.0.0.9", 0))
    try:
        if kind == "witness":
            client.request("POST", PATH, request(LOG, 0, 0).encode())
        else:
            client.request("GET", "/metrics")
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.read()
    finally:
        client.close()
    return time.monotonic() - began


def connected(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=WITHIN, source_address=("127.0.0.66", 0))


def idle(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Holds as many connections as it is let, and says nothing."""
    while not stop.wait(0.01):
        with suppress(OSError):
            stack.enter_context(connected(address))


def slow(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Sends heads byte by byte."""
    open_: list[socket.socket] = []
    while not stop.wait(0.01):
        with suppress(OSError):
            open_.append(stack.enter_context(connected(address)))
            open_[-1].sendall(b"POST /add-checkpoint HTTP/1.1\r\nX: ")
        for each in open_:
            with suppress(OSError):
                each.send(b"x")


def slow_body(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Announces a body and sends little of it."""
    while not stop.wait(0.01):
        with suppress(OSError):
            stack.enter_context(connected(address)).sendall(
                b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nold 0"
            )


def huge(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Heads and bodies without an end."""
    heads = (b"GET /metrics HTTP/1.1\r\nX: ", b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
    while not stop.is_set():
        for head in heads:
            with suppress(OSError), connected(address) as connection:
                connection.sendall(head)
                for _ in range(50):
                    connection.sendall(b"x" * 65_536)


def deaf(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Sends requests one after another and reads no answer."""
    open_: list[socket.socket] = []
    while not stop.wait(0.01):
        with suppress(OSError):
            connection = stack.enter_context(connected(address))
            connection.settimeout(0.05)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            open_.append(connection)


def half_open(address: Address, stop: threading.Event, stack: ExitStack) -> None:
    """Ends its own side in the middle of a head and keeps the other."""
    while not stop.wait(0.01):
        with suppress(OSError):
            connection = stack.enter_context(connected(address))
            connection.sendall(b"GET /metr")
            connection.shutdown(socket.SHUT_WR)


@contextmanager
def attacked(attack: Callable[..., None], address: Address) -> Iterator[None]:
    stop = threading.Event()
    with ExitStack() as stack:
        threads = [threading.Thread(target=attack, args=(address, stop, stack)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1.0)
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("attack", [idle, slow, slow_body, huge, deaf, half_open])
def test_one_client_cannot_shut_out_others(served: tuple[Address, str], attack: Callable[..., None]) -> None:
    before = threading.active_count()
    with attacked(attack, served[0]):
        for _ in range(5):
            ask(served)
        # And those of the attack. One that was given up may take a moment to end.
        eventually(lambda: threading.active_count() - before <= 2 * MOST + 2)
    ask(served)


def test_all_from_one_address_as_behind_a_proxy(served: tuple[Address, str]) -> None:
    """The oldest is given up, not the newcomer."""
    (host, port), _ = served
    with ExitStack() as stack:
        for _ in range(MOST + 5):
            stack.enter_context(socket.create_connection((host, port), source_address=("127.0.0.9", 0)))
        for _ in range(5):
            ask(served)


class Echo(socketserver.StreamRequestHandler):
    """Gives each line back. After the line `busy` it notices nothing until `over`, as on a machine with much to do."""

    over = threading.Event()

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"busy\n":
                self.over.wait(60)
            self.wfile.write(line)


def test_where_connections_that_were_given_up_end_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others pay for none of them: neither who is connected, nor who comes then."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", MOST)
    server = http_server.Bounded("127.0.0.1", 0, Echo)
    address = "127.0.0.1", server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()

    def honest(stack: ExitStack) -> socket.socket:
        made = socket.create_connection(address, timeout=WITHIN, source_address=("127.0.0.9", 0))
        return stack.enter_context(made)

    def answered(connection: socket.socket) -> bool:
        connection.sendall(b"hello\n")
        return connection.recv(100) == b"hello\n"

    try:
        with ExitStack() as stack:
            first = honest(stack)
            assert answered(first)
            for _ in range(3 * MOST):
                with suppress(OSError):
                    stack.enter_context(connected(address)).sendall(b"busy\n")
            assert answered(first)
            assert answered(honest(stack))
            Echo.over.set()
    finally:
        Echo.over.set()
        server.shutdown()
        server.end_reading(0)
        server.server_close()
        thread.join()


def test_many_honest_clients_at_once(served: tuple[Address, str]) -> None:
    assert max(race(*[lambda: ask(served)] * (MOST // 2))) < WITHIN
