"""What a verification finds: findings, their report, and the rules by which one entry continues another. Pure.

The rules are the same for a database and for a bundle; `scan` and `bundle` say what they read, this says what is wrong.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from ledger.events import GENESIS
from ledger.format.rules import ERASED, ERASED_TYPE

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
"""Findings that are kept; those beyond are counted."""
_GAP = 1_000
"""Missing entries of one gap that are named one by one."""
_POSITION = re.compile(r"[1-9][0-9]{0,18}").fullmatch


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong. kind: one of KINDS. position: of the entry, None where it is about no single one."""

    position: int | None
    kind: str
    detail: str


class Report(msgspec.Struct, frozen=True):
    """The outcome of a verification.

    first, last: the positions verified; last is first - 1 where there were none. entries: how many were read.
    head: hash of the newest entry, 32 bytes. findings: by position, then kind; those about no entry come last, and at
    the very end how many more there were than are listed. seconds: how long it took. notes: what is no finding, but
    should be known: rebuilds of the tree, with who did it. privileged: sentences about
    the database's users whom no privilege binds, superusers above all; empty for a bundle.
    """

    ledger: str
    ok: bool
    first: int
    last: int
    entries: int
    head: bytes
    findings: list[Finding]
    seconds: float
    notes: tuple[str, ...] = ()
    privileged: list[str] = []


class Findings:
    """Collects findings: the first `most` in the order in which they come, and how many came after those."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.kept: list[Finding] = []
        self.more = 0

    def add(self, position: int | None, kind: str, detail: str) -> None:
        if len(self.kept) < self.most:
            self.kept.append(Finding(position, kind, detail))
        else:
            self.more += 1

    def sort(self) -> None:
        """By position, then kind."""
        self.kept.sort(key=_place)

    def extend(self, later: Findings) -> None:
        """Takes over what another one collected on later positions."""
        room = self.most - len(self.kept)
        self.more += later.more + len(later.kept[room:])
        self.kept += later.kept[:room]

    def in_order(self, *others: Finding) -> list[Finding]:
        """These and the others, which are kept however many there are, in the order of a Report."""
        findings = sorted([*self.kept, *others], key=_place)
        if self.more:
            last = self.kept[-1]
            detail = f"… and {self.more:,} more findings from entry {last.position} on, not listed"
            findings.append(Finding(None, last.kind, detail))
        return findings


def _place(finding: Finding) -> tuple[bool, int, str, str]:
    return finding.position is None, finding.position or 0, finding.kind, finding.detail


class Link(NamedTuple):
    """What the next entry is judged by. Hashes are None where they are not known.

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
            self.findings.add(
                position, "time_regression", f"recorded_at is earlier than that of entry {before.position}"
            )
        self.last = entry

    def missing(self, until: int) -> None:
        """The positions between the last entry and `until` are empty."""
        first = self.last.position + 1
        for position in range(first, min(until, first + _GAP)):
            self.findings.add(position, "missing_entry", f"there is no entry {position}")
        if until > first + _GAP:
            rest = until - first - _GAP
            detail = f"there is no entry {first + _GAP}, and {rest - 1} more up to {until - 1}"
            self.findings.add(first + _GAP, "missing_entry", detail)


def check_tail(tail: Link, newest: Link, first: int, findings: Findings) -> None:
    """Is the tail the newest entry? Where it lies ahead, the entries from `first` on that it speaks of are missing."""
    position = newest.position
    if tail.position > position:
        Walk(newest._replace(position=max(position, first - 1)), findings).missing(tail.position + 1)
        detail = f"the tail is at {tail.position}, but the newest entry is {position}"
        findings.add(tail.position, "tail_mismatch", detail)
    elif tail.position < position:
        detail = f"entries stand beyond the tail: it is at {tail.position}, the newest entry is {position}"
        findings.add(position, "tail_mismatch", detail)
    elif tail.stored not in (newest.stored, newest.computed):
        detail = f"the tail's hash is {_hex(tail.stored)}, but entry {position} has {_hex(newest.stored)}"
        findings.add(position, "tail_mismatch", detail)
    elif tail.recorded != newest.recorded and newest.recorded is not None:
        findings.add(position, "tail_mismatch", f"the tail's recorded_at is not that of entry {position}")


def _hex(data: bytes | None) -> str:
    return "NULL" if data is None else data.hex()


def _wrong_link(position: int) -> str:
    if position == 1:
        return "its prev is not 64 zeros, as the first entry's must be"
    return f"its prev is not the hash of entry {position - 1}"


def erased_by(action: str, resource_type: str | None, resource_id: str | None, position: int) -> int | None:
    """The position of the entry that the entry at `position` erases; None where it is no erasure of an earlier one."""
    if action != ERASED or resource_type != ERASED_TYPE or resource_id is None or not _POSITION(resource_id):
        return None
    erased = int(resource_id)
    return erased if erased < position else None


def body_missing(position: int) -> str:
    return f"the body was removed, and no later entry {ERASED} names {position}"


OWN_ERASED = "the body of an entry of the ledger's own was removed: such entries cannot be erased"


def erased_mismatched(actor: str, by: int, stood: object) -> str:
    """by: the position of the erasure. stood: the digest of what stood there."""
    return f"{actor} erased in entry {by} a body that was not the one of its envelope: its BLAKE3 was {stood}"
