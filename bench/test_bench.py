"""The bench runs and its checks hold. No time is asserted: that is for `make bench` on a quiet machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.figures import FIGURES
from bench.measure import Bound, Row
from ledger import testing

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    testing.given() is not None or testing.wants_docker(), reason="the bench measures embedded servers of its own"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run of everything wrote."""
    out = tmp_path_factory.mktemp("bench")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    command = [sys.executable, "-m", "bench", "--short", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (file,) = out.glob("*.json")
    (table,) = out.glob("*.md")
    assert table.read_text(encoding="utf-8") == done.stdout
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def test_a_short_run_measures_every_figure(found: dict[str, Any]) -> None:
    """Each has a row, or says why it was left out; none failed."""
    measured = {row["figure"] for row in found["figures"]}
    assert measured | found["skipped"].keys() >= FIGURES.keys()
    assert found["errors"] == {}
    assert all(row["measured"] > 0 and len(row["rounds"]) >= 1 for row in found["figures"])


def test_every_figure_ends_in_a_verification(found: dict[str, Any]) -> None:
    """And in a comparison of counts."""
    verified = {
        check.partition(":")[0].split(" at ")[0].split(",")[0] for check in found["checks"] if "verified" in check
    }
    assert verified == {row["figure"] for row in found["figures"]}


def test_the_servers_were_durable(found: dict[str, Any]) -> None:
    """What is measured is what is acknowledged only once it is on the disk."""
    postgres = found["machine"]["postgres"]
    assert (postgres["fsync"], postgres["synchronous_commit"]) == ("on", "on")
    assert found["machine"]["valkey"]["appendonly"] == "yes"


@pytest.mark.parametrize(
    ("bound", "rounds", "verdict"),
    [
        (Bound(">=", 0.9), [0.5, 0.9, 2.0], "pass"),
        (Bound(">=", 0.9), [0.5, 0.89, 2.0], "MISS"),
        (Bound("<=", 1.3), [9.0, 1.3, 1.0], "pass"),
        (Bound("<=", 1.3), [9.0, 1.31, 1.0], "MISS"),
        (None, [1.0], ""),
    ],
)
def test_the_median_of_the_rounds_decides(bound: Bound | None, rounds: list[float], verdict: str) -> None:
    """Not the best of them."""
    assert Row("figure", "what", rounds, bound).verdict == verdict
