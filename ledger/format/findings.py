"""What is wrong with entries: findings, and the checks of an entry by itself and against the one before it. Pure.

    Finding, Findings    one thing that is wrong, and what collects them
    body_flaw, check_…   what can be wrong with one entry by itself: its body, what is left of an erased one, the rules
    Link, Walk           the rules by which one entry continues another
    Record               a row of the ledger's own table as it is stored, whatever it holds

The same for a row of the database and for a line of a bundle.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from msgspec.structs import force_setattr

from ledger.events import GENESIS
from ledger.format.actions import ERASED, is_own
from ledger.format.canonical import body_bytes, digest, envelope_from, uuid_text
from ledger.format.rules import Columns, broken
from ledger.format.times import timestamp_from

KINDS = (
    "hash_mismatch",
    "broken_link",
    "missing_entry",
    "unreadable",
    "body_mismatch",
    "body_missing",
    "tail_mismatch",
    "time_regression",
    "rule_broken",
    "unprotected",
    "truncated",
    "rewritten",
    "forked",
    "tree_mismatch",
    "quarantined",
)
"""The four before the last are about checkpoints and the tree (verify/checkpoints.py, verify/tree_rebuild.py)."""
MOST = 10_000
"""Findings that are listed; those beyond are counted."""
NO_ENTRY = "there is no such entry"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong. kind: one of KINDS.

    position, through: of the first and the last of the adjacent entries that it is about, equal for a single one; None
    where it is about no entry. detail: true of each of them.
    """

    position: int | None
    kind: str
    detail: str
    through: int | None = None

    def __post_init__(self) -> None:
        if self.through is None:
            force_setattr(self, "through", self.position)


class Findings:
    """Collects findings. What has the same kind and detail at adjacent positions is one finding.

    most: how many are kept, the first in the order in which they come. more: how many came after those, counted by
    position, so that it does not matter in which ranges the positions were read.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.kept: list[Finding] = []
        self.more = 0
        self._next: dict[tuple[int, str, str], int] = {}
        """By position, kind and detail of what would continue a finding: where that is in `kept`."""

    def add(self, position: int | None, kind: str, detail: str, through: int | None = None) -> None:
        """through: the last position that it is about; None if that is `position`."""
        self.take(Finding(position, kind, detail, through))

    def take(self, finding: Finding) -> None:
        """Continues the finding of the position before, or is one more."""
        position, kind, detail, through = msgspec.structs.astuple(finding)
        index = self._next.pop((position, kind, detail), None)
        if index is not None:
            self.kept[index] = msgspec.structs.replace(self.kept[index], through=through)
        elif len(self.kept) < self.most:
            index = len(self.kept)
            self.kept.append(finding)
        else:
            self.more += 1 if position is None else through - position + 1
            return
        if position is not None:
            self._next[through + 1, kind, detail] = index

    def extend(self, later: Findings) -> None:
        """Takes over what another one collected on later positions."""
        for finding in in_order(later.kept):
            self.take(finding)
        self.more += later.more

    def listed(self, *others: Finding) -> list[Finding]:
        """These and the others, which are kept however many there are, in the order of a Report."""
        findings = in_order([*self.kept, *others])
        if self.more:
            last = self.kept[-1]
            detail = f"… and {self.more:,} more findings from entry {last.position} on, not listed"
            findings.append(Finding(None, last.kind, detail))
        return findings


def in_order(findings: Collection[Finding]) -> list[Finding]:
    """By position, then kind; those that continue one another as one."""
    merged = Findings(len(findings))
    for finding in sorted(findings, key=_place):
        merged.take(finding)
    return merged.kept


def _place(finding: Finding) -> tuple[bool, int, str, str]:
    return finding.position is None, finding.position or 0, finding.kind, finding.detail


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


class Link(NamedTuple):
    """What the next entry is judged by. Hashes are None if they are not known.

    stored, computed: the hash as recorded, and as it comes out of the envelope. Where one of the two was changed, the
    next entry may continue either: the change is a finding of its own. recorded: microseconds since 2000-01-01 UTC.
    """

    position: int
    stored: bytes | None
    computed: bytes | None
    recorded: int | None


BEGINNING = Link(0, GENESIS, GENESIS, None)


class Walk:
    """Follows entries in the order of their positions and says what is wrong between them."""

    def __init__(self, before: Link, findings: Findings) -> None:
        self.last = before
        self.findings = findings

    def step(self, entry: Link, prev: bytes | None) -> None:
        """The next entry, with its `prev`."""
        position, stored, computed, recorded = entry
        before = self.last
        if position == before.position + 1:
            sound = (before.stored, before.computed)
            if prev not in sound and sound != (None, None):
                self.findings.add(position, "broken_link", _wrong_link(position))
        elif position > before.position:
            self.missing(position)
        else:
            self.findings.add(position, "broken_link", f"entry {position} stands after entry {before.position}")
        if computed is None or stored != computed:
            self.findings.add(position, "hash_mismatch", "its hash is not the hash of its envelope")
        if before.recorded is not None and recorded is not None and recorded < before.recorded:
            self.findings.add(position, "time_regression", "recorded_at is earlier than that of the entry before")
        self.last = entry

    def missing(self, until: int) -> None:
        """The positions between the last entry and `until` are empty."""
        first = self.last.position + 1
        if first < until:
            self.findings.add(first, "missing_entry", NO_ENTRY, until - 1)


def _wrong_link(position: int) -> str:
    if position == 1:
        return "its prev is not 64 zeros, as the first entry's must be"
    return "its prev is not the hash of the entry before it"


class Record(Columns):
    """A row as it is stored."""

    __slots__ = ()

    def envelope(self, ledger: str) -> bytes | None:
        """The envelope's bytes; None if a NULL or a time outside the years 0001-9999 leaves it without one."""
        try:
            return envelope_from(
                ledger,
                self.position,
                uuid_text(self.id),
                timestamp_from(self.recorded),
                timestamp_from(self.occurred),
                *self[4:9],
                self.body_hash,
                self.prev_hash,
            )
        except (AttributeError, OverflowError, TypeError):
            return None

    def body(self) -> bytes | None:
        """The body's bytes; None if it was erased."""
        return None if self.salt is None else body_bytes(self.before, self.after, self.metadata, self.salt)

    def link(self, envelope: bytes | None) -> Link:
        """What the next entry is judged by. envelope: this one's."""
        return Link(self.position, self.hash, None if envelope is None else digest(envelope), self.recorded)

    def body_flaw(self) -> str | None:
        """What is wrong with a body that stands, or with what is left of one; None if nothing is."""
        return body_flaw(self.body(), self.body_hash, left=self[9:12] != (None, None, None))
