"""Proofs (format.md, "Proof of an entry" and "Proof of consistency"): their files, how they are made and checked.

    Proof           that an entry is in the ledger that a checkpoint names: c2sp.org/tlog-proof@v1
    Consistency     that a newer checkpoint continues an older one: auditledger.dev/consistency-proof@v1

`prove` and `prove_between`, plans, make one from a few tiles, so that it takes no longer in a large ledger. It is
checked before it is returned: a proof that does not hold is an error of whoever makes it, not of whoever checks it.

Files are checked with nothing but keys, without input or output. `parse` takes a file apart and verifies nothing;
`check_proof` and `check_consistency_proof` verify it. Every bit of a file that passes is covered, except signatures of
keys that were not given, or that the quorum does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from ledger.effects import Plan, Query
from ledger.errors import ProofRefused, UsageError
from ledger.events import Entry
from ledger.format import canonical
from ledger.format.decode import Envelope, parse_body, parse_envelope
from ledger.statements import sql
from ledger.store import ledgers, tree
from ledger.store.ledgers import LedgerRef
from ledger.tlog.checkpoint import Checkpoint, cosigned_by, open_checkpoint
from ledger.tlog.merkle import HASH_SIZE, check_consistency, check_inclusion, leaf_hash
from ledger.tlog.note import Verifier, base64_bytes, base64_text, decimal, parse_note

SQL = sql(__file__)
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
    if envelope.ledger != checkpoint.log:
        raise ProofRefused(f"the entry is of ledger {envelope.ledger!r}, the checkpoint of {checkpoint.origin!r}")
    check_inclusion(proof.index, checkpoint.size, leaf_hash(proof.envelope), proof.path, checkpoint.root)
    if proof.body is not None:
        _check_body(proof.body, envelope)
    cosigned = cosigned_by(parse_note(proof.note), witnesses, quorum)
    return Proven(envelope, proof.envelope, proof.body, checkpoint, tuple(cosigned))


def _check_body(body: bytes, envelope: Envelope) -> None:
    """Raises ProofRefused if it is not the body that the envelope names, or not one line of JSON."""
    if canonical.digest(body).hex() != envelope.body:
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


# ---------------------------------------------------------------------------------------------------------- making them


def prove(ledger: LedgerRef, which: int | UUID, with_body: bool = False) -> Plan[Proof]:
    """A proof of an entry, against the newest checkpoint that the ledger keeps.

    which: its position, or its id. with_body: the proof holds the body too.
    Raises UsageError if there is no such entry or body, or no checkpoint has it yet; ProofRefused if the entry, the
    tiles and the checkpoint do not fit each other.
    """
    entry = yield from _entry(ledger, which)
    body = canonical.body(entry) if with_body else None
    if with_body and body is None:
        raise UsageError(f"entry {entry.position} is erased: it can be proven, but not with its body")
    kept = yield from tree.newest_kept(ledger)
    if kept is None or kept.size < entry.position:
        newest = "none is kept" if kept is None else f"the newest has {kept.size} entries"
        raise UsageError(
            f"no checkpoint of ledger {ledger.name!r} has entry {entry.position} yet ({newest}): "
            "run 'auditledger checkpoint'"
        )
    index = entry.position - 1
    try:
        envelope = canonical.envelope(entry)
    except (AttributeError, OverflowError, TypeError):
        problem = "it has no envelope: a NULL, or a time out of range"
        raise ProofRefused(f"entry {entry.position} cannot be proven: {problem}; run 'auditledger verify'") from None
    try:
        parse_envelope(envelope)
        checkpoint = _checkpoint(kept.note, ledger)
        path = yield from tree.inclusion_proof(ledger, index, checkpoint.size)
        check_inclusion(index, checkpoint.size, leaf_hash(envelope), path, checkpoint.root)
        if body is not None and canonical.digest(body) != entry.body_hash:
            raise ProofRefused("body hash mismatch")
    except (ProofRefused, ValueError) as error:
        raise ProofRefused(f"entry {entry.position} cannot be proven: {error}; run 'auditledger verify'") from error
    return Proof(envelope, body, index, tuple(path), kept.note)


def prove_between(ledger: LedgerRef, old: int | bytes, new: int | bytes) -> Plan[Consistency]:
    """A proof that the larger of two checkpoints continues the other.

    old, new: the size of one that the ledger keeps, or a signed note, whose signatures are not checked here.
    Raises UsageError if none of that size is kept, or one is of another ledger; NoteRefused; ProofRefused if the ledger
    does not have both: one is of another history, or larger than the tree.
    """
    notes = []
    for which in (old, new):
        notes.append((yield from _note(ledger, which)))
    older, newer = sorted(notes, key=lambda note: _checkpoint(note, ledger).size)
    first, second = _checkpoint(older, ledger), _checkpoint(newer, ledger)
    size = yield from tree.size(ledger)
    if second.size > size:
        raise ProofRefused(
            f"the checkpoint is of {second.size} entries, and the tree of ledger {ledger.name!r} has {size}: "
            "it was truncated, or is behind; run 'auditledger verify' with that checkpoint"
        )
    try:
        path = yield from tree.consistency_proof(ledger, first.size, second.size)
        check_consistency(first.size, first.root, second.size, second.root, path)
    except ProofRefused as error:
        raise ProofRefused(f"{error}; run 'auditledger verify' with these checkpoints") from error
    return Consistency(tuple(path), older, newer)


def _entry(ledger: LedgerRef, which: int | UUID) -> Plan[Entry]:
    position = which
    if isinstance(position, UUID):
        rows = yield Query(SQL["position"], (ledger.ledger_id, position))
        if not rows:
            raise UsageError(f"ledger {ledger.name!r} has no entry with the id {which}")
        position = rows[0][0]
    entries = (yield from ledgers.read(ledger, position - 1, 1, position)) if 0 < position <= ledgers.FAR else []
    if not entries:
        raise UsageError(f"ledger {ledger.name!r} has no entry {position}")
    return entries[0]


def _note(ledger: LedgerRef, which: int | bytes) -> Plan[bytes]:
    if isinstance(which, bytes):
        return which
    kept = (yield from tree.kept_at(ledger, which)) if 0 <= which <= ledgers.FAR else None
    if kept is None:
        raise UsageError(f"ledger {ledger.name!r} keeps no checkpoint of {which} entries")
    return kept.note


def _checkpoint(note: bytes, ledger: LedgerRef) -> Checkpoint:
    checkpoint = Checkpoint.of(note)
    if checkpoint.log != ledger.name:
        raise UsageError(f"the checkpoint is of {checkpoint.origin!r}, not of ledger {ledger.name!r}")
    return checkpoint
