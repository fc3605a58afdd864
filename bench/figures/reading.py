"""Reading whole ledgers: verify, and read as entries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import psycopg

from bench import check, entries, limits, memory, peers
from bench.command import command, environment
from bench.measure import OURS, Bench, Side, at_least, at_most
from bench.servers import database_url
from ledger import Ledger
from ledger.settings import Settings
from ledger.verify.database import verify as verify_ledger

COPY = "raw COPY OUT"
_WORKERS = 2
_BATCH = 10_000


def verify(bench: Bench) -> None:
    """The whole ledger with 2 workers, started and ended, against one raw COPY OUT of the same rows; and its memory."""
    figure, length = "verify", bench.sizes.chain
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        connection = stack.enter_context(psycopg.connect(database_url(settings), autocommit=True))
        _fill(settings, bench.sizes.chain_short)
        short = None if bench.is_short else _memory(settings)
        _fill(settings, length - bench.sizes.chain_short, bench.sizes.chain_short)
        connection.execute("vacuum analyze ledger.audit_logs")  # else the first to read pays for hint bits

        sides: dict[str, Side] = {
            OURS: lambda _: lambda: verify_ledger(settings, workers=_WORKERS),
            COPY: lambda _: lambda: limits.copy_out(connection),
        }
        speeds = bench.take_turns(figure, length, sides, slices=1)
        long = _memory(settings)
        bench.row(figure, f"of {COPY}", speeds.ratio(OURS, COPY), at_least(0.5))
        if short is not None:
            _report(bench, figure, bench.sizes.chain_short, short)
        _report(bench, figure, length, long)
        check.verified(bench, figure, settings, length)


def read(bench: Bench) -> None:
    """ledger.read() to its end, as Entries, against eventsourcing's select_notifications, as Notifications."""
    figure, length = "read", bench.sizes.chain_short
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        recorder = stack.enter_context(peers.eventsourcing(bench))
        url = stack.enter_context(peers.umadb(bench))
        _fill(settings, length)

        def ours(_: int) -> Callable[[], Any]:
            return lambda: check.counted(bench, figure, "what was read", sum(1 for _ in ledger.read()), length)

        sides: dict[str, Side] = {OURS: ours}
        if recorder is not None:
            eventsourcing = recorder
            for first in range(0, length, _BATCH):
                batch = list(entries.events(min(_BATCH, length - first), first))
                eventsourcing.append(eventsourcing.prepared(batch))
            sides[peers.EVENTSOURCING] = lambda _: eventsourcing.read
        if url is not None:
            client = peers.Umadb(url)
            for first in range(0, length, 1000):
                client.append(list(entries.events(min(1000, length - first), first)))
            sides[peers.UMADB] = lambda _: client.read

        speeds = bench.take_turns(figure, length, sides)
        if recorder is not None:
            ratio = speeds.ratio(OURS, peers.EVENTSOURCING)
            bench.row(figure, "× eventsourcing's select_notifications", ratio, at_least(1.0))
            check.counted(bench, figure, peers.EVENTSOURCING, recorder.read(), length)
        else:
            bench.row(figure, "rate", speeds.rates[OURS], unit="entries/s")
        if url is not None:
            bench.row(figure, "× umadb", speeds.ratio(OURS, peers.UMADB))
            check.counted(bench, figure, peers.UMADB, peers.Umadb(url).read(), length)
        check.verified(bench, figure, settings, length)


def _fill(settings: Settings, count: int, first: int = 0) -> None:
    with Ledger(settings) as ledger:
        ledger.append_many(entries.events(count, first))


def _memory(settings: Settings) -> memory.Ran:
    ran = memory.run(command("--json", "verify", "--workers", str(_WORKERS)), environment(settings))
    report = msgspec.json.decode(ran.output)
    if not report["ok"]:
        raise check.CheckFailed(f"verify: {report['findings'][:3]}")
    return ran


def _report(bench: Bench, figure: str, length: int, ran: memory.Ran) -> None:
    bench.row(figure, f"peak RSS of the process tree, {length:,} entries", [ran.rss], at_most(150), unit="MiB")
    if ran.pss is not None:
        bench.row(figure, f"the same with shared pages shared out, {length:,} entries", [ran.pss], unit="MiB")
