"""The README's code blocks work as they stand: Python in one go, commands on a ledger with a few entries."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger import Event, Ledger, embedded
from ledger.errors import InvalidSetting

USERS = ("app", "worker", "alice", "dpo", "ops")
README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """The README's code blocks of a language, each with the number of the line before it."""
    text = README.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in, with `.ledger` in it by and by."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    try:
        embedded.stop(tmp_path / ".ledger")
    except InvalidSetting as error:
        pytest.skip(f"needs the embedded servers: {error}")


def test_python_blocks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, source in blocks("python"):
        exec(compile("\n" * line + source, str(README), "exec"), namespace)  # noqa: S102 - the README's own code
    ledger = namespace["ledger"]
    assert isinstance(ledger, Ledger)
    ledger.close()
    assert "1 body_mismatch" in capsys.readouterr().out


def test_fifteen_lines_to_a_tampered_row() -> None:
    first = blocks("python")[0][1]
    assert len([line for line in first.splitlines() if line.strip()]) <= 15


def test_commands(folder: Path) -> None:
    command = str(Path(sys.executable).parent / "auditledger")
    with Ledger.open(home=".ledger") as ledger:
        with psycopg.connect(ledger.settings.database_url or "") as connection:
            for user in USERS:
                connection.execute(f"create role {user}")
        ledger.append(Event("user:42", "invoice.sent", "invoice", "inv_8", after={"status": "sent"}))
    lines = [line.partition("#")[0] for _, block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("auditledger ")]
    assert len(commands) >= 7
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    for arguments in [["run", "--once"], *commands]:
        done = subprocess.run([command, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
