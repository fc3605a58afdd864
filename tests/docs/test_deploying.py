"""The examples of docs/deploying.md: an application's files, its tests, the systemd unit, the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, testing
from tests.support.helpers import checked

DOCUMENT = Path(__file__).parents[2] / "docs/deploying.md"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """The code blocks by the name of the file that they begin with; those of commands by their language."""
    found = re.findall(
        r"^```(\w+)\n(?:# (\S+\.\w+)\n)?(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return {name or language: text for language, name, text in found}


@pytest.fixture
def folder(blocks: dict[str, str], tmp_path: Path) -> Path:
    """With the application's files."""
    for name, text in blocks.items():
        if name.endswith(".py"):
            (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder, env=kept | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("redis", [True, False], ids=["both servers", "Postgres alone"])
def test_the_applications_test_suite(
    folder: Path, servers: testing.TestServers, ledger: Ledger, admin: psycopg.Connection, redis: bool
) -> None:
    before = admin.execute("select datname from pg_database where datname not like 'auditledger_%'").fetchall()
    environment = {"LEDGER_TEST_DATABASE_URL": servers.database_url}
    if redis:
        environment["LEDGER_TEST_REDIS_URL"] = servers.redis_url
    decoy = ledger.settings.database_url or ""  # what a developer's shell may hold
    done = run(
        folder, "-m", "pytest", "-q", "-W", "error", LEDGER_DATABASE_URL=decoy, LEDGER_NAME="main", **environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert checked(ledger) == []
    assert admin.execute("select datname from pg_database where datname not like 'auditledger_%'").fetchall() == before


def test_the_test_suite_on_embedded_servers(folder: Path, _own_pattern: Path) -> None:
    done = run(folder, "-m", "pytest", "-q", "-W", "error", LEDGER_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_fixtures_can_be_imported(folder: Path, servers: testing.TestServers) -> None:
    text = (folder / "conftest.py").read_text()
    imported = "from ledger.testing import ledger, ledger_connection, ledger_database, ledger_recorder, ledger_servers"
    (folder / "conftest.py").write_text(text.replace('pytest_plugins = ["ledger.testing"]', imported))
    done = run(folder, "-m", "pytest", "-q", "-W", "error", LEDGER_TEST_DATABASE_URL=servers.database_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_serializable_is_tried_again(folder: Path, ledger: Ledger, admin: psycopg.Connection) -> None:
    admin.execute("create table invoices (id text primary key, status text)")
    script = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from serializable import send_serializable
url = os.environ["LEDGER_DATABASE_URL"]
with ThreadPoolExecutor(4) as executor:
    tries = list(executor.map(lambda n: send_serializable(url, f"inv_{n}", 100), range(16)))
sys.exit(0 if max(tries) > 1 else 5)
"""
    done = run(folder, "-c", script, LEDGER_DATABASE_URL=ledger.settings.database_url or "")
    assert done.returncode == 0, done.stderr
    assert len(checked(ledger)) == 16
    assert admin.execute("select count(*) from invoices").fetchone() == (16,)


def test_readiness(folder: Path, ledger: Ledger) -> None:
    script = "import sys, ready; sys.exit(0 if ready.is_ready() else 9)"
    assert run(folder, "-c", script, LEDGER_DATABASE_URL=ledger.settings.database_url or "").returncode == 0
    assert run(folder, "-c", script, LEDGER_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none").returncode == 9


def test_the_unit(blocks: dict[str, str], tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "auditledger.service"
    unit.write_text(blocks["auditledger.service"].replace("/opt/shop/bin/auditledger", str(BIN / "auditledger")))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "auditledger" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_completion(blocks: dict[str, str], tmp_path: Path) -> None:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-e", "-c", blocks["sh"]], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    for shell, says in (("bash", "complete -o"), ("zsh", "#compdef auditledger"), ("fish", "complete --no-files")):
        assert says in (tmp_path / f"auditledger.{shell}").read_text()
    asked = "source auditledger.bash; COMP_WORDS=(auditledger ver) COMP_CWORD=1; _auditledger_completion auditledger"
    asked += '; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", asked],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["verify"], done.stderr


def test_pytest_is_loaded_by_its_fixtures_alone() -> None:
    script = (
        "import sys, ledger, ledger.testing, ledger.testing.recorder, ledger.cli; sys.exit('pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_readme_links_it() -> None:
    assert "(docs/deploying.md)" in (DOCUMENT.parent.parent / "README.md").read_text("utf-8")
