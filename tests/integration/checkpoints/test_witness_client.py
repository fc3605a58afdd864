"""The client of witnesses: its requests, and its treatment of true and false answers."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes as hashes_of
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.errors import CosignaturesMissing, InvalidSetting, ProofRefused, WitnessRefused
from ledger.tlog.checkpoint import open_checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.note import Signature, cosign, parse_note
from ledger.tlog.witness_client import cosigned, demand, gather
from ledger.tlog.witness_outcome import Witness, WitnessOutcome
from ledger.tlog.witness_protocol import SIZE_TYPE, Answer, Request
from tests.support.logs import Log
from tests.support.witnesses import KEY, TEXT, answering, forked, key_of, serving

LOG = Log(20)
VKEY = key_of(KEY).vkey
OTHER = FileSigner("witness.example/w2", b"another key".ljust(32))


def ask(witness: Witness, log: Log = LOG, timeout: float = 5, **sizes: int) -> WitnessOutcome:
    """What one witness makes of the log's newest checkpoint."""
    size = log.tree.size
    (outcome,) = gather(log.note(witnesses=0), [witness], lambda old: log.consistency(old, size), timeout=timeout)
    return outcome


hashes = st.binary(min_size=32, max_size=32)
requests = st.builds(
    Request, st.integers(0, 2**63 - 1), st.lists(hashes, max_size=63).map(tuple), st.binary(max_size=200)
)


@given(requests)
def test_a_request_is_read_as_it_was_written(request_: Request) -> None:
    assert Request.parse(request_.encode()) == request_


@given(requests.map(Request.encode), st.data())
@example(b"", None)
@example(b"old 0\n", None)
@example(b"old 00\n\n", None)
@example(b"old \xd9\xa1\n\n", None)
@example(b"old 1\r\n\r\n", None)
@example(b"old 9223372036854775808\n\n", None)
@example(b"old 1\n" + b"A" * 42 + b"B=\n\n", None)  # the same hash as another spelling
@example(b"old 1\n" + b"A" * 43 + b"=\n" * 64 + b"\n", None)
def test_nothing_else_is_read(body: bytes, data: st.DataObject | None) -> None:
    """Any bytes are refused as evidence that does not hold, or are exactly what `encode` writes."""
    if data is not None:
        start = data.draw(st.integers(0, len(body)))
        body = body[:start] + data.draw(st.binary(max_size=3)) + body[start + data.draw(st.integers(0, 3)) :]
    try:
        assert Request.parse(body).encode() == body
    except ProofRefused:
        pass
    else:
        assert data is not None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"https://witness.example+{VKEY}", "https://witness.example"),
        (f"http://[::1]:7180/a+b/+{VKEY}", "http://[::1]:7180/a+b"),
    ],
)
def test_a_witness_is_a_url_and_a_key(text: str, url: str) -> None:
    witness = Witness.parse(text)
    assert (witness.url, witness.verifier) == (url, key_of(KEY))
    assert Witness.parse(str(witness)) == witness


@pytest.mark.parametrize(
    "text",
    [
        "",
        VKEY,
        f"+{VKEY}",
        f"ftp://witness.example+{VKEY}",
        f"https://+{VKEY}",
        f"https://user:password@witness.example+{VKEY}",
        f"https://witness.example?a=b+{VKEY}",
        f"https://witness.example:http+{VKEY}",
        f"https://witness.example:99999+{VKEY}",
        f"https://witness.example/\r\nX: y+{VKEY}",
        f"https://witness.example+{VKEY[:-1]}",
        f"https://witness.example+{VKEY[:-2]}{'A' if VKEY[-2] != 'A' else 'B'}{VKEY[-1]}",
        f"https://witness.example+{KEY.vkey}",
    ],
)
def test_what_is_no_witness(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Witness.parse(text)
    assert "password" not in str(refused.value)


def test_cosignatures_are_gathered(tmp_path: Path) -> None:
    log = Log(5)
    signers = [KEY, OTHER]
    with ExitStack() as stack:
        witnesses = [
            stack.enter_context(serving(tmp_path / str(number), log, signer=signer))
            for number, signer in enumerate(signers)
        ]
        asked: list[int] = []

        def proof(old: int) -> list[bytes]:
            asked.append(old)
            return log.consistency(old, log.tree.size)

        for more in (0, 1, 300, 0):  # the last time, the same checkpoint once more
            log.append(more)
            note = log.note(witnesses=0)
            outcomes = gather(note, witnesses, proof)
            assert [outcome.kind for outcome in outcomes] == ["cosigned"] * 2, outcomes
            whole = cosigned(cosigned(note, outcomes), outcomes)
            keys = [witness.verifier for witness in witnesses]
            assert open_checkpoint(whole, None, [log.key], keys, 2) == log.checkpoint()
            assert len(parse_note(whole).signatures) == 3
            demand(whole, witnesses, 2, outcomes)
            assert abs(max(each.time for each in parse_note(whole).signatures[1:]) - time.time()) < 60
        assert asked == [5, 6]  # one proof for both witnesses, and none where there is nothing to prove
        log.append(1)
        sizes = {key.vkey: 306 for key in keys}
        assert [each.kind for each in gather(log.note(witnesses=0), witnesses, proof, sizes=sizes)] == ["cosigned"] * 2
        assert asked == [5, 6, 306]


def test_an_older_copy_of_the_log_is_told(tmp_path: Path) -> None:
    """A database restored from a backup: its log is smaller than what the witness saw."""
    with serving(tmp_path / "state", LOG) as witness:
        assert ask(witness).kind == "cosigned"
        outcome = ask(witness, Log(7))
        assert (outcome.kind, outcome.size) == ("ahead", 20)
        with pytest.raises(WitnessRefused, match=r"witness\.example/w1 has cosigned a checkpoint of size 20"):
            demand(LOG.note(7, witnesses=0), [witness], 1, [outcome])


@pytest.mark.parametrize("size", [20, 25])
def test_a_log_that_signs_two_histories_is_found(tmp_path: Path, size: int) -> None:
    """Each half of the world is shown one; the witnesses of both are asked by both."""
    other = forked(LOG, 12, size)
    with serving(tmp_path / "1", LOG) as first, serving(tmp_path / "2", LOG, signer=OTHER) as second:
        assert (ask(first).kind, ask(second, other).kind) == ("cosigned", "cosigned")
        outcomes = [ask(second), ask(first, other)]
        assert [outcome.kind for outcome in outcomes] == ["forked" if size == 20 else "ahead", "forked"]
        for log, outcome in zip((LOG, other), outcomes, strict=True):
            note = cosigned(log.note(witnesses=0), [ask(first if log is LOG else second, log)])
            demand(note, [first, second], 1, [outcome])
            with pytest.raises(WitnessRefused, match="1 of the 2 witnesses"):
                demand(note, [first, second], 2, [outcome])


def test_a_quorum_that_is_missed(tmp_path: Path) -> None:
    log = Log(3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = Witness(f"http://127.0.0.1:{port}", key_of(OTHER))
    with serving(tmp_path / "state", log) as witness:
        outcomes = gather(log.note(witnesses=0), [away, witness], lambda old: log.consistency(old, 3))
    assert [outcome.kind for outcome in outcomes] == ["away", "cosigned"]
    note = cosigned(log.note(witnesses=0), outcomes)
    demand(note, [away, witness], 1, outcomes)
    with pytest.raises(CosignaturesMissing, match=r"1 of the 2 .*witness\.example/w2 does not answer"):
        demand(note, [away, witness], 2, outcomes)
    with pytest.raises(InvalidSetting, match="3 witnesses are asked for"):
        demand(note, [away, witness], 3, outcomes)


def lines(*signatures: Signature) -> Answer:
    return Answer(200, b"".join(signature.line for signature in signatures), TEXT)


def test_false_cosignatures_are_not_kept() -> None:
    text = LOG.checkpoint().text
    now = int(time.time())
    true = cosign(text, KEY, now)
    impostor = FileSigner(KEY.name, b"not the witness's".ljust(32))
    forged = Signature(KEY.name, key_of(KEY).key_id, cosign(text, impostor, now).data)
    redated = Signature(KEY.name, key_of(KEY).key_id, (now - 1).to_bytes(8, "big") + true.data[8:])
    for wrong, said in [
        (lines(cosign(text, OTHER, now)), "no signature of the key"),
        (lines(cosign(text, impostor, now)), "no signature of the key"),
        (lines(forged), "does not verify"),
        (lines(redated), "does not verify"),
        (lines(cosign(LOG.checkpoint(19).text, KEY, now)), "does not verify"),
        (lines(cosign(forked(LOG, 1, 20).checkpoint().text, KEY, now)), "does not verify"),
        (lines(true, forged), "does not verify"),
        (lines(cosign(text, KEY, now + 3600)), "of the time"),
        (lines(cosign(text, KEY, now - 3600)), "of the time"),
        (lines(cosign(text, KEY, 0)), "of the time"),
        (lines(cosign(text, KEY, 2**63 - 1)), "of the time"),
        (Answer(200, b"", TEXT), "does not hold"),
        (Answer(200, b"\n", TEXT), "does not hold"),
        (Answer(200, b"\xff" * 100, TEXT), "does not hold"),
        (Answer(200, true.line[:-1], TEXT), "does not hold"),
    ]:
        with answering(lambda _, wrong=wrong: wrong) as witness:  # type: ignore[misc]
            outcome = ask(witness)
        assert (outcome.kind, outcome.cosignature) == ("false", None) and said in outcome.detail, outcome
        with pytest.raises(CosignaturesMissing, match="0 of the 1"):
            demand(cosigned(LOG.note(witnesses=0), [outcome]), [witness], 1, [outcome])
    with answering(lambda _: lines(cosign(text, OTHER, now), true)) as witness:
        assert ask(witness).cosignature == true


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(409, b"21\n", SIZE_TYPE), "ahead"),
        (Answer(409, b"7\n", SIZE_TYPE), "behind"),
        (Answer(409, b"0\n", SIZE_TYPE), "refused"),
        (Answer(409, b"07\n", SIZE_TYPE), "refused"),
        (Answer(409, b"7", SIZE_TYPE), "refused"),
        (Answer(409, b"7\n", TEXT), "refused"),
        (Answer(422, b"", TEXT), "refused"),
        (Answer(403, b"", TEXT), "refused"),
        (Answer(404, b"\x1b[31mno\n", TEXT), "refused"),
        (Answer(400, b"", TEXT), "refused"),
        (Answer(301, b"", TEXT), "refused"),
        (Answer(204, b"", TEXT), "refused"),
        (Answer(500, b"", TEXT), "away"),
        (Answer(503, b"", TEXT), "away"),
        (Answer(429, b"", TEXT), "away"),
        (Answer(200, b"x" * 100_000, TEXT), "away"),
    ],
)
def test_what_other_answers_mean(answer: Answer, kind: str) -> None:
    asked = []

    def said(body: bytes) -> Answer:
        asked.append(Request.parse(body))
        return answer if len(asked) == 1 or kind != "behind" else Answer(409, b"%d\n" % (7 + len(asked)), SIZE_TYPE)

    with answering(said) as witness:
        outcome = ask(witness)
    assert outcome.kind == kind and outcome.detail.startswith(KEY.name), outcome
    assert len(asked) == (4 if kind == "behind" else 1)  # a witness that always says another size is given up
    assert asked[0] == Request(0, (), LOG.note(witnesses=0))


@pytest.mark.parametrize("status", [409, 422])
def test_a_root_of_the_same_size_is_a_fork_in_both_versions_of_the_document(status: int) -> None:
    def said(body: bytes) -> Answer:
        old = Request.parse(body).old
        return Answer(status, b"20\n", SIZE_TYPE) if old else Answer(409, b"20\n", SIZE_TYPE)

    with answering(said) as witness:
        assert ask(witness).kind == "forked"


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc"],
    ids=["silent", "half", "nonsense", "short"],
)
def test_a_witness_that_does_not_come_to_its_point_is_not_waited_for(raw: bytes) -> None:
    with answering(lambda _: raw) as witness:
        began = time.monotonic()
        outcome = ask(witness, timeout=0.5)
    assert outcome.kind == "away" and time.monotonic() - began < 3


def test_a_witness_that_sends_a_byte_now_and_then_is_not_waited_for() -> None:
    ended: list[float] = []

    def drip() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            for _ in range(100):
                connection.send(b"H")
                time.sleep(0.1)
        ended.append(time.monotonic() - began)

    with socket.create_server(("127.0.0.1", 0)) as server:
        witness = Witness(f"http://127.0.0.1:{server.getsockname()[1]}", key_of(KEY))
        server.settimeout(5)
        began = time.monotonic()
        thread = Thread(target=drip)
        thread.start()
        outcome = ask(witness, timeout=0.5)
        assert outcome.kind == "away" and "within 0.5 s" in outcome.detail
        assert time.monotonic() - began < 3
        thread.join()
    assert ended[0] < 5  # the connection was closed, not only forgotten


def certificate(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself; and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes_of.SHA256())
    )
    (folder / "certificate").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "certificate", folder / "key"


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a proxy: the certificate must be one that this machine trusts."""
    cert, private = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, private)
    with answering(lambda _: lines(cosign(LOG.checkpoint().text, KEY, int(time.time()))), tls=context) as witness:
        outcome = ask(witness)
        assert outcome.kind == "away" and "certificate" in outcome.detail
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert ask(witness).kind == "cosigned"
