"""Sound inputs of every kind, from a log in memory and from the golden vectors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from ledger.format import canonical
from ledger.tlog.file_signer import FileSigner, new_cosigner
from ledger.tlog.note import Verifier, parse_note, sign
from ledger.tlog.witness_protocol import Request
from tests.support.logs import Log

VECTORS = Path(__file__).parent.parent / "vectors"
SIZES = (0, 1, 4, 7, 11)
"""Sizes of the log's signed checkpoints."""


@cache
def log() -> Log:
    return Log(SIZES[-1])


@cache
def fork() -> Log:
    """The same key's other history."""
    other = Log(5)
    other.append(SIZES[-1] - 5, actor="user:43")
    return other


@cache
def notes() -> list[bytes]:
    return [log().note(size, witnesses) for size in SIZES for witnesses in (0, 2)]


@cache
def checkpoint_texts() -> list[bytes]:
    return [parse_note(note).text for note in notes()] + [
        b"log.example/audit/main\n7\n" + b"A" * 43 + b"=\nextension\n"
    ]


@cache
def vectors() -> list[tuple[bytes, bytes]]:
    """Envelopes with their bodies; an empty one where it was erased."""
    cases = json.loads((VECTORS / "format.json").read_bytes())
    return [(case["envelope"].encode(), (case["body"] or "").encode()) for case in cases]


@cache
def envelopes() -> list[bytes]:
    return log().envelopes[:2] + [envelope for envelope, _ in vectors()]


@cache
def wires() -> list[tuple[bytes, bytes, bytes]]:
    """Envelope, body and hash as the stream has them; the log's first, which continue one another."""
    own = [(envelope, log().body(index)) for index, envelope in enumerate(log().envelopes)]
    return [(*parts, canonical.digest(parts[0]).hex().encode()) for parts in own + vectors()]


@cache
def proofs() -> list[bytes]:
    places = ((0, 1), (4, 7), (10, 11))
    return [log().proof(index, size, body).encode() for index, size in places for body in (False, True)]


@cache
def consistency_proofs() -> list[bytes]:
    return [log().consistency_proof(old, new).encode() for old, new in ((0, 4), (4, 7), (7, 11), (11, 11))]


@cache
def requests() -> list[bytes]:
    """To a witness: the honest ones, and one of another history."""
    honest = [(0, 4), (4, 7), (0, 11), (7, 7)]
    return [
        *(Request(old, tuple(log().consistency(old, new)), log().note(new, 0)).encode() for old, new in honest),
        Request(7, tuple(fork().consistency(7, 11)), fork().note(11, 0)).encode(),
    ]


@cache
def public_keys() -> list[str]:
    vectors = json.loads((VECTORS / "c2sp.json").read_bytes())["notes"]
    return [log().key.vkey, log().witnesses[0].vkey, *(note["vkey"] for note in vectors)]


@cache
def private_keys() -> list[str]:
    return [log().signer.private_text, log().cosigners[0].private_text]


@cache
def cosigner_keys() -> list[str]:
    return [new_cosigner("witness.example/w1", b"a witness's key".ljust(32))[0]]


@cache
def strangers_note() -> bytes:
    """Signed by nobody that is trusted."""
    return sign(log().checkpoint(4).text, [FileSigner(log().signer.name, b"another key".ljust(32))])


def trusted() -> tuple[list[Verifier], list[Verifier]]:
    """The keys of the log and of its witnesses."""
    return [log().key], log().witnesses
