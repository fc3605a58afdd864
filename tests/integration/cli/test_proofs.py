"""check: proofs and checkpoints without a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.cli import main
from tests.support.cli import run
from tests.support.logs import Log

SIZE = 300


@cache
def log() -> Log:
    return Log(SIZE)


def keys(*, witnesses: bool = True) -> list[str]:
    cosigners = [f"--witness={witness.vkey}" for witness in log().witnesses] if witnesses else []
    return [f"--key={log().key.vkey}", *cosigners]


FILES: dict[str, Callable[[], bytes]] = {
    "entry": lambda: log().proof(41).encode(),
    "entry with body": lambda: log().proof(41, body=True).encode(),
    "consistency": lambda: log().consistency_proof(200, SIZE).encode(),
    "checkpoint": lambda: log().note(),
}


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path: Path = tmp_path / "evidence"
    path.write_bytes(FILES[request.param]())
    return path


@pytest.mark.parametrize("file", ["entry with body"], indirect=True)
def test_check_a_proof(file: Path) -> None:
    ran = run("check", str(file), *keys())
    envelope, body, verdict = ran.out.splitlines()
    assert ran.code == 0 and envelope == log().envelopes[41].decode() and body == log().body(41).decode()
    assert verdict == (
        "OK, entry 42 of ledger main is in the checkpoint of log.example/audit/main at 300 entries, "
        "cosigned by witness1.example, witness2.example"
    )
    checkpoint = log().checkpoint()
    expected = {
        "kind": "proof", "ok": True, "ledger": "main", "position": 42, "origin": "log.example/audit/main", "size": SIZE,
        "root": checkpoint.root.hex(), "witnesses": ["witness1.example", "witness2.example"],
        "envelope": json.loads(envelope), "body": json.loads(body),
    }  # fmt: skip
    assert run("--json", "check", str(file), *keys()).json == expected
    assert run("check", "-", "--json", *keys(), stdin=file.read_bytes()).json == expected
    assert run("check", str(file), *keys(witnesses=False), "--json").json == expected | {"witnesses": []}


@pytest.mark.parametrize("file", ["consistency"], indirect=True)
def test_check_consistency(file: Path) -> None:
    at = "the checkpoint of log.example/audit/main at"
    assert run("check", str(file), *keys()).out == f"OK, {at} 300 entries continues {at} 200 entries\n"
    ran = run("check", str(file), *keys(), "--json").json
    assert (ran["kind"], ran["ok"], ran["old"]["size"], ran["new"]["size"]) == ("consistency", True, 200, SIZE)
    assert ran["old"]["root"] == log().checkpoint(200).root.hex()


@pytest.mark.parametrize("file", ["checkpoint"], indirect=True)
def test_check_a_checkpoint(file: Path) -> None:
    root = log().checkpoint().root.hex()
    assert run("check", str(file), *keys(witnesses=False)).out == (
        f"OK, the checkpoint of log.example/audit/main at 300 entries is signed; root {root}\n"
    )
    assert run("check", str(file), *keys(), "--json").json == {
        "kind": "checkpoint", "ok": True, "ledger": "main", "origin": "log.example/audit/main", "size": SIZE,
        "root": root, "witnesses": ["witness1.example", "witness2.example"],
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, indirect=True)
def test_another_key_or_too_few_witnesses_exit_1(file: Path) -> None:
    other = Log(1, "other")
    for arguments in (
        [f"--key={other.key.vkey}"],
        [*keys(witnesses=False), f"--witness={other.key.cosigner.vkey}"],
        [*keys(), f"--witness={other.key.cosigner.vkey}"],
    ):
        ran = run("check", str(file), *arguments, "--json")
        assert ran.code == 1 and ran.error and not ran.out
    assert run("check", str(file), *keys(), f"--witness={other.key.cosigner.vkey}", "--quorum=2").code == 0


@pytest.mark.parametrize("file", ["entry"], indirect=True)
def test_wrong_use(file: Path, tmp_path: Path) -> None:
    key = log().key.vkey
    for arguments in (
        [str(file)],
        [str(file), "--key=nonsense"],
        [str(file), f"--key={key}", "--quorum=1"],
        [str(file), f"--key={key}", f"--witness={key}"],
        [str(file), f"--witness={log().witnesses[0].vkey}"],
        [str(tmp_path / "none"), f"--key={key}"],
        [str(tmp_path), f"--key={key}"],
        ["/dev/zero", f"--key={key}"],
    ):
        ran = run("check", *arguments)
        assert ran.code == 2 and ran.error and not ran.out, arguments


def test_what_is_none_of_the_three(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"hello\n", b"c2sp.org/tlog-proof@v2\n", bytes(range(256)) * 20):
        (tmp_path / "file").write_bytes(content)
        ran = run("check", str(tmp_path / "file"), *keys())
        assert ran.code == 2 and re.search("is empty|is neither a proof nor a checkpoint", ran.error)


@pytest.mark.parametrize("kind", FILES)
def test_every_change_of_a_single_bit_exits_1(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line's own code; unit/test_proof_files.py tries every bit of the same files."""
    data, file = FILES[kind](), tmp_path / "evidence"
    file.write_bytes(data)
    arguments = ["check", str(file), *keys()]
    assert main(arguments) == 0

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 8 * len(data) - 1))
    def change(bit: int) -> None:
        at = bit // 8
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :])
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        assert (code, out) == (1, "") and err.startswith("error: "), f"bit {bit % 8} of byte {at} can be changed"

    change()
