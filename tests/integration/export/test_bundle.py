"""The bundle: written from a real ledger, read without the package, and forged in every byte."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from blake3 import blake3

from ledger import Event, Ledger
from ledger.errors import ChainBroken, EvidenceRefused, InvalidSetting, LedgerError, UnknownLedger, UsageError
from ledger.events import GENESIS
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.export.manifest import BODIES, ENVELOPES, MANIFEST, Manifest
from ledger.settings import Settings
from ledger.verify.report import Report
from tests.support.findings import places
from tests.support.helpers import erase, event, events

CLOUDTRAIL = Path(__file__).parents[4] / "shared" / "data" / "cloudtrail.jsonl.gz"


def auditor(folder: Path) -> None:
    """What anyone can check with a JSON parser and BLAKE3 alone; uses nothing of the package."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    prev = manifest["prev"]
    assert prev == "0" * 64 or manifest["first"] > 1
    erased, excused, count, recorded_at = set(), set(), 0, ""
    with (folder / "envelopes.jsonl").open("rb") as envelopes, (folder / "bodies.jsonl").open("rb") as bodies:
        for line, body in zip(envelopes, bodies, strict=True):
            envelope = json.loads(line)
            text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            assert line == text.encode() + b"\n"
            assert envelope["prev"] == prev
            assert envelope["position"] == manifest["first"] + count
            assert envelope["ledger"] == manifest["ledger"]
            assert envelope["recorded_at"] >= recorded_at
            if body == b"\n":
                erased.add(str(envelope["position"]))
            else:
                assert blake3(body[:-1]).hexdigest() == envelope["body"]
            if (envelope["action"], envelope["resource_type"]) == ("ledger.entry_erased", "ledger.entry"):
                excused.add(envelope["resource_id"])
            prev, recorded_at = blake3(line[:-1]).hexdigest(), envelope["recorded_at"]
            count += 1
    assert prev == manifest["head"]
    assert (count, len(erased)) == (manifest["entries"], manifest["erased"])
    assert manifest["last"] == manifest["first"] + count - 1
    assert erased <= excused


def said(report: Report) -> list[tuple[int | None, str]]:
    return places(report.findings)


@pytest.fixture
def small(ledger: Ledger, admin: psycopg.Connection) -> Ledger:
    """Five entries; the second is erased, and the fourth says so."""
    ledger.append(event(1, actor='é"\\\n\u2028', before={"a": [1, 2.5, None]}))
    ledger.append(event(2, resource_type="invoice", resource_id="inv_7"))
    ledger.append(event(3, metadata={"ip": "192.0.2.7"}))
    erase(admin, 2)
    ledger.append(event(5))
    return ledger


@pytest.fixture
def bundle(small: Ledger, tmp_path: Path) -> Path:
    export(small.settings, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_an_export_verifies(small: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bundle"
    seen: list[tuple[int, int]] = []
    manifest = export(small.settings, folder, progress=lambda done, total: seen.append((done, total)))
    tail = small.tail()
    assert manifest == Manifest(1, "main", 1, 5, 5, 1, GENESIS.hex(), tail.hash.hex())
    assert json.loads((folder / MANIFEST).read_bytes())["entries"] == 5
    assert seen == [(5, 5)]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["bundle"], "no temporary folder is left"
    auditor(folder)
    report = verify_bundle(folder, lambda done, total: seen.append((done, total)))
    assert report.findings == []
    assert (report.ok, report.first, report.last, report.entries) == (True, 1, 5, 5)
    assert (report.ledger, report.head) == ("main", tail.hash)
    assert seen == [(5, 5), (5, 5)]


def test_one_line_is_the_prev_of_the_next(bundle: Path) -> None:
    """As format.md says it: sed -n 1p envelopes.jsonl | tr -d '\\n' | b3sum."""
    first, second = (bundle / ENVELOPES).read_bytes().split(b"\n")[:2]
    body = (bundle / BODIES).read_bytes().split(b"\n")[0]
    assert json.loads(second)["prev"] == blake3(first).hexdigest()
    assert json.loads(first)["body"] == blake3(body).hexdigest()


@pytest.mark.parametrize("first", [2, 3, 5, 6])
def test_from_a_position(small: Ledger, tmp_path: Path, first: int) -> None:
    manifest = export(small.settings, tmp_path / "bundle", first=first)
    assert (manifest.first, manifest.last, manifest.entries) == (first, 5, 6 - first)
    assert manifest.erased == (first == 2)
    auditor(tmp_path / "bundle")
    report = verify_bundle(tmp_path / "bundle")
    assert (report.findings, report.first, report.last) == ([], first, 5)
    assert report.head == small.tail().hash


def test_an_empty_ledger(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger.settings, tmp_path / "bundle")
    auditor(tmp_path / "bundle")
    report = verify_bundle(tmp_path / "bundle")
    assert (report.ok, report.first, report.last, report.head) == (True, 1, 0, GENESIS)


def test_an_export_that_cannot_be_written(small: Ledger, bundle: Path, tmp_path: Path) -> None:
    for folder in (bundle, bundle / MANIFEST, bundle / MANIFEST / "below"):
        with pytest.raises(UsageError):
            export(small.settings, folder)
    for first in (0, 7):
        with pytest.raises(InvalidSetting):
            export(small.settings, tmp_path / "other", first=first)
    with pytest.raises(UnknownLedger):
        export(Settings(database_url=small.settings.database_url, name="nowhere"), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert verify_bundle(bundle).ok
    (tmp_path / "empty").mkdir()
    export(small.settings, tmp_path / "empty")
    assert verify_bundle(tmp_path / "empty").ok


def test_a_tampered_ledger_is_exported_as_it_stands(small: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    admin.execute("update ledger.audit_logs set actor = 'user:43' where position = 3")
    export(small.settings, tmp_path / "changed")
    assert said(verify_bundle(tmp_path / "changed")) == [(4, "broken_link")]
    admin.execute("delete from ledger.audit_logs where position = 3")
    export(small.settings, tmp_path / "deleted")
    assert said(verify_bundle(tmp_path / "deleted")) == [(3, "missing_entry")]
    with pytest.raises(ChainBroken, match="entry 3"):
        export(small.settings, tmp_path / "from", first=4)
    admin.execute("alter table ledger.audit_logs drop constraint entry_rules")
    admin.execute("update ledger.audit_logs set recorded_at = 'infinity' where position = 4")
    with pytest.raises(ChainBroken, match="entry 4"):
        export(small.settings, tmp_path / "infinity")
    admin.execute("delete from ledger.audit_logs where position = 4")
    admin.execute("""update ledger.audit_logs set after = E'{\n}' where position = 5""")
    with pytest.raises(ChainBroken, match="entry 5"):
        export(small.settings, tmp_path / "break")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "deleted"]


def lines_of(path: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


def in_both(folder: Path, change: Callable[[list[bytes]], object]) -> None:
    for name in (ENVELOPES, BODIES):
        lines_of(folder / name, change)


def rehash(folder: Path, **changes: Any) -> None:
    """Changes entry 5, the newest, and names its new hash as the head."""

    def change(lines: list[bytes]) -> None:
        said = json.loads(lines[4]) | changes
        lines[4] = json.dumps(said, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        manifest = json.loads((folder / MANIFEST).read_bytes()) | {"head": blake3(lines[4][:-1]).hexdigest()}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    lines_of(folder / ENVELOPES, change)


def swap(lines: list[bytes]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


FORGERIES: dict[str, tuple[Callable[[Path], object], list[tuple[int, str]]]] = {
    "a line removed": (
        lambda folder: in_both(folder, lambda lines: lines.pop(2)),
        [(3, "missing_entry"), (5, "tail_mismatch")],
    ),
    "the last line removed": (
        lambda folder: in_both(folder, lambda lines: lines.pop()),
        [(5, "missing_entry"), (5, "tail_mismatch"), (5, "tail_mismatch")],
    ),
    "two swapped": (
        lambda folder: in_both(folder, swap),
        [(2, "broken_link"), (2, "missing_entry"), (2, "time_regression"), (3, "missing_entry")],
    ),
    "a body removed": (
        lambda folder: lines_of(folder / BODIES, lambda lines: lines.__setitem__(2, b"\n")),
        [(3, "body_missing"), (5, "tail_mismatch")],
    ),
    "the erasure's body removed": (
        lambda folder: lines_of(folder / BODIES, lambda lines: lines.__setitem__(3, b"\n")),
        [(4, "body_missing"), (5, "tail_mismatch")],
    ),
    "bodies cut off": (
        lambda folder: (folder / BODIES).write_bytes((folder / BODIES).read_bytes()[:-5]),
        [(5, "body_mismatch")],
    ),
    "bodies end early": (lambda folder: lines_of(folder / BODIES, lambda lines: lines.pop()), [(5, "body_missing")]),
    "a body too many": (
        lambda folder: lines_of(folder / BODIES, lambda lines: lines.append(b"{}\n")),
        [(5, "body_mismatch")],
    ),
    "an envelope too many": (
        lambda folder: lines_of(folder / ENVELOPES, lambda lines: lines.append(b"{}\n")),
        [(5, "tail_mismatch"), (6, "hash_mismatch"), (6, "tail_mismatch")],
    ),
    "envelopes cut off": (
        lambda folder: (folder / ENVELOPES).write_bytes((folder / ENVELOPES).read_bytes()[:-1]),
        [(5, "hash_mismatch")],
    ),
    "not UTF-8": (
        lambda folder: lines_of(folder / ENVELOPES, lambda lines: lines.__setitem__(2, b"\xff" + lines[2])),
        [(3, "hash_mismatch"), (4, "broken_link")],
    ),
    "another ledger": (lambda folder: rehash(folder, ledger="other"), [(5, "hash_mismatch")]),
    "a time run back": (
        lambda folder: rehash(folder, recorded_at="2020-01-01T00:00:00.000000Z"),
        [(5, "time_regression")],
    ),
    "no day": (lambda folder: rehash(folder, recorded_at="2020-02-30T00:00:00.000000Z"), [(5, "hash_mismatch")]),
    "no fraction": (lambda folder: rehash(folder, recorded_at="2030-01-01T00:00:00Z"), [(5, "hash_mismatch")]),
    "no zone": (lambda folder: rehash(folder, recorded_at="2030-01-01T00:00:00.000000"), [(5, "hash_mismatch")]),
    "no year": (lambda folder: rehash(folder, occurred_at="0001-01-01T00:00:00+01:00"), [(5, "hash_mismatch")]),
    "an actor too long": (lambda folder: rehash(folder, actor="a" * 256), [(5, "rule_broken")]),
    "an empty action": (lambda folder: rehash(folder, action=""), [(5, "rule_broken")]),
    "U+0000": (lambda folder: rehash(folder, actor="\0"), [(5, "rule_broken")]),
    "half a resource": (lambda folder: rehash(folder, resource_id="inv_7"), [(5, "rule_broken")]),
    "a member too many": (lambda folder: rehash(folder, extra=1), [(5, "hash_mismatch")]),
    "version 2": (lambda folder: rehash(folder, v=2), [(5, "hash_mismatch")]),
    "an id in capitals": (lambda folder: rehash(folder, id=str(UUID(int=0xAB)).upper()), [(5, "hash_mismatch")]),
}  # fmt: skip


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The files of one bundle of five, once a test has made it."""
    return {}


@pytest.fixture
def copy(originals: dict[str, bytes], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle of five to forge."""
    if not originals:
        made: Path = request.getfixturevalue("bundle")
        originals.update({path.name: path.read_bytes() for path in made.iterdir()})
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, content in originals.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("case", FORGERIES)
def test_forged_bundles(copy: Path, case: str) -> None:
    forge, expected = FORGERIES[case]
    forge(copy)
    report = verify_bundle(copy)
    assert said(report) == expected
    assert not report.ok


def test_every_changed_byte_is_found(copy: Path) -> None:
    """Each byte of each file, changed into another one."""
    random_byte = random.Random(20).randrange
    assert verify_bundle(copy).ok
    for name in (ENVELOPES, BODIES, MANIFEST):
        content = (copy / name).read_bytes()
        for offset, byte in enumerate(content):
            forged = bytearray(content)
            forged[offset] = (byte + random_byte(1, 256)) % 256
            (copy / name).write_bytes(forged)
            try:
                assert not verify_bundle(copy).ok, f"byte {offset} of {name}: {byte} became {forged[offset]}"
            except EvidenceRefused as error:
                assert name == MANIFEST
                assert "\n" not in str(error)
        (copy / name).write_bytes(content)
    assert verify_bundle(copy).ok


def test_no_bundle_at_all(copy: Path, tmp_path: Path) -> None:
    """One clear line, whatever is wrong with the folder.

    No manifest at all is a wrong folder (exit 2). What lies in a bundle and is none any more does not verify (exit 1).
    """

    def refused(folder: Path, error: type[LedgerError] = EvidenceRefused) -> str:
        with pytest.raises(error) as caught:
            verify_bundle(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for folder in (tmp_path / "nowhere", tmp_path, copy / MANIFEST):
        assert "is no bundle: it has no manifest.json" in refused(folder, UsageError)
    for name in (ENVELOPES, BODIES, MANIFEST):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        assert name in refused(copy, UsageError if name == MANIFEST else EvidenceRefused)
        (copy / name).mkdir()
        assert name in refused(copy)
        (copy / name).rmdir()
        (copy / name).write_bytes(content)
    (copy / ENVELOPES).write_bytes(b"x" * 2_000_000)
    assert "a line of more than" in refused(copy)
    for content in (b"", b"{", b"\xff", b"[]", b"{}", (copy / MANIFEST).read_bytes().replace(b'": 1', b'": 2', 1)):
        (copy / MANIFEST).write_bytes(content)
        assert "is not a manifest" in refused(copy)


def test_the_newest_entries_may_be_wanted_while_the_ledger_grows(ledger: Ledger, tmp_path: Path) -> None:
    """Tail and entries come from one snapshot."""
    ledger.append_many(events(2_000))

    def append(done: int, total: int) -> None:
        ledger.append(event())

    manifest = export(ledger.settings, tmp_path / "bundle", progress=append)
    assert manifest.last == manifest.entries == 2_000
    assert ledger.tail().position == 2_002
    assert verify_bundle(tmp_path / "bundle").ok


def cloudtrail() -> Iterator[Event]:
    with gzip.open(CLOUDTRAIL) as lines:
        for line in lines:
            record = json.loads(line)
            identity = record["userIdentity"]
            kind = identity.get("type", "unknown")
            yield Event(
                actor=identity.get("arn") or identity.get("invokedBy") or kind,
                action=f"{record['eventSource'].partition('.')[0]}.{record['eventName']}",
                actor_type=kind,
                after=record.get("responseElements"),
                metadata=record,
                idempotency_key=record["eventID"],
                occurred_at=datetime.fromisoformat(record["eventTime"]),
            )


@pytest.mark.skipif(not CLOUDTRAIL.exists(), reason=f"needs the real records of {CLOUDTRAIL}, which are not shipped")
def test_cloudtrail_checks_out_with_hashing_alone(ledger: Ledger, tmp_path: Path) -> None:
    count, _ = ledger.append_many(cloudtrail())
    export(ledger.settings, tmp_path / "bundle")
    auditor(tmp_path / "bundle")
    assert count == verify_bundle(tmp_path / "bundle").entries == 2_900
    with (tmp_path / "bundle" / ENVELOPES).open("r+b") as envelopes:
        envelopes.seek(500_000)
        byte = envelopes.read(1)
        envelopes.seek(500_000)
        envelopes.write(b"x" if byte != b"x" else b"y")
    with pytest.raises((AssertionError, ValueError)):
        auditor(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "bundle")
