"""The import contract of pyproject.toml: the tree keeps it, and each of its rules fails when it is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = DOWN, DRIVERS, PUBLIC, CYCLES = tuple(
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and their contract."""
    for package in ("ledger", "projections/ledger_projections"):
        name = package.rpartition("/")[2]
        shutil.copytree(ROOT / package, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(tree: Path) -> set[str]:
    """The names of the rules that the tree breaks."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "1000"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    results = {rule: re.search(rf"^{re.escape(rule)} (KEPT|BROKEN)", done.stdout, re.MULTILINE) for rule in RULES}
    failed = {rule for rule, result in results.items() if result is not None and result[1] == "BROKEN"}
    assert None not in results.values(), done.stdout + done.stderr
    assert bool(failed) == (done.returncode != 0), done.stdout + done.stderr
    return failed


def test_the_tree_keeps_every_rule(tree: Path) -> None:
    assert broken(tree) == set()


def test_a_new_file_in_a_room_needs_no_change_of_the_contract(tree: Path) -> None:
    (tree / "ledger/store/snapshots.py").write_text("from ledger.drivers.run import drive\n__all__ = ['drive']\n")
    assert broken(tree) == set()


@pytest.mark.parametrize(
    ("rule", "file", "line"),
    [
        pytest.param(DOWN, "ledger/store/ledgers.py", "from ledger.stream import wire", id="a room imports one above"),
        pytest.param(
            DOWN, "ledger/format/chain.py", "from ledger.tlog import merkle", id="a room imports its neighbour"
        ),
        pytest.param(DOWN, "ledger/capture/context.py", "from ledger import client", id="capture imports the client"),
        pytest.param(DOWN, "ledger/cli/commands/doctor.py", "from ledger import testing", id="neighbours at the top"),
        pytest.param(DOWN, "ledger/attic/__init__.py", "", id="a room that no layer names"),
        pytest.param(DOWN, "ledger/leftover.py", "", id="a file beside the rooms that no layer names"),
        pytest.param(DRIVERS, "ledger/store/ledgers.py", "import psycopg", id="psycopg outside of drivers"),
        pytest.param(DRIVERS, "ledger/cli/commands/status.py", "import redis", id="redis outside of drivers"),
        pytest.param(DRIVERS, "ledger/client.py", "import psycopg_pool", id="psycopg_pool outside of drivers"),
        pytest.param(PUBLIC, "ledger_projections/diff.py", "from ledger.store import ledgers", id="a view looks below"),
        pytest.param(
            CYCLES, "ledger/stream/wire.py", "from ledger.stream import relay", id="two files import each other"
        ),
    ],
)
def test_each_rule_fails_when_it_is_broken(tree: Path, rule: str, file: str, line: str) -> None:
    path = tree / file
    path.parent.mkdir(exist_ok=True)
    text = path.read_text() if path.exists() else '"""New."""\n'
    path.write_text(f"{text}\n{line}\n")
    assert rule in broken(tree)
