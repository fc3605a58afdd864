"""Waits for the end of the simulation, however that comes, and removes what it left: servers, mounts, its folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.simulation.world import family, send


def start(base: Path) -> subprocess.Popen[bytes]:
    """Ends, once whoever started it has ended or closed its stdin."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, base],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )


def _clean(base: Path) -> None:
    mark = f"auditledger.folder={base}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "cmdline").read_bytes():
                send(family(int(process.name)), signal.SIGKILL)
    mounts = Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []
    for mount in [line.split()[1] for line in mounts]:
        if mount.startswith(f"{base}/"):
            subprocess.run(["umount", "-l", mount], check=False)
    shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.read(0, 1)
    _clean(Path(sys.argv[1]))
