"""Independent verifiers on a log of 100,000 leaves made by this package.

metamorphic-log (Rust) and tlog-scales (Python) are the extra `verifiers`; Go's golang.org/x/mod is a Debian package. A
verifier that is not installed is skipped, and says how to install it. Each is shown false ones too: one that accepts
everything would prove nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from ledger.tlog.merkle import leaf_hash
from ledger.tlog.tiles import ENTRIES, Tile
from tests.support.logs import INSTALL_PYTHON, Log, false

SIZE = 100_000
SIZES = (1, 2, 3, 255, 256, 257, 65_535, 65_536, 65_537, SIZE - 1, SIZE)
"""Around the edges of tiles of every level."""
INDEXES = (0, 1, 254, 255, 256, 65_535, 65_536, SIZE - 2, SIZE - 1)
PROGRAM = Path(__file__).parents[1] / "go/check.go"
GOPATH = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""
INSTALL_GO = "apt-get install golang-go golang-golang-x-mod-dev"


@cache
def log() -> Log:
    return Log(SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as a static web server would serve it."""
    folder = tmp_path_factory.mktemp("log")
    log().publish(folder)
    return folder


def leaves() -> Iterator[tuple[int, int]]:
    """Indexes, and the sizes of trees that hold them."""
    return ((index, size) for index in INDEXES for size in SIZES if index < size)


def growths() -> Iterator[tuple[int, int]]:
    return ((old, new) for old in SIZES for new in SIZES if old <= new)


# metamorphic-log


def test_metamorphic_log_accepts_checkpoints_and_proofs() -> None:
    other: Any = pytest.importorskip("metamorphic_log", reason=f"metamorphic-log is {INSTALL_PYTHON}")
    keys = [log().key.vkey]
    refused = other.VerifyError
    for size in SIZES:
        head = other.checkpoint_verify(log().note(size).decode(), keys)
        assert (head.origin, head.size, head.root) == (log().signer.name, size, log().checkpoint(size).root)
    for index, size in leaves():
        note, leaf, path = log().note(size).decode(), leaf_hash(log().envelopes[index]), log().path(index, size)
        other.checkpoint_verify_inclusion(note, keys, index, leaf, path)
        if path:
            with pytest.raises(refused):
                other.checkpoint_verify_inclusion(note, keys, index, leaf, false(path))
    for old, new in growths():
        notes, path = (log().note(old).decode(), log().note(new).decode()), log().consistency(old, new)
        other.checkpoint_verify_consistency(*notes, keys, path)
        if path:
            with pytest.raises(refused):
                other.checkpoint_verify_consistency(*notes, keys, false(path))
    with pytest.raises(refused):
        other.checkpoint_verify(log().note().decode().replace(str(SIZE), str(SIZE + 1)), keys)


# tlog-scales


def test_tlog_scales_accepts_tiles_entries_cosignatures_and_proofs(folder: Path) -> None:
    tlog: Any = pytest.importorskip("tlog_scales.tlog", reason=f"tlog-scales is {INSTALL_PYTHON}")
    signing: Any = import_module("tlog_scales.signing")
    backend = import_module("tlog_scales.backend").LocalBackend(folder)
    reader = import_module("tlog_scales.reader").TilesReader(backend)
    checkpoint = reader.get_checkpoint()
    for key in (log().key, *log().witnesses):
        checkpoint.verify(signing.Vkey.from_string(key.vkey))
    assert (checkpoint.origin, checkpoint.size) == (log().signer.name, SIZE)
    assert reader.calculate_root_hash() == checkpoint.root_hash
    assert [reader.get_entry(index) for index in INDEXES] == [log().envelopes[index] for index in INDEXES]
    for index, size in leaves():
        path, root = log().path(index, size), log().checkpoint(size).root
        assert reader.get_inclusion_proof(index, size).node_hashes == path
        tlog.InclusionProof(index, size, path).check(leaf_hash(log().envelopes[index]), root)
        if path:
            with pytest.raises(tlog.InclusionProofInvalid):
                tlog.InclusionProof(index, size, false(path)).check(leaf_hash(log().envelopes[index]), root)
    for old, new in growths():
        path, roots = log().consistency(old, new), (log().checkpoint(old).root, log().checkpoint(new).root)
        assert reader.get_consistency_proof(old, new).node_hashes == path
        tlog.ConsistencyProof(old, new, path).check(*roots)
        if path:
            with pytest.raises(tlog.ConsistencyProofInvalid):
                tlog.ConsistencyProof(old, new, false(path)).check(*roots)
    forged = tlog.Checkpoint.from_text(log().note().decode().replace(str(SIZE), str(SIZE + 1)))
    for key in (log().key, *log().witnesses):
        with pytest.raises(InvalidSignature):
            forged.verify(signing.Vkey.from_string(key.vkey))


# Go's golang.org/x/mod

Checker = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def check(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """The program of tests/go, compiled: given its claims, it checks the folder and them."""
    compiler = shutil.which("go")
    if compiler is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip(f"needs Go and its x/mod; on Debian: {INSTALL_GO}")
    work = tmp_path_factory.mktemp("go")
    program, claims = work / "check", work / "claims.json"
    settings = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(work / "cache"), "CGO_ENABLED": "0"}
    build = [compiler, "build", "-o", str(program), str(PROGRAM)]
    subprocess.run(build, check=True, env=os.environ | settings, cwd=work, timeout=200)

    def run(said: str) -> subprocess.CompletedProcess[str]:
        claims.write_text(said)
        arguments = [str(program), str(folder), log().key.vkey, str(claims)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=200)

    return run


def inclusion(index: int, size: int) -> dict[str, Any]:
    """A claim as the Go program reads it."""
    leaf, root = log().envelopes[index].decode(), log().checkpoint(size).root
    return {
        "Index": index,
        "Size": size,
        "Leaf": leaf,
        "Root": text(root),
        "Path": [*map(text, log().path(index, size))],
    }


def consistency(old: int, new: int) -> dict[str, Any]:
    roots = {"OldRoot": text(log().checkpoint(old).root), "NewRoot": text(log().checkpoint(new).root)}
    return {"Old": old, "New": new, "Path": [*map(text, log().consistency(old, new))]} | roots


def text(data: bytes) -> str:
    return b64encode(data).decode()


def test_go_accepts_checkpoint_tiles_entries_and_proofs(check: Checker) -> None:
    claims = {"Inclusion": list(starmap(inclusion, leaves())), "Consistency": list(starmap(consistency, growths()))}
    result = check(json.dumps(claims))
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) == sum(map(len, claims.values())) > 100


@pytest.mark.parametrize("kind", ("Inclusion", "Consistency"))
def test_go_refuses_a_false_proof(check: Checker, kind: str) -> None:
    claim = inclusion(256, SIZE) if kind == "Inclusion" else consistency(257, SIZE)
    claim["Path"].reverse()
    result = check(json.dumps({kind: [claim]}))
    assert result.returncode == 1
    assert "invalid transparency proof" in result.stderr


@pytest.mark.parametrize(
    ("path", "refusal"),
    (
        ("checkpoint", "invalid signature for key"),
        (Tile(ENTRIES, 3).path, "the entries' root is"),
        (Tile(0, 390, 160).path, "is not the entries'"),
        (Tile(1, 1, 134).path, "is not the entries'"),
    ),
)
def test_go_refuses_what_was_changed(check: Checker, folder: Path, path: str, refusal: str) -> None:
    content = (folder / path).read_bytes()
    try:
        (folder / path).write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        result = check("{}")
    finally:
        (folder / path).write_bytes(content)
    assert result.returncode == 1
    assert refusal in result.stderr
