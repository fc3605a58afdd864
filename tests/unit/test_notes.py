"""Signed notes, keys, cosignatures and checkpoints."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidSetting, NoteRefused, UsageError
from ledger.tlog.checkpoint import Checkpoint, cosigned_by, open_checkpoint
from ledger.tlog.file_signer import FileSigner, new_key
from ledger.tlog.merkle import EMPTY_ROOT, leaf_hash
from ledger.tlog.note import Signature, Verifier, cosign, parse_note, parse_signatures, sign, verified_by

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/c2sp.json").read_text())
OURS = json.loads((Path(__file__).parents[1] / "vectors/tree.json").read_text())
# The private half of the first vector, from the documentation of Go's sumdb/note.
NEUMANN = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group of Ed25519 (RFC 8032, section 5.1)."""

log = FileSigner("log.example/audit/main", b"log key".ljust(32))
next_log = FileSigner(log.name, b"the next log key".ljust(32))
witnesses = [FileSigner(f"witness{number}.example", b"witness %d".ljust(33, b".") % number) for number in (1, 2)]
checkpoint = Checkpoint(log.name, 1, leaf_hash(b"one"))
note = sign(checkpoint.text, [log])
cosigner = witnesses[0].verifier.cosigner
cosigned = sign(checkpoint.text, [log], [cosign(checkpoint.text, witnesses[0], 1_679_315_147)])


def line(name: str, data: bytes) -> bytes:
    return f"— {name} {b64encode(data).decode()}\n".encode()


# Notes


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda vector: vector["vkey"].partition("+")[0])
def test_notes_of_others_verify(vector: dict[str, Any]) -> None:
    key = Verifier.parse(vector["vkey"])
    data = f"{vector['text']}\n{vector['signature_line']}\n".encode()
    parsed = parse_note(data)
    assert (parsed.text, parsed.encode()) == (vector["text"].encode(), data)
    assert verified_by(parsed, [key]) == [key]
    assert key.vkey == vector["vkey"]
    with pytest.raises(NoteRefused, match="does not verify"):
        verified_by(parse_note(b"x" + data), [key])


def test_a_key_of_gos_signs_as_go_does() -> None:
    vector = VECTORS["notes"][0]
    signer = FileSigner.parse(NEUMANN + "\n")
    assert (signer.vkey, signer.private_text) == (vector["vkey"], NEUMANN)
    assert sign(vector["text"].encode(), [signer]).decode() == f"{vector['text']}\n{vector['signature_line']}\n"
    assert "AYEK" not in repr(signer)


MALFORMED = {
    "empty": b"",
    "no signature": b"text\n",
    "no signature, blank line": b"text\n\n",
    "no text line": note.removeprefix(checkpoint.text),
    "no last line break": note[:-1],
    "blank line at the end": note + b"\n",
    "carriage returns": note.replace(b"\n", b"\r\n"),
    "a tab": b"a\tb\n" + note,
    "NUL": b"\0" + note,
    "not UTF-8": b"\xff" + note,
    "a surrogate": b"\xed\xa0\x80" + note,
    "a hyphen for the dash": note.replace("—".encode(), b"-"),
    "two spaces": note.replace("— ".encode(), "—  ".encode()),
    "no name": note.replace(log.name.encode() + b" ", b" "),
    "a plus in the name": note.replace(b"\xe2\x80\x94 log", b"\xe2\x80\x94 l+g"),
    "a Unicode space in the name": note.replace(b"\xe2\x80\x94 log", "— l\u2003g".encode()),
    "a second field": note[:-1] + b" x\n",
    "no base64": checkpoint.text + "\n— name ????\n".encode(),
    "base64 without its padding": note.replace(b"=\n\n", b"\n\n").replace(b"=\n", b"\n"),
    "base64 with bits that are not read": checkpoint.text + "\n— name AAAAAAAAAAB=\n".encode(),
    "base64 for URLs": checkpoint.text + "\n— name AAAAAAAA-_8=\n".encode(),
    "a key id alone": checkpoint.text + b"\n" + line("name", bytes(4)),
    "101 signatures": checkpoint.text + b"\n" + line("name", bytes(68)) * 101,
    "too long": b"x" * 1_000_000 + b"\n\n" + line("name", bytes(68)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_notes_are_refused(name: str) -> None:
    with pytest.raises(NoteRefused):
        parse_note(MALFORMED[name])


def test_what_the_document_allows_is_read() -> None:
    text = "è subito sera\n\n\x7f\x85\n\n".encode()
    parsed = parse_note(text + b"\n" + line("a/b", bytes(5)) + line("ключ", bytes(5000)) * 16)
    assert parsed.text == text
    assert parsed.signatures[0] == Signature("a/b", 0, b"\0")
    assert [signature.name for signature in parsed.signatures] == ["a/b"] + ["ключ"] * 16


def test_signatures_of_unknown_keys_are_ignored_even_if_they_share_a_name_or_an_id() -> None:
    key = log.verifier
    for name, key_id in ((key.name, key.key_id ^ 1), ("other.example", key.key_id), ("other.example", 1)):
        parsed = parse_note(note + Signature(name, key_id, bytes(64)).line)
        assert verified_by(parsed, [key]) == [key]
    assert verified_by(parse_note(note), [next_log.verifier, cosigner]) == []


@pytest.mark.parametrize("data", (bytes(64), bytes(1), bytes(63), bytes(65), bytes(72)))
def test_a_false_signature_of_a_known_key_refuses_the_note(data: bytes) -> None:
    for key in (log.verifier, cosigner):
        forged = Signature(key.name, key.key_id, data).line
        for whole in (cosigned + forged, checkpoint.text + b"\n" + forged):
            with pytest.raises(NoteRefused, match=f"the signature of '{key.name}' .* does not verify"):
                verified_by(parse_note(whole), [log.verifier, cosigner])


def test_a_signature_has_one_form_only() -> None:
    """RFC 8032, section 5.1.7: S must be below the group's order, else every signature could be written in two ways."""
    signed = parse_note(note).signatures[0]
    second = int.from_bytes(signed.data[32:], "little") + ORDER
    other = Signature(signed.name, signed.key_id, signed.data[:32] + second.to_bytes(32, "little"))
    assert log.verifier.verifies(checkpoint.text, signed)
    assert not log.verifier.verifies(checkpoint.text, other)


def test_new_signatures_replace_those_of_the_same_key_and_keep_the_others() -> None:
    kept = parse_note(cosigned).signatures
    again = sign(checkpoint.text, [log, next_log], kept)
    assert [(entry.name, entry.key_id) for entry in parse_note(again).signatures] == [
        (key.name, key.key_id) for key in (cosigner, log.verifier, next_log.verifier)
    ]
    for text in (b"no line break", b"", b"control\x01\n", b"\xff\n"):
        with pytest.raises(UsageError):
            sign(text, [log])
    with pytest.raises(UsageError, match="cannot be signed"):
        sign(b"no signature\n", [])


class Kms:
    """A signer that is not ours, as a user would write it."""

    name = log.name
    vkey = log.vkey

    def __init__(self, key: FileSigner) -> None:
        self.key = key

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)


def test_a_signer_that_signs_with_another_key_than_its_own_is_found_out() -> None:
    assert sign(checkpoint.text, [Kms(log)]) == note
    assert cosign(checkpoint.text, Kms(log), 7) == cosign(checkpoint.text, log, 7)
    with pytest.raises(NoteRefused):
        sign(checkpoint.text, [Kms(next_log)])
    with pytest.raises(NoteRefused):
        cosign(checkpoint.text, Kms(next_log), 7)
    witness = Kms(log)
    witness.vkey = log.verifier.cosigner.vkey
    with pytest.raises(UsageError, match="is for cosignatures"):
        sign(checkpoint.text, [witness])


# Keys

VKEY = VECTORS["notes"][1]["vkey"]
BAD_KEYS = (
    "",
    "name",
    "name+00000000",
    "name+00000000+",
    "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    VKEY + "\n",
    VKEY + "+",
    " " + VKEY,
    VKEY.replace("530d903a", "530D903A"),
    VKEY.replace("530d903a", "530d903b"),
    VKEY.replace("530d903a", "0x0d903a"),
    VKEY.replace("example.com/foo", "example.com/fo"),
    VKEY.replace("example.com/foo", "example.com foo"),
    VKEY.replace("AekyeR", "AekyeS"),
    VKEY.replace("+AekyeR", "+BekyeR"),
    VKEY[:-4],
    "name+89f50a3a+Aw==",
    "\ud800+00000000+AA==",
)


@pytest.mark.parametrize("vkey", BAD_KEYS)
def test_bad_public_keys_are_refused(vkey: str) -> None:
    with pytest.raises(InvalidSetting):
        Verifier.parse(vkey)


@pytest.mark.parametrize(
    "text",
    (
        *("", VKEY, NEUMANN + " ", NEUMANN + "\n\n", NEUMANN[:-1], NEUMANN.replace("c74f20a3", "c74f20a2")),
        *(NEUMANN.replace("AYEK", "AYEL"), NEUMANN.replace("AYEK", "BIEK"), NEUMANN.replace("Peter", "Petra")),
        NEUMANN.removeprefix("PRIVATE+"),
    ),
)
def test_bad_private_keys_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        FileSigner.parse(text)
    assert "FALVFGyN" not in str(refused.value)


def test_new_keys_and_their_names() -> None:
    private, vkey = new_key("example.com/audit/main", b"s" * 32)
    assert FileSigner.parse(private).vkey == vkey == Verifier.parse(vkey).vkey
    for name in ("", "a b", "a+b", "a\u00a0b", "a\nb", "a\0b", "\ud800"):
        with pytest.raises(InvalidSetting):
            new_key(name, b"s" * 32)
    with pytest.raises(InvalidSetting):
        new_key("name", b"short")


def test_two_keys_of_one_name_and_id_are_ambiguous() -> None:
    class Colliding(Verifier, frozen=True):
        @property
        def key_id(self) -> int:
            return log.verifier.key_id

    with pytest.raises(InvalidSetting, match="two different keys"):
        verified_by(parse_note(note), [log.verifier, Colliding(log.name, 1, bytes(32))])
    assert verified_by(parse_note(note), [log.verifier] * 3) == [log.verifier]


# Cosignatures


def test_a_cosignature_of_another_verifies() -> None:
    vector = VECTORS["cosignature_v1"]
    key = Verifier.parse(vector["vkey"])
    parsed = parse_note(f"{vector['checkpoint_text']}\n{vector['signature_line']}\n".encode())
    assert cosigned_by(parsed, [key]) == [key]
    assert parsed.signatures[0].time == vector["time"]
    assert key.vkey == vector["vkey"]


@pytest.mark.parametrize("vector", OURS["trees"], ids=lambda vector: str(vector["size"]))
def test_our_vectors_are_reproduced(vector: dict[str, Any]) -> None:
    signers = [FileSigner(key["name"], bytes.fromhex(key["seed"])) for key in OURS["keys"]]
    keys = [signers[0].verifier, *(signer.verifier.cosigner for signer in signers[1:])]
    assert [key.vkey for key in keys] == [key["vkey"] for key in OURS["keys"]]
    said = Checkpoint(signers[0].name, vector["size"], bytes.fromhex(vector["root"]))
    logs = parse_note(sign(said.text, signers[:1])).signatures
    lines = [*logs, *(cosign(said.text, signer, OURS["times"][signer.name]) for signer in signers[1:])]
    data = vector["note"].encode()
    assert sign(said.text, [], lines) == data
    assert open_checkpoint(data, said.origin, keys[:1], keys[1:], 2) == said
    assert [entry.time for entry in parse_note(data).signatures[1:]] == [*OURS["times"].values()]


def test_a_cosignature_is_of_its_text_and_time_alone() -> None:
    made = cosign(checkpoint.text, witnesses[0], 1_679_315_147)
    assert cosigner.verifies(checkpoint.text, made)
    assert not cosigner.verifies(checkpoint.text + b"extension\n", made)
    later = Signature(made.name, made.key_id, (1_679_315_148).to_bytes(8, "big") + made.data[8:])
    assert not cosigner.verifies(checkpoint.text, later)
    assert not witnesses[0].verifier.verifies(checkpoint.text, made), "it is no signature of the text"
    for time in (-1, 2**63):
        with pytest.raises(UsageError):
            cosign(checkpoint.text, witnesses[0], time)
    with pytest.raises(NoteRefused, match="no cosignature"):
        _ = Signature("name", 0, b"\x80" + bytes(71)).time


def test_what_a_witness_answers_is_read() -> None:
    made = [cosign(checkpoint.text, witness, 7) for witness in witnesses]
    assert parse_signatures(b"".join(entry.line for entry in made)) == tuple(made)
    for answer in (
        b"",
        b"\n",
        made[0].line[:-1],
        b"\n" + made[0].line,
        b"text\n\n" + made[0].line,
        made[0].line + b"\n",
    ):
        with pytest.raises(NoteRefused):
            parse_signatures(answer)


# Checkpoints


def test_a_checkpoint_is_three_lines() -> None:
    text = checkpoint.text.decode().split("\n")
    assert text == [log.name, "1", b64encode(leaf_hash(b"one")).decode(), ""]
    assert Checkpoint.parse(checkpoint.text) == checkpoint
    assert Checkpoint.parse(checkpoint.text + b"extension\nanother one\n") == checkpoint
    assert Checkpoint.parse(Checkpoint("o", 0, EMPTY_ROOT).text).size == 0
    assert Checkpoint.parse(b"with space+plus\n" + checkpoint.text.partition(b"\n")[2]).origin == "with space+plus"


ROOT = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    (
        *(
            "",
            "\n",
            "o\n1\n",
            f"o\n1\n{ROOT}",
            f"\n1\n{ROOT}\n",
            f"o\n\n{ROOT}\n",
            f"o\n1\n{ROOT}\n\n",
            f"o\n1\n{ROOT}\n\nx\n",
        ),
        *(
            f"o\n{size}\n{ROOT}\n"
            for size in ("01", "-1", "+1", "1 ", "1.0", "0x1", "1_0", "٣", "", "9223372036854775808")
        ),
        *(
            f"o\n1\n{root}\n"
            for root in (ROOT[:-1], ROOT + "=", ROOT[:-2] + "B=", ROOT[:-4], "AAAA" + ROOT, ROOT + " ")
        ),
        f"o\n0\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\r\n1\r\n{ROOT}\r\n",
    ),
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        Checkpoint.parse(text.encode())


@pytest.mark.parametrize(
    "wrong", (("", 1), ("a b", 1), ("a+b", 1), ("a\nb", 1), ("o", -1), ("o", 2**63), ("o", 0)), ids=str
)
def test_no_malformed_checkpoint_is_written(wrong: tuple[str, int]) -> None:
    with pytest.raises(UsageError):
        _ = Checkpoint(*wrong, bytes(32)).text


def test_a_checkpoint_must_be_signed_by_the_key_named_for_its_log() -> None:
    other = FileSigner("log.example/audit/other", b"log key".ljust(32))
    assert open_checkpoint(note, log.name, [log.verifier]) == checkpoint
    assert open_checkpoint(note, None, [other.verifier, next_log.verifier, log.verifier]) == checkpoint
    for data, keys in (
        (note, []),
        (note, [next_log.verifier]),
        (note, [other.verifier]),
        (sign(checkpoint.text, [other]), [other.verifier]),
        (sign(checkpoint.text, [], [cosign(checkpoint.text, log, 7)]), [log.verifier, log.verifier.cosigner]),
    ):
        with pytest.raises(NoteRefused, match="not signed by a key given for that log"):
            open_checkpoint(data, log.name, keys)
    with pytest.raises(NoteRefused, match="not of 'elsewhere'"):
        open_checkpoint(note, "elsewhere", [log.verifier])


def test_the_quorum_counts_different_keys() -> None:
    alias = FileSigner("alias.example", b"witness 1".ljust(32, b"."))
    names = [witnesses[0].verifier.cosigner, alias.verifier.cosigner]
    twice = sign(checkpoint.text, [log], [cosign(checkpoint.text, signer, 7) for signer in (witnesses[0], alias)])
    two = sign(checkpoint.text, [log], [cosign(checkpoint.text, signer, 7) for signer in witnesses])
    both = [witness.verifier.cosigner for witness in witnesses]
    assert cosigned_by(parse_note(two), both) == both
    assert open_checkpoint(two, None, [log.verifier], both, 2) == checkpoint
    assert cosigned_by(parse_note(twice), names) == names[:1]
    with pytest.raises(NoteRefused, match="1 of the witnesses cosigned the checkpoint, not 2"):
        open_checkpoint(twice, None, [log.verifier], [*names, both[1]], 2)
    with pytest.raises(InvalidSetting, match="2 witnesses are asked for, and 1 are given"):
        open_checkpoint(twice, None, [log.verifier], names, 2)
    with pytest.raises(InvalidSetting, match="not a witness's key"):
        open_checkpoint(two, None, [log.verifier], [witnesses[0].verifier], 1)


def test_every_change_of_a_single_bit_is_refused() -> None:
    assert open_checkpoint(cosigned, None, [log.verifier], [cosigner], 1) == checkpoint
    for at in range(len(cosigned)):
        for bit in range(8):
            changed = cosigned[:at] + bytes([cosigned[at] ^ 1 << bit]) + cosigned[at + 1 :]
            with pytest.raises(NoteRefused):
                open_checkpoint(changed, None, [log.verifier], [cosigner], 1)


PIECES = st.sampled_from(
    [
        b"\n",
        b"\n\n",
        "— ".encode(),
        b" ",
        b"name",
        log.name.encode(),
        b"1",
        b"0",
        b"=",
        ROOT.encode(),
        *cosigned.splitlines(),
    ]
)


@given(st.binary(max_size=200) | st.lists(PIECES, max_size=12).map(b"".join))
def test_nothing_but_refusals_comes_out(data: bytes) -> None:
    for read in (parse_note, parse_signatures, Checkpoint.parse):
        with suppress(NoteRefused):
            read(data)
    with suppress(NoteRefused):
        assert open_checkpoint(data, None, [log.verifier], [cosigner]) == checkpoint


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["+", "PRIVATE+KEY+", VKEY, "name", "00000000", "AQ=="]), max_size=6).map("".join)
)
def test_nothing_but_refusals_comes_out_of_keys(text: str) -> None:
    with suppress(InvalidSetting):
        assert Verifier.parse(text).vkey == text
    with pytest.raises(InvalidSetting):
        FileSigner.parse(text)


def test_base64_of_the_vectors_is_canonical() -> None:
    """So that strictness refuses nothing that others write."""
    for vector in VECTORS["notes"]:
        encoded = vector["signature_line"].rpartition(" ")[2]
        assert b64encode(b64decode(encoded)).decode() == encoded
