"""One run: its own servers, the figures in turn, the report."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.figures import FIGURES
from bench.machine import machine
from bench.measure import Bench, Sizes
from bench.servers import started

RESULTS = Path(__file__).parent / "results"
_ROUNDS, _ROUNDS_SHORT = 3, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything was measured and every check held, whatever the figures; 1 where not; 2 for wrong use."""
    options = _options(arguments)
    sizes = Sizes.short() if options.short else Sizes()
    if options.growth:
        sizes = replace(sizes, growth=(sizes.growth[0], options.growth))
    if options.import_lines:
        sizes = replace(sizes, imported_long=options.import_lines)
    rounds = options.rounds or (_ROUNDS_SHORT if options.short else _ROUNDS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped, then, too
    began = time.perf_counter()
    errors: dict[str, str] = {}
    with started() as servers:
        bench = Bench(servers, rounds, sizes, is_short=options.short, peers=not options.no_peers)
        found = machine(servers)
        for name in options.figure or FIGURES:
            _measure(bench, name, errors)
        files = report.write(bench, found, errors, time.perf_counter() - began, options.out)
    sys.stdout.write(files[1].read_text(encoding="utf-8"))
    _say(f"Wrote {', '.join(map(str, files))}")
    return 1 if errors else 0


def _measure(bench: Bench, name: str, errors: dict[str, str]) -> None:
    """A figure that fails does not keep the others from being measured."""
    seen, began = len(bench.rows), time.perf_counter()
    try:
        FIGURES[name](bench)
    except Exception as error:
        traceback.print_exc()
        errors[name] = f"{type(error).__name__}: {error}"
    _say(f"{name}: {time.perf_counter() - began:.1f} s")
    for row in bench.rows[seen:]:
        wanted = f"  wanted {row.bound}  {row.verdict}" if row.bound else ""
        _say(f"    {row.what}: {row.measured:.3g} {row.unit}{wanted}  {[float(f'{each:.3g}') for each in row.rounds]}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--figure", action="append", choices=list(FIGURES), metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--rounds", type=_count, help=f"by default {_ROUNDS}")
    parser.add_argument("--short", action="store_true", help="tiny sizes: does it all work?")
    parser.add_argument("--no-peers", action="store_true", help="only the ledger and its limits")
    parser.add_argument("--growth", type=_count, metavar="ENTRIES", help="length of the long ledger (5,000,000)")
    parser.add_argument("--import-lines", type=_count, metavar="LINES", help="of the long file (1,000,000)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="by default bench/results")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
