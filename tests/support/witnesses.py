"""Witnesses for tests: ours, in this process or in one of its own; and one that answers whatever a test wants."""

from __future__ import annotations

import http.client
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path
from ssl import SSLContext
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from ledger.tlog.cosigner import Cosigner
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.note import Verifier
from ledger.tlog.witness_outcome import Witness
from ledger.tlog.witness_protocol import PATH, Answer, Request
from ledger.tlog.witness_server import WitnessServer
from tests.support.logs import Log

KEY = FileSigner("witness.example/w1", b"a witness's key".ljust(32))
TEXT = "text/plain; charset=utf-8"


def key_of(signer: FileSigner) -> Verifier:
    return signer.verifier.cosigner


def forked(log: Log, at: int, size: int) -> Log:
    """Another history under the same key: the same entries up to `at`, then others."""
    other = Log(at, log.name)
    other.append(size - at, actor="user:43")
    return other


def request(log: Log, old: int, size: int) -> Request:
    """An honest one, as far as the sizes allow."""
    proof = log.consistency(old, size) if old <= size else ()
    return Request(old, tuple(proof), log.note(size, witnesses=0))


def post(url: str, body: bytes, timeout: float = 10, headers: dict[str, str] | None = None) -> Answer:
    """One request, from a client that is not the package's."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)) as connection:
        connection.request("POST", parts.path + PATH, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.read(), response.headers.get("Content-Type", ""))


@contextmanager
def serving(folder: Path, *logs: Log | Verifier, signer: FileSigner = KEY, port: int = 0) -> Iterator[Witness]:
    """Our witness of these logs, in threads of this process."""
    with closing(Cosigner(signer, [log.key if isinstance(log, Log) else log for log in logs], folder)) as cosigner:
        server = WitnessServer(cosigner, "127.0.0.1", port)
        try:
            yield Witness(server.url, cosigner.verifier)
        finally:
            server.stop()


@contextmanager
def answering(
    answer: Callable[[bytes], Answer | bytes], signer: FileSigner = KEY, tls: SSLContext | None = None
) -> Iterator[Witness]:
    """A witness that answers a request's body as it is told; bytes go out as they are, and the connection stays."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = answer(self.rfile.read(int(self.headers["Content-Length"])))
            if isinstance(said, bytes):
                self.wfile.write(said)
                self.wfile.flush()
                self.rfile.read(1)  # until the client has had enough
                return
            self.send_response(said.status)
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that hang up are part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield Witness(f"{scheme}://127.0.0.1:{server.server_address[1]}/a/prefix", key_of(signer))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(folder: str, vkeys: list[str], port: int) -> None:
    """What a process of `started` runs, until it is killed."""
    with closing(Cosigner(KEY, map(Verifier.parse, vkeys), Path(folder))) as cosigner:
        WitnessServer(cosigner, "127.0.0.1", port)._thread.join()


def started(folder: Path, port: int, *logs: Log) -> BaseProcess:
    """Our witness in a process of its own, to be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.witnesses"])
    process = context.Process(target=serve, args=(str(folder), [log.key.vkey for log in logs], port), daemon=True)
    process.start()
    return process
