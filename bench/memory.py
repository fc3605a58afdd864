"""The memory of a process and its children while it runs."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.05
_MIB = 1024 * 1024


class CommandFailed(Exception):
    """It did not end with 0."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well. output: its stdout.

    rss: the highest sum over its process tree, in MiB; a page that processes share counts for each of them.
    pss: the same with shared pages shared out; None where the system does not tell.
    """

    seconds: float
    rss: float
    pss: float | None
    output: str


def run(command: Sequence[str], environment: Mapping[str, str], *, watch: bool = True) -> Ran:
    """Runs a command to its end. watch: sample its memory, which slows it a little. Raises CommandFailed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak = _Peak(process.pid)
    if watch:
        peak.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - began
    peak.ended.set()
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command[-4:])} ended with {process.returncode}: {errors.strip()[-500:]}")
    return Ran(seconds, peak.rss / _MIB, peak.pss / _MIB if peak.pss else None, output)


class _Peak(threading.Thread):
    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.ended = threading.Event()
        self.rss = 0
        self.pss = 0

    def run(self) -> None:
        while not self.ended.wait(_EVERY):
            rss, pss = _sizes(self.root)
            self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)


def _sizes(root: int) -> tuple[int, int]:
    """RSS and PSS of a process and all its descendants, in bytes."""
    table = subprocess.run(["ps", "-axo", "pid=,ppid=,rss="], capture_output=True, text=True, check=False).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    family = _family(root, ((pid, parent) for pid, parent, _ in rows))
    return sum(rss * 1024 for pid, _, rss in rows if pid in family), sum(map(_pss, family))


def _family(root: int, parents: Iterable[tuple[int, int]]) -> set[int]:
    known = list(parents)
    family = {root}
    while grown := {pid for pid, parent in known if parent in family} - family:
        family |= grown
    return family


def _pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
