"""The tlog-tiles layout beside a bundle: its files, and that every change is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, testing
from ledger.cli import main
from ledger.errors import EvidenceRefused, InvalidSetting, NoteRefused, UsageError
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.export.manifest import ENVELOPES
from ledger.export.public_log import CHECKPOINT
from ledger.settings import Settings
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.tiles import bundles_of, decode_bundle, tiles_of
from ledger.verify.checkpoints import Trust
from tests.support.cli import run
from tests.support.helpers import erase, events
from tests.support.logs import Log
from tests.support.signed_checkpoints import COSIGNER, KEY, SIGNER, TRUST, Said, Superuser, checkpoint, said

LAST, SIGNED = 620, 600
Notes = dict[int, bytes]


@pytest.fixture(scope="module")
def url(servers: testing.TestServers, template: str) -> Iterator[str]:
    """A ledger of 620 entries, of which 600 are signed."""
    with testing.database(servers.database_url, template=template) as url:
        yield url


@pytest.fixture(scope="module")
def notes(url: str) -> Notes:
    with Ledger.open(database_url=url) as ledger, psycopg.connect(url, autocommit=True) as connection:
        ledger.append_many(events(SIGNED - 1))
        erase(connection, 10)
        first = checkpoint(connection, witnessed=True)
        ledger.append_many(events(LAST - SIGNED))
    return {SIGNED: first}


@pytest.fixture(scope="module")
def exported(url: str, notes: Notes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    export(Settings(database_url=url), folder)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to forge."""
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_files_are_those_of_a_public_log(exported: Path, notes: Notes) -> None:
    """Compared with a tree of the same envelopes, grown one by one with the pure modules."""
    log = Log()
    envelopes = (exported / ENVELOPES).read_bytes().splitlines()[:SIGNED]
    log.grow(envelopes)
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    expected = [*tiles_of(SIGNED), *bundles_of(SIGNED)]
    assert found == {"checkpoint", "envelopes.jsonl", "bodies.jsonl", "manifest.json"} | {t.path for t in expected}
    for tile in expected:
        assert (exported / tile.path).read_bytes() == log.content(tile), tile.path
    assert (exported / CHECKPOINT).read_bytes() == notes[SIGNED]
    assert decode_bundle((exported / "tile/entries/000").read_bytes()) == envelopes[:256]
    assert (exported / "tile/entries/002.p/88").exists() and (exported / "tile/1/000.p/2").exists()


def test_a_sound_bundle(exported: Path, notes: Notes) -> None:
    assert verify_bundle(exported).findings == []
    assert verify_bundle(exported, trust=TRUST).findings == []
    given = [("file", notes[SIGNED])]
    assert verify_bundle(exported, checkpoints=given, trust=Trust((KEY,), (COSIGNER,), 1)).findings == []
    ran = run("verify", "--bundle", str(exported), "--key", KEY.vkey, "--witness", COSIGNER.vkey)
    assert ran.code == 0 and ran.out.startswith("OK, ledger main: 620 entries")


def test_without_a_checkpoint_there_is_no_tree(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    ledger.append_many(events(3))
    export(ledger.settings, tmp_path / "bundle")
    names = ["bodies.jsonl", "envelopes.jsonl", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == names
    assert verify_bundle(tmp_path / "bundle").ok
    with pytest.raises(EvidenceRefused, match="nothing that a key could have signed"):
        verify_bundle(tmp_path / "bundle", trust=TRUST)
    note = checkpoint(admin)
    assert verify_bundle(tmp_path / "bundle", trust=TRUST, checkpoints=[("file", note)]).ok
    export(ledger.settings, tmp_path / "part", first=2)
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == names
    with pytest.raises(UsageError, match="begins later"):
        verify_bundle(tmp_path / "part", trust=TRUST, checkpoints=[("file", note)])
    (tmp_path / "part" / CHECKPOINT).write_bytes(note)
    assert said(verify_bundle(tmp_path / "part", trust=TRUST)) == [(None, "tree_mismatch")]


@pytest.mark.parametrize("size", (0, 1, 256, 257, 512))
def test_sizes(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, size: int) -> None:
    ledger.append_many(events(size))
    checkpoint(admin)
    export(ledger.settings, tmp_path / "bundle")
    files = [path for path in (tmp_path / "bundle").rglob("tile/**/*") if path.is_file()]
    assert len(files) == len([*tiles_of(size), *bundles_of(size)])
    assert verify_bundle(tmp_path / "bundle", trust=TRUST).findings == []


def test_a_ledger_that_is_not_what_was_signed_is_exported_as_it_stands(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path
) -> None:
    ledger.append_many(events(300))
    checkpoint(admin)
    superuser = Superuser(admin)
    superuser.rewrite(200, actor="user:43")
    export(ledger.settings, tmp_path / "rewritten")
    assert said(verify_bundle(tmp_path / "rewritten", trust=TRUST)) == [(300, "rewritten")]
    superuser.cut(100)
    export(ledger.settings, tmp_path / "cut")
    assert (300, "truncated") in said(verify_bundle(tmp_path / "cut", trust=TRUST))
    assert said(verify_bundle(tmp_path / "cut")) == said(verify_bundle(tmp_path / "cut", trust=TRUST))


def test_another_ledgers_checkpoint_or_key(bundle: Path, notes: Notes) -> None:
    with pytest.raises(NoteRefused, match="file: "):
        verify_bundle(
            bundle, checkpoints=[("file", notes[SIGNED])], trust=Trust((FileSigner(SIGNER.name, bytes(32)).verifier,))
        )
    with pytest.raises(InvalidSetting, match="without the key"):
        verify_bundle(bundle, checkpoints=[("file", notes[SIGNED])])
    assert said(verify_bundle(bundle, trust=Trust((FileSigner(SIGNER.name, bytes(32)).verifier,)))) == [
        (None, "tree_mismatch")
    ]
    assert said(
        verify_bundle(
            bundle, trust=Trust((KEY,), (FileSigner("other.example", bytes(32)).verifier.cosigner, COSIGNER), 2)
        )
    ) == [(None, "tree_mismatch")]
    (bundle / CHECKPOINT).write_bytes(notes[SIGNED].replace(b"audit/main", b"audit/other"))
    assert said(verify_bundle(bundle)) == [(None, "tree_mismatch")]


FORGERIES: dict[str, tuple[Callable[[Path], object], Said]] = {
    "a tile removed": (lambda folder: (folder / "tile/0/001").unlink(), [(257, "tree_mismatch")]),
    "a partial tile removed": (lambda folder: (folder / "tile/0/002.p/88").unlink(), [(513, "tree_mismatch")]),
    "an upper tile removed": (lambda folder: (folder / "tile/1/000.p/2").unlink(), [(None, "tree_mismatch")]),
    "a bundle of entries removed": (
        lambda folder: (folder / "tile/entries/000").unlink(),
        [(1, "tree_mismatch")],
    ),
    "all tiles removed": (
        lambda folder: shutil.rmtree(folder / "tile"),
        [*[(at, "tree_mismatch") for at in (1, 257, 513) for _ in range(2)], (None, "tree_mismatch")],
    ),
    "a tile too many": (
        lambda folder: shutil.copy(folder / "tile/0/001", folder / "tile/0/003"),
        [(None, "tree_mismatch")],
    ),
    "a partial tile too many": (
        lambda folder: shutil.copy(folder / "tile/0/002.p/88", folder / "tile/0/002.p/87"),
        [(None, "tree_mismatch")],
    ),
    "a file that is no tile": (lambda folder: (folder / "tile/readme").touch(), [(None, "tree_mismatch")]),
    "a tile longer": (
        lambda folder: (folder / "tile/0/000").write_bytes((folder / "tile/0/000").read_bytes() + b"\0"),
        [(1, "tree_mismatch")],
    ),
    "the checkpoint removed": (lambda folder: (folder / CHECKPOINT).unlink(), [(None, "tree_mismatch")]),
    "the checkpoint emptied": (lambda folder: (folder / CHECKPOINT).write_bytes(b""), [(None, "tree_mismatch")]),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGERIES)
def test_forged_layouts(bundle: Path, case: str) -> None:
    forge, expected = FORGERIES[case]
    forge(bundle)
    assert said(verify_bundle(bundle)) == expected


def test_every_change_of_a_single_bit_exits_1(exported: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of any file of a bundle with its public log, through the command line's own code."""
    files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
    contents = {name: (exported / name).read_bytes() for name in files}
    arguments = ["verify", "--bundle", str(bundle), "--key", KEY.vkey, "--witness", COSIGNER.vkey]
    assert main(arguments) == 0

    @settings(max_examples=120, deadline=None)
    @given(
        st.sampled_from(files).flatmap(
            lambda name: st.tuples(st.just(name), st.integers(0, 8 * len(contents[name]) - 1))
        )
    )
    def change(place: tuple[Path, int]) -> None:
        name, bit = place
        data = contents[name]
        at = bit // 8
        (bundle / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :])
        code = main(arguments)
        (bundle / name).write_bytes(data)
        out, err = capsys.readouterr()
        assert code == 1, f"bit {bit % 8} of byte {at} of {name}"
        assert "DOES NOT VERIFY" in out or err.startswith("error: ")

    change()
