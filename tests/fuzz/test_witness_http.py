"""Both ends of a witness's HTTP with any input: the server answers the next request, the client has an outcome."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from threading import enumerate as enumerate_threads

import pytest
from hypothesis import example, given

from ledger.tlog.witness_client import gather
from ledger.tlog.witness_outcome import Witness, WitnessOutcome
from ledger.tlog.witness_server import MAX_BODY
from tests.fuzz import seeds
from tests.fuzz.mutations import mutated
from tests.fuzz.profile import fuzz
from tests.support.witnesses import KEY, key_of, post, request, serving

HEAD = b"POST /add-checkpoint HTTP/1.1\r\nHost: witness\r\n"


def posted(body: bytes, *more: bytes) -> bytes:
    return HEAD + b"".join(more) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def raw(url: str, data: bytes) -> bytes:
    """Sends bytes as they are, says that there are no more, and takes what comes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65_536):
                parts.append(part)
            return b"".join(parts)
        except TimeoutError:
            raise
        except OSError:  # it had enough before all was sent
            return b""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    with serving(tmp_path_factory.mktemp("witness") / "state", seeds.log()) as witness:
        yield witness


def test_a_server_answers_on(server: Witness) -> None:
    sound = [posted(body) for body in seeds.requests()]
    sound += [posted(body, b"Expect: 100-continue\r\n", b"Connection: keep-alive\r\n") for body in seeds.requests()[:1]]
    sound += [
        b"GET / HTTP/1.0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nold 0\r\n0\r\n\r\n",
        sound[0] * 3,
    ]

    @fuzz(30)
    @given(mutated(sound))
    @example(HEAD + b"Content-Length: -1\r\n\r\n" + b"x" * 100)
    @example(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")
    @example(HEAD + b"Content-Length: " + "٣".encode() + b"\r\n\r\nabc")
    @example(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nold 0")
    @example(HEAD + b"X: y\r\n" * 200 + b"\r\n")
    @example(HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
    @example(HEAD + b" folded\r\n\r\n")
    @example(b"POST /add-checkpoint HTTP/9.9\r\n\r\n")
    @example(b"POST " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n")
    @example(b"\xff\xfe\0 \0\r\n\r\n")
    @example(posted(b"x" * (MAX_BODY + 1)))
    def check(data: bytes) -> None:
        raw(server.url, data)
        latest = request(seeds.log(), 11, 11).encode()
        answer = post(server.url, latest)
        assert answer.status in (200, 409), answer
        if answer.status == 409:
            old = int(answer.body)
            assert post(server.url, request(seeds.log(), old, 11).encode()).status == 200

    check()


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def saying(answers: list[Iterable[bytes]]) -> Iterator[tuple[Witness, list[int]]]:
    """A server that takes a request, says the first of the answers as it is and hangs up. The bytes that went out."""
    sent: list[int] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(20)
            self.request.recv(65_536)
            sent.append(0)
            with suppress(OSError):
                for part in answers[0]:
                    self.request.sendall(part)
                    sent[-1] += len(part)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Witness(f"http://127.0.0.1:{server.server_address[1]}", key_of(KEY)), sent
        finally:
            server.shutdown()
            thread.join()


def outcome_of(witness: Witness, timeout: float = 20) -> WitnessOutcome:
    [outcome] = gather(seeds.log().note(4, 0), [witness], lambda old: seeds.log().consistency(old, 4), timeout=timeout)
    return outcome


def test_a_client_has_an_outcome() -> None:
    lines = [note.partition(b"\n\n")[2] for note in seeds.notes()[1::2]]
    sound = [ANSWER % (len(line), line) for line in lines]
    sound += [CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(line), line) for line in lines]
    sound += [b"HTTP/1.1 409 Conflict\r\nContent-Type: text/x.tlog.size\r\nContent-Length: 2\r\n\r\n4\n"]
    answers: list[Iterable[bytes]] = [()]
    with saying(answers) as (witness, _):

        @fuzz(30)
        @given(mutated(sound))
        @example(CHUNKED + b"-1\r\n" + b"x" * 1000)
        @example(CHUNKED + b"ffffffffffffffffff\r\n" + b"x" * 100_000)
        @example(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx")
        @example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx")
        @example(b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\nContent-Length: 0\r\n\r\n")
        @example(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)
        @example(b"HTTP/1.1 999 \xff\r\n\r\n")
        @example(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
        @example(b"\0" * 70_000)
        def check(data: bytes) -> None:
            answers[0] = [data]
            outcome = outcome_of(witness)
            assert outcome.kind != "cosigned", "the key is another's"
            assert outcome.detail.startswith(witness.verifier.name)

        check()


ENDLESS = {
    "a chunk of negative size": (CHUNKED + b"-1\r\n", b"x"),
    "a chunk": (CHUNKED + b"fffffffffff\r\n", b"x"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", b"x"),
    "nothing but headers": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "nothing but promises": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_an_answer_without_an_end_is_not_read_to_it(case: str) -> None:
    head, part = ENDLESS[case]
    part *= 65_536 // len(part)
    with saying([chain([head], repeat(part, 16_384))]) as (witness, sent):  # a gigabyte
        outcome = outcome_of(witness, timeout=5)
        assert not [thread for thread in enumerate_threads() if type(thread).__name__ == "_Call"], "it is read on"
    assert outcome.kind == "away"
    assert sent[0] < 64 * 2**20, f"{sent[0]:,} bytes were taken"
