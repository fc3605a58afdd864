"""What an HTTP server needs so that no client can take it from the others: connections and their time are bounded.

A server that is full lets the client with the most connections pay for the next one: the oldest of those is given up.
Refusing the newcomer instead would let one client hold all places.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

MAX_CONNECTIONS = 100
"""Open at once, before the oldest of the client that has the most is given up for a further one."""
IDLE_SECONDS = 10.0
"""After which a connection that sends nothing, or takes nothing, is closed: a handler's `timeout`."""
LIFETIME_SECONDS = 60.0
"""After which a connection is closed once it is not being answered."""

_log = logging.getLogger("ledger.http")


@dataclass(slots=True)
class _Opened:
    client: str
    since: float = field(default_factory=time.monotonic)
    ending: bool = False


class Bounded(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Goes before a server of http.server or wsgiref. `server_close` waits for those that are being answered."""

    daemon_threads = False  # each answers before the process ends
    request_queue_size = 128

    def __init__(self, host: str, port: int, *args: Any, **options: Any) -> None:
        """Raises OSError if it cannot listen there."""
        self._opened: dict[socket.socket, _Opened] = {}
        self._guard = threading.Lock()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), *args, **options)

    def end_reading(self, seconds: float) -> None:
        """Of connections older than that. A request that has come is answered, and then there is no next."""
        before = time.monotonic() - seconds
        with self._guard:
            for connection, opened in self._opened.items():
                if opened.since <= before:
                    _end(connection, opened)

    # ------------------------------------------------------------------------------------- called by the base class

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # not HTTPServer's, which asks the name service who this is

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            full = len(self._opened) >= MAX_CONNECTIONS
            if full:
                self._make_room()
            client = _client(client_address)
            room = len(self._opened) < self._places(client)
            if room:
                self._opened[request] = _Opened(client)
        if full:
            _log.warning("%d connections are open: the oldest of the busiest client was closed", MAX_CONNECTIONS)
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.end_reading(LIFETIME_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.info("A connection broke: %r", sys.exception())

    def _places(self, client: str) -> int:
        """Twice as many as may stay, as those that were given up need a moment. The last ones are for other clients."""
        places = 2 * MAX_CONNECTIONS
        spare = max(1, MAX_CONNECTIONS // 10)
        if len(self._opened) < places - spare:
            return places
        return places - spare if client in self._busiest() else places

    def _make_room(self) -> None:
        """Gives up nobody else where the busiest client has none left to give up."""
        busiest = self._busiest()
        for connection, opened in self._opened.items():
            if opened.client in busiest and not opened.ending:
                _end(connection, opened)
                return

    def _busiest(self) -> set[str]:
        """Who has the most connections, those counted that were given up and are not closed yet."""
        counts = Counter(opened.client for opened in self._opened.values())
        most = max(counts.values(), default=0)
        return {client for client, count in counts.items() if count == most}


def _end(connection: socket.socket, opened: _Opened) -> None:
    opened.ending = True
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


def _client(address: Any) -> str:
    """Whom a connection is counted for: an address, of IPv6 the network of 64 bits, of which a client has all."""
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except (ValueError, IndexError):
        return str(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
