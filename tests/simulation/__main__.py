"""python -m tests.simulation: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ledger import embedded
from tests.simulation import guard
from tests.simulation.episode import Played, play
from tests.simulation.report import Report
from tests.simulation.schedule import EPISODES, schedule
from tests.support.helpers import copy_home

FRESH = 1_000_000
"""Fresh seeds are drawn from here on, so that they cannot be taken for those that were asked for."""


def main() -> int:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    report = Report()
    deadline = time.monotonic() + given.minutes * 60
    base = Path(tempfile.mkdtemp(prefix="auditledger-simulation-"))
    watching = guard.start(base)
    try:
        pattern = base / "pattern"
        embedded.start(pattern)
        embedded.stop(pattern)
        for seed in _seeds(given.seeds, deadline):
            if not _play(seed, base, pattern, given.episodes, report) and not given.go_on:
                break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        watching.communicate()
    print("\n".join(["", *report.table()]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report.json(), indent=1) + "\n")
    return 1 if report.failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Survive everything, and show it.")
    parser.add_argument("--seeds", type=_seed_numbers, default=[], help="a count (10), a range (4-9) or a list (3,14,)")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with fresh seeds until so long")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each seed, at most")
    parser.add_argument("--go-on", action="store_true", help="also after a seed has failed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    if not given.seeds and not given.minutes:
        given.seeds = [1]
    return given


def _seed_numbers(text: str) -> list[int]:
    if re.fullmatch(r"\d+", text):
        return list(range(1, int(text) + 1))
    if span := re.fullmatch(r"(\d+)-(\d+)", text):
        return list(range(int(span[1]), int(span[2]) + 1))
    if re.fullmatch(r"(\d+,)*\d*", text):
        return [int(each) for each in text.split(",") if each]
    raise argparse.ArgumentTypeError(f"neither a count, a range nor a list: {text!r}")


def _seeds(asked: list[int], deadline: float) -> Iterator[int]:
    yield from asked
    while time.monotonic() < deadline:
        yield FRESH + secrets.randbelow(FRESH)


def _play(seed: int, base: Path, pattern: Path, limit: int, report: Report) -> bool:
    """True if nothing was wrong."""
    plan = schedule(seed)
    print(f"seed {seed}: {plan.relays} relays, {plan.projectors} projectors, keep {plan.keep}", flush=True)
    folder = base / f"seed-{seed}"
    folder.mkdir()
    copy_home(pattern, folder / "home")
    well = True
    for played in play(plan, folder / "home", folder, limit):
        report.add(seed, played, folder)
        well = not played.violations
        print(_line(played), flush=True)
        if not well:
            _explain(seed, played, folder)
    report.entries += played.entries
    shutil.rmtree(folder)
    return well


def _line(played: Played) -> str:
    faults = ", ".join(f"{fault} {count}" for fault, count in sorted(played.counts.items())) or "no faults"
    number, kind, _ = played.episode
    how = f"{len(played.violations)} WRONG" if played.violations else "well"
    return f"  {number} {kind}: {played.entries} entries, caught up in {played.caught_up:.1f} s, {how} ({faults})"


def _explain(seed: int, played: Played, folder: Path) -> None:
    """The trace, what is wrong, where the notes are, and how to do it again."""
    kept = Path(tempfile.mkdtemp(prefix=f"auditledger-seed-{seed}-"))
    shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("postgres*", "valkey", "valkey-*"))
    for log in (folder / "home").glob("*.log"):
        shutil.copy(log, kept)
    print("  what was done:", *played.trace, sep="\n    ")
    print("  what is wrong:", *(f"{kind}: {text}" for kind, text in played.violations[:20]), sep="\n    ")
    print(f"  notes and logs are in {kept}\n  again: make simulate SEED={seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
