"""Findings are ranges: what is wrong with adjacent entries is one finding, whoever read which of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Finding, Ledger, testing
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.export.manifest import BODIES, ENVELOPES, MANIFEST
from ledger.store.ledgers import FAR
from ledger.tlog.file_signer import new_key
from ledger.verify import database, ranges
from ledger.verify.checkpoints import Trust
from tests.support.cli import cli_of
from tests.support.forger import Forger
from tests.support.helpers import events

LAST = 2_000
FAR_TAIL = 1_000_000_000

Spans = list[tuple[int | None, int | None, str]]


def spans(findings: list[Finding]) -> Spans:
    return [(each.position, each.through, each.kind) for each in findings]


def update(columns: str, where: str) -> str:
    return f"update ledger.audit_logs set {columns} where ledger_id = 1 and {where}"


def tail(position: int) -> str:
    return f"update ledger.tails set position = {position} where ledger_id = 1"


MIDDLE = "position between 501 and 1500"
CASES: dict[str, tuple[list[str], Spans]] = {
    "a hole in the middle": (
        [f"delete from ledger.audit_logs where {MIDDLE}"],
        [(501, 1500, "missing_entry")],
    ),
    "two holes": (
        [f"delete from ledger.audit_logs where {MIDDLE} and position <> 700"],
        [(501, 699, "missing_entry"), (701, 1500, "missing_entry")],
    ),
    "a hole at the end": (
        ["delete from ledger.audit_logs where position > 1990"],
        [(1991, 2000, "missing_entry"), (2000, 2000, "tail_mismatch")],
    ),
    "an entry far off": (
        [update(f"position = {FAR}", f"position = {LAST}")],
        [(2000, FAR - 1, "missing_entry"), (FAR, FAR, "hash_mismatch"), (FAR, FAR, "tail_mismatch")],
    ),
    "the tail in front": (
        [tail(FAR_TAIL)],
        [(2001, FAR_TAIL, "missing_entry"), (FAR_TAIL, FAR_TAIL, "tail_mismatch")],
    ),
    "the tail as far in front as it goes": (
        [tail(FAR)],
        [(2001, FAR, "missing_entry"), (FAR, FAR, "tail_mismatch")],
    ),
    "the tail behind": ([tail(100)], [(2000, 2000, "tail_mismatch")]),
    "changed bodies": ([update("""after = '{"number":0}'""", MIDDLE)], [(501, 1500, "body_mismatch")]),
    "removed bodies": (
        [update("before = null, after = null, metadata = null, salt = null", MIDDLE)],
        [(501, 1500, "body_missing")],
    ),
    "changed envelopes": ([update("actor = 'user:43'", MIDDLE)], [(501, 1500, "hash_mismatch")]),
    "changed hashes": (
        [update("hash = decode(repeat('ab', 32), 'hex')", MIDDLE)],
        [(501, 1500, "hash_mismatch")],
    ),
    "changed links": (
        [update("prev_hash = decode(repeat('ab', 32), 'hex')", MIDDLE)],
        [(501, 1500, "broken_link"), (501, 1500, "hash_mismatch")],
    ),
    "every other one": (
        [update("actor = 'user:43'", "position in (10, 12, 14, 15)")],
        [(10, 10, "hash_mismatch"), (12, 12, "hash_mismatch"), (14, 15, "hash_mismatch")],
    ),
    "envelopes and bodies": (
        [update("""actor = 'user:43', after = '{"number":0}'""", MIDDLE)],
        [(501, 1500, "body_mismatch"), (501, 1500, "hash_mismatch")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_adjacent_entries_are_one_finding(forger: Forger, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """However the positions are split into ranges and processes."""
    statements, expected = CASES[case]
    forger.run(*statements)
    forger.done()
    started = time.monotonic()
    report = forger.verify()
    assert spans(report.findings) == expected
    assert forger.verify(workers=3).findings == report.findings
    monkeypatch.setattr(ranges, "_RANGE", 97)
    assert forger.verify().findings == report.findings
    assert time.monotonic() - started < 60, "it costs nothing for each missing position"
    [(noted,)] = forger.connection.execute("select distinct findings from ledger.verifications").fetchall()
    assert noted == len(expected)


def test_from_a_position_within(forger: Forger) -> None:
    forger.run(update("actor = 'user:43'", MIDDLE), tail(FAR_TAIL))
    forger.done()
    report = database.verify(forger.settings, first=1000)
    assert spans(report.findings) == [
        (1000, 1500, "hash_mismatch"),
        (2001, FAR_TAIL, "missing_entry"),
        (FAR_TAIL, FAR_TAIL, "tail_mismatch"),
    ]
    assert spans(database.verify(forger.settings, first=LAST + 1).findings) == spans(report.findings)[1:]


@pytest.mark.parametrize("workers", [1, 2])
def test_with_a_tree_and_from_a_checkpoint(forger: Forger, tmp_path: Path, workers: int) -> None:
    """Each changed entry also has another leaf; entries before the checkpoint are not read again."""
    key, verifier = new_key("example.com/audit/main", bytes(range(32)))
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    forger.done()
    with Ledger(forger.settings) as ledger:
        signed = ledger.checkpoint(tmp_path / "key", new_state=True)
        ledger.append_many(events(1000))
    with Forger(forger.settings.database_url or "") as again:
        again.run(update("actor = 'user:43'", "position between 1501 and 2500 and position <> 2000"), tail(FAR_TAIL))
        again.done()
    report = database.verify(forger.settings, workers=workers)
    newer: Spans = [
        (2001, 2500, "hash_mismatch"),
        (3001, FAR_TAIL, "missing_entry"),
        (FAR_TAIL, FAR_TAIL, "tail_mismatch"),
    ]
    older: Spans = [(1501, 1999, "hash_mismatch"), (1501, 1999, "tree_mismatch"), (2000, 2000, "rewritten")]
    assert spans([each for each in report.findings if each.position is not None]) == [*older, *newer]
    report = database.verify(
        forger.settings,
        workers=workers,
        checkpoints=[("kept", signed.note)],
        trust=Trust.given([verifier]),
        incremental=True,
    )
    assert (report.first, spans(report.findings)) == (LAST + 1, newer)


def test_in_a_bundle(forger: Forger, tmp_path: Path) -> None:
    forger.done()
    folder = tmp_path / "bundle"
    export(forger.settings, folder)
    envelopes = (folder / ENVELOPES).read_bytes().splitlines(keepends=True)
    bodies = (folder / BODIES).read_bytes().splitlines(keepends=True)
    manifest = json.loads((folder / MANIFEST).read_bytes())

    def found(envelopes: list[bytes], bodies: list[bytes], **changed: int) -> Spans:
        (folder / ENVELOPES).write_bytes(b"".join(envelopes))
        (folder / BODIES).write_bytes(b"".join(bodies))
        text = json.dumps(manifest | {"entries": len(envelopes)} | changed, indent=1)
        (folder / MANIFEST).write_text(text + "\n")
        return spans(verify_bundle(folder).findings)

    def change(lines: list[bytes], old: bytes, new: bytes) -> list[bytes]:
        return [*lines[:500], *(line.replace(old, new) for line in lines[500:1500]), *lines[1500:]]

    assert found(envelopes, bodies) == []
    assert found(envelopes, change(bodies, b'"after":{', b'"after":{"x":1,')) == [(501, 1500, "body_mismatch")]
    assert found(envelopes, change(bodies, b"\n", b"")) != []
    assert found(change(envelopes, b'"user:', b'"user:4'), bodies) == [(502, 1501, "broken_link")]
    assert found(change(envelopes, b'"actor":', b'"actor" :'), bodies)[0] == (501, 1500, "hash_mismatch")
    assert found(envelopes[:500] + envelopes[1500:], bodies[:500] + bodies[1500:]) == [(501, 1500, "missing_entry")]
    assert found(envelopes, [*bodies[:500], *[b"\n"] * 1000, *bodies[1500:]], erased=1000) == [
        (501, 1500, "body_missing")
    ]
    assert found(envelopes, bodies, last=FAR_TAIL) == [
        (2001, FAR_TAIL, "missing_entry"),
        (FAR_TAIL, FAR_TAIL, "tail_mismatch"),
    ]


def test_on_the_command_line(forger: Forger) -> None:
    forger.run(tail(FAR_TAIL), update("actor = 'user:43'", "position = 7"))
    forger.done()
    with Ledger(forger.settings) as ledger:
        cli = cli_of(ledger, redis=False)
        ran = cli("verify", "--json")
        assert ran.code == 1
        named = [(each["position"], each["through"], each["kind"]) for each in ran.json["findings"]]
        assert named == [
            (7, 7, "hash_mismatch"),
            (2001, FAR_TAIL, "missing_entry"),
            (FAR_TAIL, FAR_TAIL, "tail_mismatch"),
        ]
        one, hole, moved, verdict = cli("verify").out.splitlines()
        assert one.split()[:2] == ["7", "hash_mismatch"]
        assert hole == "entries 2,001 to 1,000,000,000  missing_entry    there is no such entry"
        assert moved.split()[:2] == [str(FAR_TAIL), "tail_mismatch"]
        assert one.index(" hash_m") == hole.index(" missing") == moved.index(" tail_m")
        assert "3 findings" in verdict


@pytest.fixture(scope="module")
def pattern(servers: testing.TestServers, template: str) -> Iterator[str]:
    """The name of a database with the ledger that every case copies."""
    with testing.database(servers.database_url, template=template) as url:
        with Ledger.open(database_url=url) as ledger:
            ledger.append_many(events(LAST))
        yield url.rpartition("/")[2]


@pytest.fixture
def forger(servers: testing.TestServers, pattern: str) -> Iterator[Forger]:
    with testing.database(servers.database_url, template=pattern) as url, Forger(url) as forger:
        yield forger
