"""What was survived: a table of faults, the stalls of appends, and how long it took to catch up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.simulation.episode import Played
from tests.simulation.faults import HOSTILE, POOLER, POSTGRES, REDIS
from tests.simulation.notes import all_lines

KINDS = ("lost", "doubled", "misordered", "false", "other")
QUICK = ("single", "keyed")
"""Voices whose waiting is that of one append, and of nothing else."""


class Report:
    """Adds up the episodes of all seeds."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.wrong: dict[str, Counter[str]] = {}
        self.seeds: list[int] = []
        self.failed: list[int] = []
        self.episodes = 0
        self.entries = 0
        self.took: dict[str, list[float]] = {"calm": [], "redis": []}
        self.caught_up: list[float] = []
        self.skipped: set[str] = set()

    def add(self, seed: int, played: Played, folder: Path) -> None:
        self.episodes += 1
        if seed not in self.seeds:
            self.seeds.append(seed)
        self.injected += played.counts
        self.skipped.update(played.left_out)
        for violation in played.violations:
            if seed not in self.failed:
                self.failed.append(seed)
            for fault in played.counts or {"(no fault)": 1}:
                self.wrong.setdefault(fault, Counter())[violation.kind] += 1
        self.caught_up.append(played.caught_up)
        if played.episode.kind in self.took:
            self.took[played.episode.kind] += _waits(played, folder)

    def table(self) -> Iterator[str]:
        """Lines of text."""
        yield f"{'fault':<42}{'injected':>9}{'lost':>7}{'doubled':>9}{'misordered':>12}{'false':>7}{'other':>7}"
        for fault in sorted({*self.injected, *self.wrong}):
            wrong = self.wrong.get(fault, Counter())
            row = f"{fault:<42}{self.injected[fault]:>9}"
            yield row + "".join(f"{wrong[kind]:>{width}}" for kind, width in zip(KINDS, (7, 9, 12, 7, 7), strict=True))
        never = sorted(_all_faults() - set(self.injected))
        yield (
            f"{self.injected.total()} faults in {self.episodes} episodes of {len(self.seeds)} seeds, "
            f"{self.entries} entries; failed seeds: {', '.join(map(str, self.failed)) or 'none'}"
        )
        if never:
            yield f"never hit: {', '.join(never)}"
        yield from (f"left out: {each}" for each in sorted(self.skipped))
        for kind, waits in self.took.items():
            if waits:
                yield f"appends in {kind} episodes: {_spread(waits)}"
        if self.caught_up:
            yield f"all caught up after a heal within {max(self.caught_up):.1f} s"

    def json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "failed": self.failed,
            "episodes": self.episodes,
            "entries": self.entries,
            "faults": {
                fault: {"injected": self.injected[fault]}
                | {kind: self.wrong.get(fault, Counter())[kind] for kind in KINDS}
                for fault in sorted({*self.injected, *self.wrong})
            },
            "never": sorted(_all_faults() - set(self.injected)),
            "left_out": sorted(self.skipped),
            "append_seconds": {kind: _percentiles(waits) for kind, waits in self.took.items() if waits},
            "caught_up_seconds": max(self.caught_up, default=0.0),
        }


def _all_faults() -> set[str]:
    """By the names that are counted: processes by their trade."""
    return {*REDIS, *POSTGRES, *POOLER, *HOSTILE, "clock stepped", "forked"}


def _waits(played: Played, folder: Path) -> Iterable[float]:
    """Seconds from saying to receipt, of the single appends of an episode while it was under faults."""
    for part, its in all_lines(folder / "said"):
        if part.endswith(QUICK):
            for line in its:
                if "took" in line and played.began <= line["t"] - line["took"] and line["t"] <= played.ended + 5:
                    yield line["took"]


def _percentiles(waits: list[float]) -> dict[str, float]:
    ordered = sorted(waits)
    return {
        "count": len(ordered),
        "median": ordered[len(ordered) // 2],
        "p99": ordered[len(ordered) * 99 // 100],
        "longest": ordered[-1],
    }


def _spread(waits: list[float]) -> str:
    found = _percentiles(waits)
    return (
        f"{found['count']}, median {found['median'] * 1000:.1f} ms, p99 {found['p99'] * 1000:.0f} ms, "
        f"longest {found['longest'] * 1000:.0f} ms"
    )
