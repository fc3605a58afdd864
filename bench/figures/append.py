"""Single appends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from bench import check, entries, limits, peers
from bench.measure import OURS, Bench, Side, at_least, each_of
from ledger import Ledger

BARE = "bare INSERT"
_WARM = 20


def single(bench: Bench) -> None:
    """One writer, one durable append at a time, against a bare autocommit INSERT of the same rows and against peers."""
    figure, count = "append_single", bench.sizes.single
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        bare = stack.enter_context(closing(limits.Bare(stack.enter_context(bench.servers.database()))))
        recorder = stack.enter_context(peers.eventsourcing(bench))
        url = stack.enter_context(peers.umadb(bench))

        def ours(number: int) -> Callable[[], Any]:
            events = list(entries.events(count, number * count))
            return lambda: each_of(events, ledger.append)

        def limit(number: int) -> Callable[[], Any]:
            return partial(bare.insert, bare.rows(entries.events(count, number * count)))

        sides: dict[str, Side] = {OURS: ours, BARE: limit}
        for event in entries.events(_WARM):
            ledger.append(event)
        bare.insert(bare.rows(entries.events(_WARM)))
        if recorder is not None:
            eventsourcing = recorder

            def sourced(number: int) -> Callable[[], Any]:
                events = eventsourcing.prepared(list(entries.events(count, number * count)))
                return lambda: each_of(events, lambda event: eventsourcing.append([event]))

            eventsourcing.append(eventsourcing.prepared(list(entries.events(_WARM))))
            sides[peers.EVENTSOURCING] = sourced
        if url is not None:
            client = peers.Umadb(url)

            def umadb(number: int) -> Callable[[], Any]:
                events = list(entries.events(count, number * count))
                return lambda: each_of(events, lambda event: client.append([event]))

            client.append(list(entries.events(_WARM)))
            sides[peers.UMADB] = umadb

        speeds = bench.take_turns(figure, count, sides)
        bench.row(figure, f"of {BARE}", speeds.ratio(OURS, BARE), at_least(0.85))
        if recorder is not None:
            bench.row(figure, "× eventsourcing", speeds.ratio(OURS, peers.EVENTSOURCING), at_least(2.5))
        if url is not None:
            bench.row(figure, "× umadb", speeds.ratio(OURS, peers.UMADB))

        made = bench.rounds * bench.sizes.slices * count + _WARM
        check.verified(bench, figure, settings, made)
        check.counted(bench, figure, BARE, bare.count(), made)
        if recorder is not None:
            check.counted(bench, figure, peers.EVENTSOURCING, recorder.count(), made)
        if url is not None:
            check.counted(bench, figure, peers.UMADB, peers.Umadb(url).count(), made)
