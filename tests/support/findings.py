"""Findings position by position."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.format.findings import Finding


def places(findings: Sequence[Finding]) -> list[tuple[int | None, str]]:
    """Each position with the kind of what was found there, by position, then kind; those about no entry last."""
    found: list[tuple[int | None, str]] = []
    for each in findings:
        if each.position is None or each.through is None:
            found.append((None, each.kind))
        else:
            assert each.position <= each.through < each.position + 10_000, each
            found += [(position, each.kind) for position in range(each.position, each.through + 1)]
    return sorted(found, key=lambda place: (place[0] is None, place[0] or 0, place[1]))
