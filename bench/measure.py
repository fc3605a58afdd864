"""How things are measured: sides take turns slice by slice; the median of their ratios, round by round, counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias, TypeVar

from bench.servers import BenchServers

T = TypeVar("T")
Side: TypeAlias = Callable[[int], Callable[[], Any]]
"""Prepares the slice of this number and returns its work. Only the work is timed."""

OURS = "auditledger"


@dataclass(frozen=True)
class Bound:
    """What the issue wants of a figure: at least (`>=`) or at most (`<=`) so much."""

    sign: str
    value: float

    def holds(self, measured: float) -> bool:
        return measured >= self.value if self.sign == ">=" else measured <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.sign == '>=' else '≤'} {self.value:g}"


def at_least(value: float) -> Bound:
    return Bound(">=", value)


def at_most(value: float) -> Bound:
    return Bound("<=", value)


@dataclass(frozen=True)
class Row:
    """One line of the report. rounds: the value of each round; their median counts. unit: empty for a ratio."""

    figure: str
    what: str
    rounds: Sequence[float]
    bound: Bound | None = None
    unit: str = ""

    @property
    def measured(self) -> float:
        return median(self.rounds)

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return "pass" if self.bound.holds(self.measured) else "MISS"


@dataclass
class Sizes:
    """How much of everything; `short` is for the smoke test."""

    single: int = 200
    batches: Mapping[int, tuple[int, int]] = field(default_factory=lambda: {1000: (1000, 4), 10_000: (10_000, 1)})
    """Of each batch figure, by its nominal size: the size itself, and how many batches make a slice."""
    slices: int = 4
    concurrent: int = 1200
    seconds: float = 3.0
    processes: int = 8
    recorders: int = 32
    captured: int = 10_000
    chain: int = 200_000
    chain_short: int = 50_000
    relayed: int = 20_000
    projected: int = 20_000
    replayed: int = 50_000
    lookups: int = 300
    growth: tuple[int, int] = (50_000, 5_000_000)
    imported: int = 100_000
    imported_long: int = 1_000_000

    @classmethod
    def short(cls) -> Sizes:
        return cls(
            single=20,
            batches={1000: (100, 1), 10_000: (300, 1)},
            slices=1,
            concurrent=64,
            seconds=0.3,
            processes=3,
            recorders=2,
            captured=100,
            chain=600,
            chain_short=300,
            relayed=600,
            projected=300,
            replayed=300,
            lookups=20,
            growth=(200, 600),
            imported=200,
            imported_long=400,
        )


@dataclass
class Bench:
    """What a figure works with and what it leaves behind.

    sides: of each figure, the rates of its sides in each round, for the report's details. checks: what was verified
    and counted. skipped: what was left out, and why. peers: whether to measure them where they are installed.
    """

    servers: BenchServers
    rounds: int
    sizes: Sizes
    is_short: bool = False
    peers: bool = True
    rows: list[Row] = field(default_factory=list)
    sides: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        return self.servers.home

    def row(self, figure: str, what: str, rounds: Sequence[float], bound: Bound | None = None, unit: str = "") -> None:
        self.rows.append(Row(figure, what, rounds, bound, unit))

    def rates(self, figure: str, side: str, rates: Sequence[float]) -> None:
        """Keeps a side's rate in each round, in entries (or calls) a second."""
        self.sides.setdefault(figure, {})[side] = list(rates)

    def take_turns(
        self, figure: str, units: int | Mapping[str, int], sides: Mapping[str, Side], slices: int | None = None
    ) -> Speeds:
        """Lets the sides work in turn, the other way round every other time; `units` is the work of one slice.

        A checkpoint comes before each round and none (by size) within it. Garbage collection is on, but does not
        walk what was prepared beforehand.
        """
        slices = slices or self.sizes.slices
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        number = 0
        for _ in range(self.rounds):
            self.servers.checkpoint()
            for name in sides:
                seconds[name].append(0.0)
            for _ in range(slices):
                for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                    seconds[name][-1] += timed(sides[name](number))
                number += 1
        work = units if isinstance(units, Mapping) else dict.fromkeys(sides, units)
        rates = {name: [work[name] * slices / each for each in spent] for name, spent in seconds.items()}
        for name, each in rates.items():
            self.rates(figure, name, each)
        return Speeds(rates)


@dataclass(frozen=True)
class Speeds:
    """Of each side, its rate in each round."""

    rates: Mapping[str, Sequence[float]]

    def __contains__(self, name: str) -> bool:
        return name in self.rates

    def ratio(self, name: str, to: str) -> list[float]:
        """How fast one side was, with another as 1, round by round."""
        return [one / other for one, other in zip(self.rates[name], self.rates[to], strict=True)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    gc.collect()
    gc.freeze()
    try:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    finally:
        gc.unfreeze()


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def each_of(items: Iterable[T], call: Callable[[T], object]) -> None:
    """Calls with one after another."""
    for item in items:
        call(item)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))
