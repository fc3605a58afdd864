"""Folders of embedded servers, and the processes in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ledger import embedded

ROOT = os.geteuid() == 0
PROC = Path("/proc/self").exists()


def remove(home: Path) -> None:
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


def delete(folder: Path) -> None:
    """Delete a folder in which servers still run: what they write meanwhile is deleted too."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def pids(home: Path) -> tuple[int, int]:
    postgres = (home / "postgres/postmaster.pid").read_text().splitlines()[0]
    return int(postgres), int((home / "valkey/valkey.pid").read_text())
