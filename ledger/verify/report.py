"""The report of a verification, and whether the tail is the newest entry: for a database and for a bundle. Pure."""

from __future__ import annotations

import msgspec

from ledger.format.findings import Finding, Findings, Link, Walk


class Report(msgspec.Struct, frozen=True):
    """The outcome of a verification.

    first, last: the positions verified; last is first - 1 where there were none. entries: how many were read.
    head: hash of the newest entry, 32 bytes. findings: by position, then kind; those about no entry come last, and at
    the very end how many more there were than are listed. seconds: how long it took. notes: what is no finding, but
    should be known: rebuilds of the tree, with who did it. privileged: sentences about
    the database's users who bypass privilege checks, superusers above all; empty for a bundle.
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


def check_tail(tail: Link, newest: Link, first: int, findings: Findings) -> None:
    """Adds a finding if the tail is not the newest entry, and if it is ahead, the missing entries from `first` on."""
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
