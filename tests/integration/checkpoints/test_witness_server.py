"""The witness server: refusals, state, and that it never cosigns two histories."""

from __future__ import annotations

import copy
import http.client
import json
import random
import shutil
import signal
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidSetting, NoteRefused, UsageError
from ledger.tlog.cosigner import Cosigner
from ledger.tlog.file_signer import FileSigner, new_cosigner, new_key, parse_cosigner
from ledger.tlog.merkle import EMPTY_ROOT
from ledger.tlog.note import Signature, Verifier, base64_text, parse_note, parse_signatures, sign
from ledger.tlog.witness_client import gather
from ledger.tlog.witness_outcome import Witness
from ledger.tlog.witness_protocol import PATH, SIZE_TYPE, Answer, Request
from ledger.tlog.witness_server import MAX_BODY
from tests.support.cli import ended, process, run
from tests.support.helpers import race
from tests.support.logs import Log
from tests.support.witnesses import KEY, TEXT, forked, key_of, post, request, serving, started

HISTORIES = [Log(40), forked(Log(40), 11, 40), forked(Log(40), 23, 40)]
"""What one key signs: three histories that part at 11 and at 23."""
LOG = HISTORIES[0]
WITNESS = key_of(KEY)


def ask(witness: Witness, old: int, size: int, log: Log = LOG) -> Answer:
    return post(witness.url, request(log, old, size).encode())


def own_cosignature(answer: Answer, text: bytes) -> Signature:
    """The one line of a 200, once it verified."""
    assert (answer.status, answer.kind) == (200, TEXT), answer
    (signature,) = parse_signatures(answer.body)
    assert WITNESS.verifies(text, signature)
    return signature


# ------------------------------------------------------------------------------------------------------------ answers


def test_checkpoints_that_continue_one_another_are_cosigned(tmp_path: Path) -> None:
    with serving(tmp_path / "state", LOG) as witness:
        before = 0
        for old, size in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 16), (16, 17), (17, 40), (40, 40)]:
            made = own_cosignature(ask(witness, old, size), LOG.checkpoint(size).text)
            assert before <= made.time <= time.time()
            before = made.time


def test_rollback_is_refused_with_the_size(tmp_path: Path) -> None:
    with serving(tmp_path / "state", LOG) as witness:
        own_cosignature(ask(witness, 0, 30), LOG.checkpoint(30).text)
        for old, size in [(0, 0), (0, 20), (10, 20), (20, 20), (0, 30), (0, 40), (29, 40)]:
            assert ask(witness, old, size) == Answer(409, b"30\n", SIZE_TYPE)
        own_cosignature(ask(witness, 30, 40), LOG.checkpoint(40).text)


def test_forks_are_refused_and_kept(tmp_path: Path) -> None:
    fork = HISTORIES[1]
    with serving(tmp_path / "state", LOG) as witness:
        own_cosignature(ask(witness, 0, 30), LOG.checkpoint(30).text)
        for old, size in [(30, 31), (30, 40), (30, 30)]:
            assert ask(witness, old, size, fork).status == 422
        own_cosignature(ask(witness, 30, 31), LOG.checkpoint(31).text)
        assert ask(witness, 31, 31, HISTORIES[2]).status == 422
    evidence = [parse_note(path.read_bytes()) for path in sorted((tmp_path / "state").glob("*.forked.*"))]
    assert [note.text for note in evidence] == [LOG.checkpoint(30).text, fork.checkpoint(30).text]
    for note in evidence:
        assert any(LOG.key.verifies(note.text, signature) for signature in note.signatures)


def test_proofs_that_do_not_hold_are_refused(tmp_path: Path) -> None:
    good = request(LOG, 20, 40)
    last = bytes([good.proof[-1][0] ^ 1]) + good.proof[-1][1:]
    with serving(tmp_path / "state", LOG) as witness:
        assert post(witness.url, Request(0, good.proof, LOG.note(20, 0)).encode()).status == 422
        own_cosignature(ask(witness, 0, 20), LOG.checkpoint(20).text)
        for proof in [(), good.proof[:-1], (*good.proof, last), (*good.proof[:-1], last), good.proof[::-1]]:
            assert post(witness.url, Request(20, proof, good.note).encode()).status == 422
        assert post(witness.url, Request(20, good.proof, LOG.note(20, 0)).encode()).status == 422
        own_cosignature(ask(witness, 20, 40), LOG.checkpoint(40).text)


def test_unknown_logs_and_signatures_are_refused(tmp_path: Path) -> None:
    text = LOG.checkpoint(5).text
    impostor = FileSigner(LOG.signer.name, b"impostor".ljust(32))
    (false,) = parse_note(sign(LOG.checkpoint(6).text, [LOG.signer])).signatures
    with serving(tmp_path / "state", LOG) as witness:

        def status(note: bytes) -> int:
            return post(witness.url, Request(0, (), note).encode()).status

        assert status(sign(Log(5, "unknown").checkpoint().text, [LOG.signer])) == 404
        assert status(sign(text, [impostor])) == 403
        assert status(sign(text, [LOG.cosigners[0]])) == 403
        assert status(sign(text, [impostor], [false])) == 403
        assert status(sign(text, [LOG.signer], [Signature(LOG.signer.name, 1, b"another key's")])) == 200
    kept = parse_note((tmp_path / "state" / next(iter(sha_of(tmp_path / "state")))).read_bytes())
    assert len(kept.signatures) == 2  # the log's and the witness's; nothing that it did not check


def sha_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if len(path.name) == 64]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 41\n\n" + LOG.note(40, 0),  # older than the checkpoint it is a proof for
        b"old 0\n\n" + LOG.note(40, 0)[:-1],
        b"old 0\n\n" + LOG.checkpoint(40).text,
        b"old 0\n\n" + sign(f"{LOG.signer.name}\n0\n{base64_text(bytes(32))}\n".encode(), [LOG.signer]),
        b"old 0\n\n" + sign(f"{LOG.signer.name}\n040\n{base64_text(EMPTY_ROOT)}\n".encode(), [LOG.signer]),
        b"old 0\n\n" + sign(f"{LOG.signer.name}\n40\n{base64_text(EMPTY_ROOT[1:])}\n".encode(), [LOG.signer]),
        b"old 0\n\n" + sign(f"{LOG.signer.name}\n".encode(), [LOG.signer]),
    ],
)
def test_malformed_requests_are_refused(tmp_path: Path, body: bytes) -> None:
    with serving(tmp_path / "state", LOG) as witness:
        assert post(witness.url, body).status == 400
        own_cosignature(ask(witness, 0, 40), LOG.checkpoint(40).text)


def test_extension_lines_are_cosigned_too(tmp_path: Path) -> None:
    text = LOG.checkpoint(5).text + b"an extension\n"
    with serving(tmp_path / "state", LOG) as witness:
        own_cosignature(post(witness.url, Request(0, (), sign(text, [LOG.signer])).encode()), text)


def test_two_keys_of_one_log(tmp_path: Path) -> None:
    """While a log's key is changed, either signature will do, and both are still one log."""
    new = FileSigner(LOG.signer.name, b"the new key".ljust(32))
    with closing(Cosigner(KEY, [LOG.key, new.verifier], tmp_path / "state")) as cosigner:
        assert cosigner.answer(request(LOG, 0, 10).encode()).status == 200
        note = sign(HISTORIES[1].checkpoint(30).text, [new])
        assert cosigner.answer(Request(0, (), note).encode()) == Answer(409, b"10\n", SIZE_TYPE)
        note = sign(LOG.checkpoint(30).text, [new])
        assert cosigner.answer(Request(10, tuple(LOG.consistency(10, 30)), note).encode()).status == 200


# --------------------------------------------------------------------------------------------------------------- HTTP


def raw(witness: Witness, data: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    host, port = witness.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_http(tmp_path: Path) -> None:
    body = request(LOG, 0, 7).encode()
    post_line = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
    with serving(tmp_path / "state", LOG) as witness:
        for data, status in [
            (post_line + b"\r\n", 411),
            (post_line + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
            (post_line + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 411),
            (post_line + b"Content-Length: -1\r\n\r\n", 400),
            (post_line + b"Content-Length: \xb2\r\n\r\n", 400),
            (post_line + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
            (post_line + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
            (post_line + b"Content-Length: %b\r\n\r\n" % (b"9" * 5000), 413),
            (b"POST /other HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 404),
            (b"GET %b HTTP/1.1\r\n\r\n" % PATH.encode(), 405),
            (b"GET / HTTP/1.1\r\n\r\n", 404),
            (b"PUT %b HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % PATH.encode(), 501),
        ]:
            answer = raw(witness, data)
            assert answer.split(b" ")[1:2] == [b"%d" % status], (data, answer)
        assert raw(
            witness, post_line + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
        ).startswith(b"HTTP/1.1 200 ")
        with closing(http.client.HTTPConnection(witness.url.removeprefix("http://"), timeout=5)) as connection:
            for old, size in [(7, 8), (8, 9), (3, 9), (9, 10)]:  # one connection for all
                connection.request("POST", PATH, request(LOG, old, size).encode())
                with connection.getresponse() as response:
                    assert response.status == (409 if old == 3 else 200)
                    response.read()


def test_many_connections_that_say_nothing_do_not_stop_it(tmp_path: Path) -> None:
    with serving(tmp_path / "state", LOG) as witness:
        host, port = witness.url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=5) for _ in range(50)]
        own_cosignature(ask(witness, 0, 5), LOG.checkpoint(5).text)
        began = time.monotonic()
    assert time.monotonic() - began < 5  # nor do they hold it up when it is to end
    for connection in silent:
        connection.close()


@given(st.binary(max_size=300))
def test_no_bytes_bring_it_down(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Cosigner(KEY, [LOG.key], Path(folder))) as cosigner:
        assert cosigner.answer(body).status == 400
        whole = request(LOG, 0, 7).encode()
        place = body[0] % len(whole) if body else 0
        answer = cosigner.answer(whole[:place] + body + whole[place + len(body) :])
        assert answer.status in (200, 400, 403, 404, 422)
        if answer.status == 200:
            assert body == whole[place : place + len(body)]


# -------------------------------------------------------------------------------------------------- what it remembers


class Model:
    """What the witness should answer, and every cosignature it gave."""

    def __init__(self) -> None:
        self.size, self.root, self.time = 0, EMPTY_ROOT, 0
        self.given: list[tuple[int, bytes]] = []

    def status(self, log: Log, old: int, size: int, now: int) -> int:
        if old > size:
            return 400
        if old != self.size:
            return 409
        if log.checkpoint(old).root != self.root:
            return 422
        return 503 if now < self.time else 200


def check_one_history(given: list[tuple[int, bytes]]) -> None:
    """All of the checkpoints stand in one of the histories."""
    for log in HISTORIES:
        if all(log.checkpoint(size).root == root for size, root in given):
            return
    raise AssertionError(f"contradicting checkpoints were cosigned: {given}")


steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 40), st.integers(-3, 3), st.integers(0, 9)),
    max_size=40,
)


@given(steps)
def test_it_never_cosigns_two_histories(steps: list[tuple[int, int, int, int, int]]) -> None:
    """Any requests, from where it stands or from elsewhere, a clock that jumps, and starts anew in between."""
    now, model = [1_000_000], Model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cosigner = Cosigner(KEY, [LOG.key], folder, clock=lambda: now[0])
        try:
            for history, anywhere, size, tick, what in steps:
                now[0] += tick
                if what == 0:
                    cosigner.close()
                    cosigner = Cosigner(KEY, [LOG.key], folder, clock=lambda: now[0])
                log, old = HISTORIES[history], model.size if what < 7 else anywhere
                expected = model.status(log, old, size, now[0])
                answer = cosigner.answer(request(log, old, size).encode())
                assert answer.status == expected, (answer, model.__dict__)
                if expected == 409:
                    assert answer.body == b"%d\n" % model.size
                if expected == 200:
                    checkpoint = log.checkpoint(size)
                    model.size, model.root, model.time = size, checkpoint.root, now[0]
                    assert own_cosignature(answer, checkpoint.text).time == now[0]
                    model.given.append((size, checkpoint.root))
                    check_one_history(model.given)
        finally:
            cosigner.close()


def grown(log: Log, count: int, actor: str) -> Log:
    """A copy of the log with more entries."""
    other = copy.copy(log)
    other.envelopes, other.tiles = [*log.envelopes], {**log.tiles}
    other.append(count, actor)
    return other


class Liar:
    """A log's owner who shows everybody another history, in threads, until told to stop."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.told: defaultdict[int, list[Log]] = defaultdict(list, {0: [Log()]})
        self.cosigned: list[tuple[Log, int]] = []
        self.stop = Event()
        self.threads = [Thread(target=self.lie, args=(seed * 10 + number,)) for number in range(4)]

    def lie(self, seed: int) -> None:
        choose = random.Random(seed)
        at = 0
        while not self.stop.is_set():
            before = choose.choice(self.told[at])
            log = grown(before, choose.randint(0, 2), choose.choice(["user:42", "user:43"]))
            self.told[log.tree.size].append(log)
            try:
                answer = post(self.url, request(log, at, log.tree.size).encode())
            except (OSError, http.client.HTTPException):
                time.sleep(0.002)
                continue
            if answer.status == 409:
                at = int(answer.body)
            elif answer.status == 200:
                at = log.tree.size
                self.cosigned.append((log, own_cosignature(answer, log.checkpoint().text).time))
            else:
                assert answer.status == 422, answer

    def check(self) -> int:
        """All that was cosigned is one history, in the order of time. Returns its size."""
        made = sorted(self.cosigned, key=lambda pair: (pair[0].tree.size, pair[1]))
        for (old, first), (new, then) in pairwise(made):
            assert new.checkpoint(old.tree.size) == old.checkpoint(), "contradicting checkpoints were cosigned"
            assert first <= then
        return made[-1][0].tree.size


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_never_cosigns_two_histories(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    liar = Liar(f"http://127.0.0.1:{port}", seed)
    for thread in liar.threads:
        thread.start()
    try:
        kills = 0
        while kills < 15 or max(log.tree.size for log, _ in tuple(liar.cosigned)) <= 15:
            kills += 1
            before, deadline = len(liar.cosigned), time.monotonic() + 20
            witness = started(tmp_path / "state", port, LOG)
            while len(liar.cosigned) == before:
                assert time.monotonic() < deadline and witness.is_alive()
                time.sleep(0.001)
            time.sleep(choose.random() * 0.03)
            witness.kill()
            witness.join()
    finally:
        liar.stop.set()
        for thread in liar.threads:
            thread.join()
    size = liar.check()
    assert size > 15
    with closing(Cosigner(KEY, [LOG.key], tmp_path / "state")) as cosigner:
        latest = cosigner.latest(LOG.signer.name)
    assert latest is not None and latest.size >= size
    remembered = next(log for log in liar.told[latest.size] if log.checkpoint() == latest)
    liar.cosigned.append((remembered, int(time.time())))
    assert liar.check() == latest.size


def test_of_requests_at_once_one_history_wins(tmp_path: Path) -> None:
    for turn in range(10):
        with serving(tmp_path / str(turn), LOG) as witness:
            own_cosignature(ask(witness, 0, 5), LOG.checkpoint(5).text)
            calls = [(log, size) for log in HISTORIES for size in (30, 35, 40)]
            answers = race(*(lambda log=log, size=size: ask(witness, 5, size, log) for log, size in calls))
            statuses = [answer.status for answer in answers]
            assert sorted(statuses) == [200] + [409] * 8
            log, size = calls[statuses.index(200)]
            assert {answer.body for answer in answers if answer.status == 409} == {b"%d\n" % size}
            own_cosignature(answers[statuses.index(200)], log.checkpoint(size).text)


def test_what_cannot_be_remembered_is_not_cosigned(tmp_path: Path) -> None:
    with serving(tmp_path, LOG) as witness:
        own_cosignature(ask(witness, 0, 5), LOG.checkpoint(5).text)
        (name,) = sha_of(tmp_path)
        memory = (tmp_path / name).rename(tmp_path / "memory")
        (tmp_path / name).mkdir()
        assert ask(witness, 5, 6).status == 500
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "lock", "memory", "witness"])
        (tmp_path / name).rmdir()
        memory.rename(tmp_path / name)
        own_cosignature(ask(witness, 5, 6, HISTORIES[0]), LOG.checkpoint(6).text)


def test_unfinished_files_of_a_killed_process(tmp_path: Path) -> None:
    unfinished = tmp_path / ".witness.0123456789abcdef.new"
    for size in (5, 6):
        unfinished.write_bytes(b"half of wha")
        with serving(tmp_path, LOG) as witness:
            assert not unfinished.exists()
            own_cosignature(ask(witness, 0 if size == 5 else 5, size), LOG.checkpoint(size).text)


def test_a_damaged_memory_is_not_used(tmp_path: Path) -> None:
    with serving(tmp_path, LOG) as witness:
        own_cosignature(ask(witness, 0, 5), LOG.checkpoint(5).text)
    (name,) = sha_of(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in [b"", whole[:-1], whole.replace(b"\n5\n", b"\n4\n"), LOG.note(5, 0), whole[:40] + whole[41:]]:
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(NoteRefused, match="is damaged"):
            Cosigner(KEY, [LOG.key], tmp_path)
    (tmp_path / name).write_bytes(whole)
    with closing(Cosigner(KEY, [LOG.key], tmp_path)) as cosigner:
        assert cosigner.latest(LOG.signer.name) == LOG.checkpoint(5)


def test_whose_memory_it_is(tmp_path: Path) -> None:
    other = FileSigner("witness.example/w2", b"another key".ljust(32))
    mark = tmp_path / "w.key.served"
    folder = tmp_path / "state"
    first = Cosigner(KEY, [LOG.key], folder, mark=mark)
    with closing(first), pytest.raises(UsageError, match="another witness serves"):
        Cosigner(KEY, [LOG.key], folder)
    with pytest.raises(InvalidSetting, match="memory of another witness"):
        Cosigner(other, [LOG.key], folder)
    mark.unlink()
    Cosigner(KEY, [LOG.key], folder, mark=mark).close()
    shutil.rmtree(folder)
    with pytest.raises(InvalidSetting, match="has served before"):
        Cosigner(KEY, [LOG.key], folder, mark=mark)
    Cosigner(other, [LOG.key], folder, mark=mark).close()  # a new key in the place of the old one
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(InvalidSetting, match="not empty"):
        Cosigner(KEY, [LOG.key], tmp_path / "other")
    for key in (WITNESS, KEY.verifier, Verifier("a", 1, KEY.verifier.public_key)):
        with pytest.raises(InvalidSetting):
            Cosigner(KEY, [key], tmp_path / "third")


# ------------------------------------------------------------------------------------------------------- command line


@contextmanager
def command(folder: Path, *options: str) -> Iterator[tuple[Popen[str], Witness]]:
    """`auditledger witness serve`, once it listens."""
    arguments = ["--key", str(folder / "w.key"), "--log", LOG.key.vkey, "--state", str(folder / "state")]
    with process("witness", "serve", *arguments, "--listen", "127.0.0.1:0", *options) as popen:
        assert popen.stdout is not None
        said = popen.stdout.readline()
        yield popen, Witness.parse(json.loads(said)["witness"] if options else said.removesuffix("\n"))


def test_the_command(tmp_path: Path) -> None:
    key = tmp_path / "w.key"
    made = run("witness", "keygen", str(key), "--name", "witness.example/w1")
    assert made.code == 0 and key.stat().st_mode & 0o777 == 0o600
    assert run("witness", "keygen", str(key), "--name", "witness.example/w1").code == 2
    with command(tmp_path) as (popen, witness):
        assert witness.verifier.vkey == made.out.strip()
        outcomes = gather(LOG.note(9, 0), [witness], lambda old: LOG.consistency(old, 9))
        assert [outcome.kind for outcome in outcomes] == ["cosigned"]
        again = ["witness", "serve", "--key", str(key), "--log", LOG.key.vkey, "--state", str(tmp_path / "state")]
        second = run(*again, "--listen", "127.0.0.1:0")
        assert second.code == 2 and "another witness serves" in second.error
        host, port = witness.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):  # an idle client does not hold it up
            popen.send_signal(signal.SIGTERM)
            ran = ended(popen, 10)
    assert ran.code == 0 and "Cosigned log.example/audit/main at size 9" in ran.err and "Stopped" in ran.err
    with command(tmp_path, "--json", "--log-format", "json") as (popen, witness):
        (outcome,) = gather(HISTORIES[1].note(30, 0), [witness], lambda old: HISTORIES[1].consistency(old, 30))
        assert outcome.kind == "cosigned"  # the histories part at 11
        (outcome,) = gather(LOG.note(40, 0), [witness], lambda old: LOG.consistency(old, 40))
        assert outcome.kind == "forked"
        popen.kill()
        logged = [json.loads(text) for text in ended(popen).err.splitlines()]
    assert any("Cosigned" in each["message"] for each in logged)
    shutil.rmtree(tmp_path / "state")
    lost = run(*again)
    assert lost.code == 2 and "has served before" in lost.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--key {none} --log {log} --state {state}", "no key"),
        ("--key {log_key} --log {log} --state {state}", "a log's key"),
        ("--key {broken} --log {log} --state {state}", "not a witness's private key"),
        ("--key {key} --log nonsense --state {state}", "not a public key"),
        ("--key {key} --log {witness} --state {state}", "not a log's key"),
        ("--key {key} --state {state}", "--log"),
        ("--key {key} --log {log} --state {state} --listen :80", "HOST:PORT"),
        ("--key {key} --log {log} --state {state} --listen 127.0.0.1:70000", "HOST:PORT"),
        ("--key {key} --log {log} --state {state} --listen 192.0.2.1:80", "cannot listen"),
        ("--key {key} --log {log} --state {key}", "file"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: str, said: str) -> None:
    private, vkey = new_cosigner("witness.example", bytes(32))
    files = {"key": private, "log_key": new_key("log.example", bytes(32))[0], "broken": private.replace("+", "-", 1)}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        (tmp_path / name).chmod(0o600)
    names = {name: str(tmp_path / name) for name in (*files, "none", "state")}
    ran = run("witness", "serve", *(each.format(**names, log=LOG.key.vkey, witness=vkey) for each in arguments.split()))
    assert ran.code == 2 and said in ran.err and private[-20:] not in ran.err, ran


def test_a_cosigners_key_is_told_from_a_logs() -> None:
    private, vkey = new_cosigner("witness.example/w1", b"s" * 32)
    signer = parse_cosigner(private + "\n")
    assert key_of(signer).vkey == vkey and parse_cosigner(private).vkey == signer.vkey
    with pytest.raises(InvalidSetting):
        FileSigner.parse(private)
    for text in ("", private[:-1], private + "\n\n", private.replace("w1", "w2"), f" {private}"):
        with pytest.raises(InvalidSetting), suppress(NoteRefused):
            parse_cosigner(text)
    for name in ("", "a b", "a+b"):
        with pytest.raises(InvalidSetting):
            new_cosigner(name, bytes(32))
