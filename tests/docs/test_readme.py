"""The README's code blocks, run unchanged: each alone in a new folder, and all in order in one folder.

Each runs as its reader runs it: a file for Python, a file for sh, a process of its own, `auditledger` on the path.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from ledger import Ledger, embedded
from ledger.errors import InvalidSetting

USERS = ("app", "billing", "worker", "alice", "dpo", "ops")
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BIN = Path(sys.executable).parent
RUN = {"python": [sys.executable], "sh": ["sh", "-eu"]}


class Block(NamedTuple):
    """A code block: its language, the number of its first line, its text."""

    language: str
    line: int
    source: str


def blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    found = re.finditer(r"^```([a-z]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], text[: match.start(2)].count("\n") + 1, match[2]) for match in found]


RUNNABLE = [block for block in blocks() if block.language in RUN and not block.source.startswith("make ")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to stand in, with `.ledger` in it by and by."""
    (tmp_path / "here").mkdir()
    yield tmp_path / "here"
    try:
        embedded.stop(tmp_path / "here" / ".ledger")
    except InvalidSetting as error:
        pytest.skip(f"needs the embedded servers: {error}")


def ran(block: Block, folder: Path) -> str:
    """Its output, once it ended well."""
    file = folder.parent / f"line_{block.line}.{block.language}"
    file.write_text(block.source, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [*RUN[block.language], file], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, (block, done.stdout, done.stderr)
    return done.stdout


def test_every_language_is_known() -> None:
    assert {block.language for block in blocks()} == {*RUN, "text"}
    assert len(RUNNABLE) >= 11


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: f"{block.language}-{block.line}")
def test_each_alone(block: Block, folder: Path) -> None:
    ran(block, folder)


def test_all_in_order(folder: Path) -> None:
    outputs = [ran(block, folder) for block in RUNNABLE]
    assert outputs[0] == "1 body_mismatch\n"
    with Ledger.open(home=folder / ".ledger") as ledger:
        assert ledger.verify().ok


def test_make_has_those_targets() -> None:
    [block] = [block for block in blocks() if block.source.startswith("make ")]
    for line in block.source.splitlines():
        subprocess.run(["make", "-n", *line.partition("#")[0].split()[1:]], cwd=ROOT, capture_output=True, check=True)


def test_fifteen_lines_to_a_tampered_row() -> None:
    assert len([line for line in RUNNABLE[0].source.splitlines() if line.strip()]) <= 15


def test_the_grants(folder: Path) -> None:
    """They need users, which are the reader's."""
    with (
        Ledger.open(home=folder / ".ledger") as ledger,
        psycopg.connect(ledger.settings.database_url or "") as superuser,
    ):
        for user in USERS:
            superuser.execute(f"create role {user}")
    [block] = [block for block in blocks() if "auditledger grant" in block.source]
    commands = [shlex.split(line, comments=True) for line in block.source.splitlines()]
    assert {command[3] for command in commands[1:]} == set(USERS)
    ran(Block("sh", block.line, block.source), folder)
