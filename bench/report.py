"""Writes what a run found: JSON with everything, a Markdown table, and plots where matplotlib is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import peers
from bench.measure import Bench, Row

_GREEN, _RED, _GREY = "#2f855a", "#c53030", "#718096"


def write(bench: Bench, machine: Mapping[str, Any], errors: Mapping[str, str], seconds: float, out: Path) -> list[Path]:
    """Writes <date>.json, <date>.md and PNGs into the folder `out`. The files."""
    out.mkdir(parents=True, exist_ok=True)
    stem = out / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    if not bench.is_short:
        plots = _plots(bench, stem)
    else:
        bench.skipped["plots"] = "a short run measures nothing worth a picture"
        plots = []
    found = {
        "machine": dict(machine),
        "rounds": bench.rounds,
        "short": bench.is_short,
        "seconds": round(seconds, 1),
        "figures": [_row(row) for row in bench.rows],
        "rates": bench.sides,
        "checks": bench.checks,
        "skipped": bench.skipped,
        "errors": dict(errors),
        "peers": peers.NOTES,
    }
    data = stem.with_suffix(".json")
    data.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = stem.with_suffix(".md")
    text.write_text(markdown(bench, machine, errors, seconds), encoding="utf-8")
    return [data, text, *plots]


def markdown(bench: Bench, machine: Mapping[str, Any], errors: Mapping[str, str], seconds: float) -> str:
    """The report to read."""
    lines = [
        "# Bench",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}; "
        f"Postgres {machine['postgres']['version']} ({_settings(machine['postgres'], 'fsync', 'synchronous_commit')}), "
        f"Valkey {machine['valkey']['version']}, Python {machine['python']}; a write and fsync of 8 KiB takes "
        f"{machine['fsync_ms']:g} ms; load at the start {machine['load_at_start']:g}; commit {machine['commit']}.",
        "",
        f"{bench.rounds} rounds in {seconds:.0f} s, sides taking turns; medians of the rounds, in brackets their range."
        + (" **A short run: it shows that everything works, not how fast it is.**" if bench.is_short else ""),
        "",
        "| figure | what | measured | wanted | |",
        "|---|---|---|---|---|",
        *(_line(row) for row in bench.rows),
        "",
        "| figure | side | a second (median) |",
        "|---|---|---|",
        *_rates(bench.sides),
    ]
    if errors:
        lines += ["", "## Failed", *(f"- {name}: {error}" for name, error in errors.items())]
    if bench.skipped:
        lines += ["", "## Left out", *(f"- {name}: {reason}" for name, reason in bench.skipped.items())]
    lines += ["", "## Peers", *(f"- {name}: {note}" for name, note in peers.NOTES.items())]
    lines += ["", "## Checked", *(f"- {each}" for each in dict.fromkeys(bench.checks))]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    measured = _number(row.measured)
    if len(row.rounds) > 1:
        measured += f" ({_number(min(row.rounds))}–{_number(max(row.rounds))})"
    unit = f" {row.unit}" if row.unit else ""
    wanted = f"{row.bound}{unit}" if row.bound else ""
    return f"| {row.figure} | {row.what} | {measured}{unit} | {wanted} | {row.verdict} |"


def _rates(sides: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return [
        f"| {figure} | {side} | {_number(sorted(rates)[len(rates) // 2])} |"
        for figure, named in sides.items()
        for side, rates in named.items()
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _row(row: Row) -> dict[str, Any]:
    return {
        "figure": row.figure,
        "what": row.what,
        "unit": row.unit,
        "measured": row.measured,
        "rounds": list(row.rounds),
        "wanted": str(row.bound) if row.bound else None,
        "verdict": row.verdict or None,
    }


def _settings(server: Mapping[str, str], *names: str) -> str:
    return ", ".join(f"{name}={server[name]}" for name in names)


# ------------------------------------------------------------------------------------------------------------ plots


def _plots(bench: Bench, stem: Path) -> list[Path]:
    """Each bounded figure against its bound, and the rates of all sides. Empty where matplotlib is not there."""
    if find_spec("matplotlib") is None:
        bench.skipped["plots"] = "matplotlib is not installed (extra `bench`)"
        return []
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    bounded = [row for row in bench.rows if row.bound is not None]
    files = []
    made = {"figures": _against_bounds(pyplot, bounded) if bounded else None}
    made["rates"] = _side_by_side(pyplot, bench.sides) if bench.sides else None
    for name, figure in made.items():
        if figure is not None:
            file = stem.with_name(f"{stem.name}-{name}.png")
            figure.savefig(file, dpi=120, bbox_inches="tight")
            pyplot.close(figure)
            files.append(file)
    return files


def _against_bounds(pyplot: Any, rows: Sequence[Row]) -> Any:
    """How far each is on the right side of its bound: 1 is just reached, whichever way the bound points."""
    figure, axes = pyplot.subplots(figsize=(10, 0.35 * len(rows) + 1))
    labels = [f"{row.figure}: {row.what}" for row in rows]
    margins = [_margin(row) for row in rows]
    axes.barh(labels, margins, color=[_GREEN if row.verdict == "pass" else _RED for row in rows])
    axes.axvline(1.0, color=_GREY, linestyle="--")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("measured against what is wanted (right of 1: reached)")
    for place, row in enumerate(rows):
        axes.annotate(f" {_number(row.measured)} ({row.bound})", (margins[place], place), va="center", fontsize=7)
    return figure


def _margin(row: Row) -> float:
    if row.bound is None:
        return 1.0
    ratio = max(1e-3, row.measured / row.bound.value)
    return ratio if row.bound.sign == ">=" else 1 / ratio


def _side_by_side(pyplot: Any, sides: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """The rate of each side of each figure, by round."""
    figure, all_axes = pyplot.subplots(len(sides), 1, figsize=(8, 1.1 * len(sides) + 1), squeeze=False)
    for axes, (name, named) in zip(all_axes[:, 0], sides.items(), strict=True):
        for place, rates in enumerate(named.values()):
            axes.barh([place], [sorted(rates)[len(rates) // 2]], color=_GREEN if place == 0 else _GREY)
            axes.plot(rates, [place] * len(rates), "k.", markersize=3)
        axes.set_yticks(range(len(named)), list(named), fontsize=7)
        axes.invert_yaxis()
        axes.set_title(f"{name}, a second", fontsize=8, loc="left")
        axes.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    return figure
