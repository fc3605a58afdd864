"""What can be wrong with one entry by itself: its body, what is left of an erased one, and the rules. Pure.

The same for a row of the database and for a line of a bundle.
"""

from __future__ import annotations

from ledger.format.actions import ERASED, is_own
from ledger.format.canonical import digest
from ledger.format.findings import Findings
from ledger.format.rules import Columns, broken

_NOT_ERASABLE = "the body of an entry of the ledger's own was removed: such entries cannot be erased"
_NOT_ERASED = f"the body was removed, and no later entry {ERASED} names this one"


def body_flaw(body: bytes | None, body_hash: bytes, *, left: bool = False) -> str | None:
    """What is wrong with a body; None if nothing is.

    body: None if its salt is gone. body_hash: 32 bytes, as in its envelope. left: some of its texts are still there.
    """
    if body is None:
        return "its salt was removed, but not all of its body" if left else None
    return None if digest(body) == body_hash else "body hash mismatch"


def check_body(position: int, action: str, flaw: str | None, findings: Findings, *, gone: bool) -> bool:
    """Adds what is wrong with a body. Returns whether it is gone, so that a later entry must have erased it.

    flaw: of `body_flaw`. gone: its salt is gone.
    """
    if flaw is not None:
        findings.add(position, "body_mismatch", flaw)
    elif gone and is_own(action):
        findings.add(position, "body_missing", _NOT_ERASABLE)
    else:
        return gone
    return False


def add_not_erased(position: int, findings: Findings) -> None:
    """Adds that a body is gone, and no erasure says so."""
    findings.add(position, "body_missing", _NOT_ERASED)


def add_mismatched(erased: int, by: int, actor: str, stood: object, findings: Findings) -> None:
    """Adds what an erasure says: that the body which it removed was not its envelope's.

    erased, by: positions of the entry and of the erasure. stood: the hash of what stood there, in hex.
    """
    detail = f"{actor} erased in entry {by} a body that was not the one of its envelope: its BLAKE3 was {stood}"
    findings.add(erased, "body_mismatch", detail)


def check_rules(entry: Columns, findings: Findings) -> None:
    """Adds the rules that an entry breaks."""
    for rule in broken(entry):
        findings.add(entry.position, "rule_broken", str(rule))
