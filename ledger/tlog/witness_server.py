"""The HTTP server of a witness: C2SP tlog-witness, "HTTP Interface". What it answers, cosigner.py decides.

Plain HTTP, for a network of one's own or behind a proxy that speaks TLS. Anyone may ask: a request counts by the log's
signature in it. So that nobody can take the witness from the others, bodies, connections and their time are bounded.
"""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from ledger.errors import LedgerError, UsageError
from ledger.tlog.cosigner import Cosigner
from ledger.tlog.http_server import IDLE_SECONDS, Bounded
from ledger.tlog.witness_protocol import PATH, Answer

MAX_BODY = 65_536
"""Bytes of a request's body: 63 hashes, a checkpoint and a hundred signatures have room."""

_log = logging.getLogger("ledger.witness")


class WitnessServer(Bounded, HTTPServer):
    """Serves a cosigner on host and port (0: a free one) from when it is made until `stop`.

    Raises UsageError if it cannot listen there.
    """

    def __init__(self, cosigner: Cosigner, host: str, port: int) -> None:
        self.cosigner = cosigner
        try:
            super().__init__(host, port, _Handler)
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="witness", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def stop(self) -> None:
        """Takes no further request; returns once those that had come are answered."""
        self.shutdown()
        self.end_reading(0)
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "auditledger"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"
    server: WitnessServer

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        try:
            answer = self.server.cosigner.answer(body)
        except (OSError, LedgerError) as error:
            _log.error("No cosignature: %s", error)
            answer = Answer(500, b"the witness cannot remember the checkpoint, and so does not cosign it\n")
        self._send(answer)

    def do_GET(self) -> None:
        self.close_connection = True  # a body that may follow is not read
        self._send(Answer(405 if self.path == PATH else 404, b"this is a witness: POST /add-checkpoint\n"))

    def _body(self) -> bytes | None:
        """The request's body; None if it was answered already, or did not come."""
        lengths = self.headers.get_all("Content-Length", [])
        refused = None
        if self.path != PATH:
            refused = Answer(404, b"this is a witness: POST /add-checkpoint\n")
        elif "Transfer-Encoding" in self.headers or not lengths:
            refused = Answer(411, b"the length of the body must be given as Content-Length\n")
        elif len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdecimal()):
            refused = Answer(400, b"the Content-Length is not a number\n")
        elif len(lengths[0]) > 9 or int(lengths[0]) > MAX_BODY:
            refused = Answer(413, b"the body is longer than %d bytes\n" % MAX_BODY)
        if refused is not None:
            self.close_connection = True
            self._send(refused)
            return None
        body = self.rfile.read(int(lengths[0]))
        if len(body) == int(lengths[0]):
            return body
        self.close_connection = True
        return None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.status == 405:
            self.send_header("Allow", "POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)
