"""What actors write down, line by line, so that it is there after kill -9; and who reads it.

Times (`t`) are CLOCK_MONOTONIC's, the same for all processes of a machine, and nobody's to step.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Restore(NamedTuple):
    """At a time the database was set back: entries after `base` are lost, or others, by definition."""

    t: float
    base: int


class Notes:
    """A file that one thread appends lines to, each in one write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, **fields: Any) -> None:
        os.write(self._file, json.dumps({"t": time.monotonic()} | fields).encode() + b"\n")

    def lines(self) -> list[Line]:
        return lines(self.path)


def lines(path: Path) -> list[Line]:
    """All whole lines. A torn last one was never written down."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def all_lines(folder: Path) -> Iterator[tuple[str, list[Line]]]:
    """Of each file in a folder: its name and lines."""
    for path in sorted(folder.glob("*")):
        yield path.name, lines(path)


def standing(some: Iterable[Line], restores: Sequence[Restore]) -> list[Line]:
    """Those whose `position` no later restore took away."""
    return [
        line
        for line in some
        if "position" in line and all(line["position"] <= each.base for each in restores if each.t > line["t"])
    ]


def restores(folder: Path) -> list[Restore]:
    return [Restore(line["t"], line["base"]) for line in lines(folder / "restores")]
