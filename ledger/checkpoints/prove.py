"""Makes proofs: of one entry, and of one checkpoint continuing another. Plans.

Each is made from a few tiles, so that it takes no longer in a large ledger, and checked before it is returned: a proof
that does not hold is an error of whoever makes it, not of whoever checks it.
"""

from __future__ import annotations

from uuid import UUID

from ledger.checkpoints.proof import Consistency, Proof
from ledger.effects import Plan, Query
from ledger.errors import ProofRefused, UsageError
from ledger.events import Entry
from ledger.format import canonical
from ledger.format.decode import parse_envelope
from ledger.statements import sql
from ledger.store import ledgers, tree
from ledger.store.ledgers import LedgerRef
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.merkle import check_consistency, check_inclusion, leaf_hash
from ledger.verify.checkpoints import ledger_of

SQL = sql(__file__)


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
    if ledger_of(checkpoint) != ledger.name:
        raise UsageError(f"the checkpoint is of {checkpoint.origin!r}, not of ledger {ledger.name!r}")
    return checkpoint
