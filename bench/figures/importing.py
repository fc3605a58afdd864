"""`auditledger import` of a file of JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench import check, entries, memory
from bench.command import command, environment
from bench.measure import OURS, Bench, at_least, at_most
from ledger import Event, Ledger
from ledger.settings import Settings

APPEND_MANY = "append_many"


def import_(bench: Bench) -> None:
    """The command on a file, from start to end, against append_many of the same events, ready-made, in this process.

    Then a file ten times as long: its peak memory against that of the short one.
    """
    figure, short, long = "import", bench.sizes.imported, bench.sizes.imported_long
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        beside = stack.enter_context(bench.servers.database())
        file = _written(bench.scratch / "short.jsonl", short)
        events = list(entries.events(short))

        def ours(_: int) -> Callable[[], Any]:
            return lambda: _import(settings, file, short, watch=False)

        def limit(_: int) -> Callable[[], Any]:
            return lambda: _append(beside, events)

        speeds = bench.take_turns(figure, short, {OURS: ours, APPEND_MANY: limit}, slices=1)
        bench.row(figure, f"of {APPEND_MANY}, {short:,} lines", speeds.ratio(OURS, APPEND_MANY), at_least(0.6))
        short_run = _import(settings, file, short)
        file.unlink()
        long_file = _written(bench.scratch / "long.jsonl", long)
        long_run = _import(settings, long_file, long)
        long_file.unlink()
        rate = [long / long_run.seconds]
        bench.rates(figure, f"{OURS}, {long:,} lines, watched", rate)
        bench.row(figure, f"peak RSS, {short:,} lines", [short_run.rss], unit="MiB")
        bench.row(figure, f"peak RSS, {long:,} lines", [long_run.rss], unit="MiB")
        bench.row(figure, f"peak RSS at {long:,} lines, × at {short:,}", [long_run.rss / short_run.rss], at_most(1.1))
        check.verified(bench, figure, settings, (bench.rounds + 1) * short + long)
        check.verified(bench, f"{figure}, {APPEND_MANY}", beside, bench.rounds * short)


def _written(file: Path, count: int) -> Path:
    encode = msgspec.json.Encoder().encode
    with file.open("wb") as out:
        for event in entries.events(count):
            said = {key: value for key, value in msgspec.structs.asdict(event).items() if value is not None}
            out.write(encode(said) + b"\n")
    return file


def _import(settings: Settings, file: Path, count: int, *, watch: bool = True) -> memory.Ran:
    ran = memory.run(command("--json", "import", str(file)), environment(settings), watch=watch)
    recorded = msgspec.json.decode(ran.output)["recorded"]
    if recorded != count:
        raise check.CheckFailed(f"import: recorded {recorded} of {count} lines")
    return ran


def _append(settings: Settings, events: list[Event]) -> None:
    with Ledger(settings) as ledger:
        ledger.append_many(events)
