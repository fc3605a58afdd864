"""Findings: adjacent ones of one kind and detail are one, in whatever ranges they were collected; and their bounds."""

from __future__ import annotations

import json
import pickle
import random

import msgspec
import pytest

from ledger.format.findings import Finding, Findings, Link, Walk, in_order

Spans = list[tuple[int | None, int | None, str]]


def spans(findings: list[Finding]) -> Spans:
    return [(each.position, each.through, each.kind) for each in findings]


def test_one_position_is_a_range_of_one() -> None:
    finding = Finding(5, "hash_mismatch", "why")
    assert (finding.position, finding.through) == (5, 5)
    assert finding == Finding(5, "hash_mismatch", "why", 5) != Finding(5, "hash_mismatch", "why", 6)
    assert Finding(None, "unprotected", "why").through is None
    assert json.loads(msgspec.json.encode(finding)) == {
        "position": 5,
        "kind": "hash_mismatch",
        "detail": "why",
        "through": 5,
    }


def test_adjacent_findings_of_one_kind_and_detail() -> None:
    findings = Findings()
    for position in (1, 2, 3, 5, 6, 8):
        findings.add(position, "hash_mismatch", "its hash")
        findings.add(position, "body_mismatch", "its body")
    findings.add(7, "hash_mismatch", "another detail")
    findings.add(None, "unprotected", "a table")
    findings.add(None, "unprotected", "a table")
    assert spans(findings.listed()) == [
        *((1, 3, kind) for kind in ("body_mismatch", "hash_mismatch")),
        *((5, 6, kind) for kind in ("body_mismatch", "hash_mismatch")),
        (7, 7, "hash_mismatch"),
        *((8, 8, kind) for kind in ("body_mismatch", "hash_mismatch")),
        *[(None, None, "unprotected")] * 2,
    ]


def test_two_rows_at_one_position_are_two_findings() -> None:
    findings = Findings()
    for position in (4, 5, 5, 6):
        findings.add(position, "hash_mismatch", "its hash")
    assert spans(findings.listed()) == [(4, 5, "hash_mismatch"), (5, 6, "hash_mismatch")]


def test_ranges_continue_ranges() -> None:
    findings = Findings()
    findings.add(1, "missing_entry", "gone", 10)
    findings.add(11, "missing_entry", "gone", 2**63 - 1)
    assert spans(findings.listed()) == [(1, 2**63 - 1, "missing_entry")]
    assert spans(in_order([Finding(2, "x", ""), Finding(1, "x", ""), Finding(3, "y", "")])) == [
        (1, 2, "x"),
        (3, 3, "y"),
    ]


@pytest.mark.parametrize("most", [1, 3, 10_000])
def test_ranges_that_were_read_apart_make_the_same_findings(most: int) -> None:
    """Whatever their sizes, also those beyond the bound."""
    chance = random.Random(most)
    for _ in range(200):
        wrong = [(position, kind) for position in range(1, 41) for kind in "abc" if chance.random() < 0.7]
        whole = Findings(most)
        for position, kind in wrong:
            whole.add(position, kind, "why")
        gathered, start = Findings(most), 1
        while start <= 40:
            end = start + chance.randint(0, 12)
            part = Findings()
            within = [each for each in wrong if start <= each[0] <= end]
            for position, kind in chance.sample(within, len(within)):
                part.add(position, kind, "why")
            gathered.extend(pickle.loads(pickle.dumps(part)))  # noqa: S301 - as it comes from another process
            start = end + 1
        assert gathered.listed() == whole.listed()
        assert gathered.more == whole.more == len(wrong) - sum(_count(each) for each in whole.kept)


def test_memory_is_bounded() -> None:
    findings = Findings(5)
    for position in range(0, 2000, 2):
        findings.add(position, "hash_mismatch", "its hash")
    assert len(findings.kept) == len(findings._next) == 5 and findings.more == 995
    assert findings.listed()[-1] == Finding(
        None, "hash_mismatch", "… and 995 more findings from entry 8 on, not listed"
    )


def test_a_gap_of_any_width_is_one_finding() -> None:
    findings = Findings()
    walk = Walk(Link(2_000, bytes(32), bytes(32), 0), findings)
    walk.missing(2_001)
    assert findings.kept == []
    walk.missing(2**62)
    assert spans(findings.kept) == [(2_001, 2**62 - 1, "missing_entry")]


def _count(finding: Finding) -> int:
    assert finding.position is not None and finding.through is not None
    return finding.through - finding.position + 1
