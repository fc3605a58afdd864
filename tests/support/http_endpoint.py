"""A real HTTP server that takes checkpoints, and does what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Taker:
    """What came: (path, headers, body). status: what is answered, with `location` as a redirect's target."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.location = ""
        self.hang = threading.Event()
        self.hang.set()
        self.taken: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def notes(self) -> list[bytes]:
        return [body for _, _, body in self.taken]


@contextmanager
def endpoint() -> Iterator[Taker]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taker.hang.wait(10)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taker.taken.append((self.path, dict(self.headers), body))
            self.send_response(taker.status)
            if taker.location:
                self.send_header("Location", taker.location)
            self.end_headers()
            self.wfile.write(b"so\nit is")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taker = Taker(f"http://127.0.0.1:{server.server_port}/log")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield taker
    finally:
        taker.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()
