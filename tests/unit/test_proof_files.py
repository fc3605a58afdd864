"""Proof files: their contents, and that every change is found."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoints.proof import (
    CONSISTENCY,
    PROOF,
    Consistency,
    Proof,
    Proven,
    check_consistency_proof,
    check_proof,
)
from ledger.errors import EvidenceRefused, InvalidSetting, NoteRefused, ProofRefused
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.note import sign
from tests.support.logs import Log

SIZE = 300
DASH = "— ".encode()
Check = Callable[[bytes], Proven | tuple[Checkpoint, Checkpoint]]


@cache
def log() -> Log:
    return Log(SIZE)


def check_entry(data: bytes, quorum: int = 2) -> Proven:
    return check_proof(data, log().signer.name, [log().key], log().witnesses, quorum)


def check_both(data: bytes, quorum: int = 2) -> tuple[Checkpoint, Checkpoint]:
    return check_consistency_proof(data, log().signer.name, [log().key], log().witnesses, quorum)


@pytest.mark.parametrize("size", (1, 2, 3, 255, 256, 257, SIZE))
@pytest.mark.parametrize("body", (False, True))
def test_a_proof_says_what_is_in_the_ledger(size: int, body: bool) -> None:
    for index in sorted({0, size // 2, size - 1}):
        data = log().proof(index, size, body).encode()
        proven = check_entry(data)
        assert (proven.raw, proven.checkpoint) == (log().envelopes[index], log().checkpoint(size))
        assert proven.body == (log().body(index) if body else None)
        assert (proven.envelope.position, proven.envelope.resource_id) == (index + 1, f"inv_{index}")
        assert list(proven.witnesses) == log().witnesses
        assert Proof.parse(data).encode() == data


def test_the_file_is_that_of_tlog_proof() -> None:
    proof = log().proof(2, 5, body=True)
    lines = proof.encode().decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert b64decode(lines[1].removeprefix("extra ")) == log().envelopes[2] + b"\n" + log().body(2)
    assert lines[2] == "index 2"
    assert [b64decode(line) for line in lines[3:6]] == log().path(2, 5)
    assert lines[6] == ""
    assert "\n".join(lines[7:]).encode() == log().note(5)


@pytest.mark.parametrize(
    ("old", "new"), ((0, 0), (0, 7), (1, 1), (4, 7), (6, 7), (255, 257), (256, SIZE), (SIZE, SIZE))
)
def test_a_proof_of_consistency_names_both_checkpoints(old: int, new: int) -> None:
    data = log().consistency_proof(old, new).encode()
    assert check_both(data) == (log().checkpoint(old), log().checkpoint(new))
    assert Consistency.parse(data).encode() == data


def files() -> dict[str, tuple[bytes, Check]]:
    return {
        "entry": (log().proof(41).encode(), check_entry),
        "entry of one leaf": (log().proof(0, 1).encode(), check_entry),
        "entry with body": (log().proof(41, body=True).encode(), check_entry),
        "consistency": (log().consistency_proof(200, SIZE).encode(), check_both),
        "consistency of equal sizes": (log().consistency_proof(7, 7).encode(), check_both),
    }


@pytest.mark.parametrize("name", ("entry with body", "consistency"))
def test_every_change_of_a_single_bit_is_refused(name: str) -> None:
    data, check = files()[name]
    check(data)
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                check(changed)
            except EvidenceRefused:
                continue
            pytest.fail(f"bit {bit} of byte {at} can be changed: {changed[max(0, at - 40) : at + 40]!r}")


@pytest.mark.parametrize("name", files())
def test_what_is_cut_off_added_or_doubled_is_refused(name: str) -> None:
    data, check = files()[name]
    lines = data.splitlines(keepends=True)
    changed = [data[:end] for end in range(len(data))]
    changed += [data + more for more in (b"\n", b" ", b"\0", b"\n\n", b"x\n", lines[-1] + b"\n", data)]
    changed += [b"".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines))]
    changed += [b"".join([*lines[:at], b"\n", *lines[at:]]) for at in range(len(lines) + 1)]
    for at, (line, following) in enumerate(pairwise(lines)):
        if not (line.startswith(DASH) and following.startswith(DASH)):  # the order of signatures says nothing
            changed.append(b"".join([*lines[:at], following, line, *lines[at + 2 :]]))
    changed += [data.replace(b"\n", b"\r\n"), data.replace(b"=\n", b"\n", 1), data.upper(), b"\xef\xbb\xbf" + data]
    for other in changed:
        with pytest.raises(EvidenceRefused):
            check(other)


def test_a_proof_of_another_entry_body_ledger_or_log_is_refused() -> None:
    proof = log().proof(41, body=True)
    change = partial(msgspec.structs.replace, proof)
    other = Log(SIZE, "other")
    checks = {
        "is of position 43, its entry says 42": change(index=42),
        "its entry says 43": change(envelope=log().envelopes[42]),
        "inclusion proof of leaf 42": change(index=42, envelope=log().envelopes[42], body=None),
        "body hash mismatch": change(body=log().body(42)),
        "body hash mismatch at entry 42": change(body=b""),
        "not an envelope of the format": change(envelope=proof.envelope + b" "),
        "ledger 'other'": change(envelope=other.envelopes[41], path=other.proof(41).path),
        "does not lead to the root": change(note=log().note(SIZE - 1)),
    }
    for said, changed in checks.items():
        with pytest.raises(ProofRefused, match=said):
            check_entry(changed.encode())
    with pytest.raises(NoteRefused, match=r"not of 'log\.example/audit/main'"):
        check_entry(other.proof(41).encode())
    with pytest.raises(NoteRefused, match="not signed by a key given"):
        check_proof(other.proof(41).encode(), None, [log().key])
    assert check_proof(proof.encode(), None, [other.key, log().key]).witnesses == ()


def test_two_histories_are_not_consistent() -> None:
    rewritten = Log(100)
    rewritten.append(199, actor="user:43")
    ours, theirs = log().consistency_proof(150, SIZE), rewritten.consistency_proof(150, 299)
    for mixed in (
        Consistency(ours.path, theirs.old, ours.new),
        Consistency(theirs.path, ours.old, theirs.new),
        Consistency((), ours.new, log().note(150)),
    ):
        with pytest.raises(ProofRefused):
            check_both(mixed.encode())
    other = Log(SIZE, "other")
    with pytest.raises(ProofRefused, match="of two logs"):
        check_consistency_proof(Consistency((), log().note(5), other.note(5)).encode(), None, [log().key, other.key])


def test_a_quorum_counts_witnesses_that_were_given_and_each_once() -> None:
    one = Proof(log().envelopes[0], None, 0, tuple(log().path(0)), log().note(witnesses=1)).encode()
    assert len(check_entry(one, quorum=1).witnesses) == 1
    with pytest.raises(NoteRefused, match="1 of the witnesses cosigned the checkpoint, not 2"):
        check_entry(one)
    with pytest.raises(InvalidSetting, match="3 witnesses are asked for, and 2 are given"):
        check_entry(one, quorum=3)


def test_both_checkpoints_need_the_quorum() -> None:
    proof = log().consistency_proof(200, SIZE)
    bare = Consistency(proof.path, log().note(200, witnesses=0), proof.new).encode()
    assert check_both(bare, quorum=0)
    with pytest.raises(NoteRefused, match="0 of the witnesses"):
        check_both(bare, quorum=1)


def test_a_key_that_followed_another_proves_as_well() -> None:
    """Rotation: the old checkpoint has the old key's signature, the new one the new key's."""
    new = FileSigner(log().signer.name, b"the next key".ljust(32))
    proof = log().consistency_proof(200, SIZE)
    rotated = Consistency(proof.path, proof.old, sign(log().checkpoint().text, [new])).encode()
    assert check_consistency_proof(rotated, None, [log().key, new.verifier])
    with pytest.raises(NoteRefused, match="not signed by a key given"):
        check_consistency_proof(rotated, None, [log().key])


def test_a_file_larger_than_any_proof_is_not_read() -> None:
    for check in (check_entry, check_both):
        with pytest.raises(ProofRefused, match="at most 4000000 are read"):
            check(bytes(4_000_001))


EXTRAS = st.binary(max_size=60) | st.sampled_from([b"{}", b'{"v":1}', b"[" * 5000, b'{"action":' * 2000])
FRAMED = st.tuples(
    st.sampled_from([PROOF, CONSISTENCY, ""]),
    st.lists(
        st.one_of(
            EXTRAS.map(lambda extra: "extra " + b64encode(extra).decode()),
            st.integers(-5, 2**70).map(lambda index: f"index {index}"),
            st.binary(min_size=31, max_size=33).map(lambda entry: b64encode(entry).decode()),
            st.text(max_size=20),
            st.just("index " + "9" * 5000),
        ),
        max_size=6,
    ),
    st.sampled_from([b"", Log(3).note()]) | st.binary(max_size=80),
).map(lambda parts: "\n".join([parts[0], *parts[1]]).encode(errors="replace") + b"\n\n" + parts[2])


@given(st.binary(max_size=300) | FRAMED)
def test_nothing_but_refusals_comes_out(data: bytes) -> None:
    for check in (check_entry, check_both):
        with pytest.raises(EvidenceRefused):
            check(data)


@given(EXTRAS)
def test_whatever_is_in_the_place_of_an_envelope_is_refused(extra: bytes) -> None:
    proof = Proof(extra.replace(b"\n", b""), None, 0, (), log().note(1)).encode()
    with pytest.raises(ProofRefused, match="not an envelope of the format"):
        check_entry(proof)
