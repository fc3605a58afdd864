"""Proof files, checked with nothing but keys (format.md, "Proof of an entry" and "Proof of consistency"). Pure.

    Proof           that an entry is in the ledger that a checkpoint names: c2sp.org/tlog-proof@v1
    Consistency     that a newer checkpoint continues an older one: auditledger.dev/consistency-proof@v1

`parse` takes a file apart and verifies nothing; `check_proof` and `check_consistency_proof` verify it. Every bit of a
file that passes is covered, except signatures of keys that were not given, or that the quorum does not need.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ledger.errors import ProofRefused
from ledger.format.canonical import digest
from ledger.format.decode import Envelope, parse_body, parse_envelope
from ledger.tlog.checkpoint import Checkpoint, cosigned_by, open_checkpoint
from ledger.tlog.merkle import HASH_SIZE, check_consistency, check_inclusion, leaf_hash
from ledger.tlog.note import Verifier, base64_bytes, base64_text, decimal, parse_note

PROOF = "c2sp.org/tlog-proof@v1"
"""The first line of a proof of an entry (C2SP tlog-proof)."""
CONSISTENCY = "auditledger.dev/consistency-proof@v1"
"""The first line of a proof of consistency."""
MAX_FILE = 4_000_000
"""Bytes of a proof file that are read at most."""

_EXTRA, _INDEX = "extra ", "index "


class Proof(msgspec.Struct, frozen=True):
    """A proof of an entry. index: of its leaf, from 0; path: the inclusion proof; note: the signed checkpoint."""

    envelope: bytes
    body: bytes | None
    index: int
    path: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """The file's bytes."""
        extra = self.envelope if self.body is None else self.envelope + b"\n" + self.body
        lines = [PROOF, _EXTRA + base64_text(extra), f"{_INDEX}{self.index}", *map(base64_text, self.path)]
        return "\n".join(lines).encode() + b"\n\n" + self.note

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """The parts of a file; nothing is verified. Raises ProofRefused if it is malformed."""
        head, note = _lines(data, PROOF)
        if not head or not head[0].startswith(_EXTRA):
            raise ProofRefused("the proof holds no entry: a line of `extra` is missing")
        extra = base64_bytes(head[0].removeprefix(_EXTRA))
        index = decimal(head[1].removeprefix(_INDEX)) if len(head) > 1 and head[1].startswith(_INDEX) else None
        if extra is None or index is None:
            raise ProofRefused("the proof's lines of `extra` and `index` are malformed")
        envelope, line_break, body = extra.partition(b"\n")
        return cls(envelope, body if line_break else None, index, _hashes(head[2:]), note)


class Consistency(msgspec.Struct, frozen=True):
    """A proof of consistency. old, new: the signed checkpoints."""

    path: tuple[bytes, ...]
    old: bytes
    new: bytes

    def encode(self) -> bytes:
        """The file's bytes."""
        head = "\n".join([CONSISTENCY, *map(base64_text, self.path)]).encode()
        return head + b"\n\n" + self.old + b"\n" + self.new

    @classmethod
    def parse(cls, data: bytes) -> Consistency:
        """The parts of a file; nothing is verified. Raises ProofRefused if it is malformed.

        No line of a checkpoint is empty, so empty lines separate the parts: hashes, then each note's text and its
        signatures.
        """
        head, rest = _lines(data, CONSISTENCY)
        parts = rest.split(b"\n\n")
        if len(parts) != 4:
            raise ProofRefused("the proof does not hold two signed checkpoints")
        text, signatures, *new = parts
        return cls(_hashes(head), text + b"\n\n" + signatures + b"\n", b"\n\n".join(new))


class Proven(msgspec.Struct, frozen=True):
    """A verified proof of an entry: the ledger that signed this checkpoint has this entry.

    raw: the envelope's bytes. body: its bytes, if the proof has them. Both are one line of JSON.
    witnesses: those of the given keys that cosigned the checkpoint.
    """

    envelope: Envelope
    raw: bytes
    body: bytes | None
    checkpoint: Checkpoint
    witnesses: tuple[Verifier, ...]


def check_proof(
    data: bytes,
    origin: str | None,
    verifiers: Sequence[Verifier],
    witnesses: Sequence[Verifier] = (),
    quorum: int = 0,
) -> Proven:
    """Verifies the file of a proof of an entry: form, checkpoint, place in the tree, body. No database is needed.

    origin, verifiers, witnesses, quorum: as `open_checkpoint` takes them.
    Raises ProofRefused or NoteRefused if it does not hold, InvalidSetting if the given keys cannot verify it.
    """
    proof = Proof.parse(data)
    checkpoint = open_checkpoint(proof.note, origin, verifiers, witnesses, quorum)
    try:
        envelope = parse_envelope(proof.envelope)
    except ValueError as error:
        raise ProofRefused(f"the proof's entry is not an envelope of the format: {error}") from None
    if envelope.position != proof.index + 1:
        raise ProofRefused(f"the proof is of position {proof.index + 1}, its entry says {envelope.position}")
    if envelope.ledger != checkpoint.origin.rpartition("/")[2]:
        raise ProofRefused(f"the entry is of ledger {envelope.ledger!r}, the checkpoint of {checkpoint.origin!r}")
    check_inclusion(proof.index, checkpoint.size, leaf_hash(proof.envelope), proof.path, checkpoint.root)
    if proof.body is not None:
        _check_body(proof.body, envelope)
    cosigned = cosigned_by(parse_note(proof.note), witnesses, quorum)
    return Proven(envelope, proof.envelope, proof.body, checkpoint, tuple(cosigned))


def _check_body(body: bytes, envelope: Envelope) -> None:
    """Raises ProofRefused if it is not the body that the envelope names, or not one line of JSON."""
    if digest(body).hex() != envelope.body:
        raise ProofRefused(f"body hash mismatch at entry {envelope.position}")
    try:
        parse_body(body)
    except ValueError as error:
        raise ProofRefused(f"the body of entry {envelope.position} is not one of the format: {error}") from None
    if b"\n" in body or b"\r" in body:
        raise ProofRefused(f"the body of entry {envelope.position} holds line breaks, which the format does not allow")


def check_consistency_proof(
    data: bytes,
    origin: str | None,
    verifiers: Sequence[Verifier],
    witnesses: Sequence[Verifier] = (),
    quorum: int = 0,
) -> tuple[Checkpoint, Checkpoint]:
    """Verifies the file of a proof of consistency. Returns the older and the newer checkpoint.

    Each must be signed, and cosigned by the quorum, as in `open_checkpoint`.
    Raises ProofRefused or NoteRefused if it does not hold, InvalidSetting if the given keys cannot verify it.
    """
    proof = Consistency.parse(data)
    old, new = (open_checkpoint(note, origin, verifiers, witnesses, quorum) for note in (proof.old, proof.new))
    if old.origin != new.origin:
        raise ProofRefused(f"the checkpoints are of two logs: {old.origin!r} and {new.origin!r}")
    check_consistency(old.size, old.root, new.size, new.root, proof.path)
    return old, new


def _lines(data: bytes, header: str) -> tuple[list[str], bytes]:
    """The lines between the first one and the first empty one, and what comes after that."""
    if len(data) > MAX_FILE:
        raise ProofRefused(f"a proof of {len(data)} bytes; at most {MAX_FILE} are read")
    head, _, rest = data.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise ProofRefused("the proof is not text") from None
    if first != header:
        raise ProofRefused(f"not a proof of this kind: its first line is not {header}")
    return lines, rest


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    hashes = []
    for line in lines:
        hash_ = base64_bytes(line)
        if hash_ is None or len(hash_) != HASH_SIZE:
            raise ProofRefused(f"a line of the proof is not the base64 of {HASH_SIZE} bytes: {line[:80]!r}")
        hashes.append(hash_)
    return tuple(hashes)
