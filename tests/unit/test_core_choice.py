"""Which core runs: another one than this version fits is not used, and the reason is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TELL = "from ledger.format.native import CORE, core; print(core is None, CORE)"


def told(folder: Path, **environment: str) -> str:
    """What a new process says of its core, with a folder before all others on its path."""
    inherited = {name: value for name, value in os.environ.items() if name != "LEDGER_NATIVE"}
    search = {"PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", _TELL], env=inherited | search | environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("INTERFACE, VERSION = 99, '9.9'", "auditledger-native 9.9 does not fit this version of auditledger"),
        ("", "auditledger-native without a version does not fit this version of auditledger"),
        ("import no_such_library", "auditledger-native cannot be loaded: No module named 'no_such_library'"),
        ("raise ImportError('GLIBC_9 not found')", "auditledger-native cannot be loaded: GLIBC_9 not found"),
    ],
)
def test_a_core_that_does_not_fit_is_not_used(tmp_path: Path, module: str, reason: str) -> None:
    (tmp_path / "ledger_native.py").write_text(module + "\n", encoding="utf-8")
    assert told(tmp_path) == f"True Python ({reason})"


def test_a_core_that_is_turned_off_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "ledger_native.py").write_text("raise SystemExit('loaded')\n", encoding="utf-8")
    assert told(tmp_path, LEDGER_NATIVE="0") == "True Python (LEDGER_NATIVE=0)"
