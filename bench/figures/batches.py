"""append_many: batches of a size, each durable when the call returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

from bench import check, entries, limits, peers
from bench.measure import OURS, Bench, Bound, Side, at_least, each_of
from ledger import Event, Ledger

COPY = "pre-encoded COPY"
_MOST_OF_UMADB = 2000
"""Events in one of its appends: they must fit into a gRPC message."""
_WARM = 10_000
"""The number of a slice that is not measured."""
Source = Callable[[int, int], Iterator[Event]]


def of_1000(bench: Bench) -> None:
    """append_many of 1,000 events a call, against a COPY of 1,000 ready-made rows a commit and against peers."""
    _batches(bench, "append_many_1000", 1000, entries.events, umadb=at_least(1.0))


def of_10000(bench: Bench) -> None:
    """append_many of 10,000 events a call, against a COPY of 10,000 ready-made rows a commit and against peers."""
    _batches(bench, "append_many_10000", 10_000, entries.events)


def of_cloudtrail(bench: Bench) -> None:
    """As append_many_1000, with CloudTrail records, whose bodies are three times as long."""
    figure = "append_many_cloudtrail"
    if not entries.has_cloudtrail():
        bench.skipped[figure] = f"{entries.CLOUDTRAIL.name} is not in ../shared/data"
        return
    _batches(bench, figure, 1000, entries.cloudtrail)


def _batches(bench: Bench, figure: str, size: int, source: Source, umadb: Bound | None = None) -> None:
    """size: the nominal one, which short runs make smaller."""
    size, calls = bench.sizes.batches[size]
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        bare = stack.enter_context(closing(limits.Bare(stack.enter_context(bench.servers.database()))))
        recorder = stack.enter_context(peers.eventsourcing(bench))
        url = None
        if size > _MOST_OF_UMADB:
            bench.skipped[f"{peers.UMADB} in {figure}"] = "its server refuses appends of more than 4 MiB"
        else:
            url = stack.enter_context(peers.umadb(bench))

        def lists(number: int) -> list[list[Event]]:
            return [list(source(size, (number * calls + call) * size)) for call in range(calls)]

        def ours(number: int) -> Callable[[], Any]:
            events = lists(number)
            return lambda: each_of(events, ledger.append_many)

        def limit(number: int) -> Callable[[], Any]:
            data = [bare.copy_data(each) for each in lists(number)]
            return lambda: each_of(data, bare.copy_in)

        sides: dict[str, Side] = {OURS: ours, COPY: limit}
        if recorder is not None:
            eventsourcing = recorder

            def sourced(number: int) -> Callable[[], Any]:
                events = [eventsourcing.prepared(each) for each in lists(number)]
                return lambda: each_of(events, eventsourcing.append)

            sides[peers.EVENTSOURCING] = sourced
        if url is not None:
            client = peers.Umadb(url)

            def uma(number: int) -> Callable[[], Any]:
                events = lists(number)
                return lambda: each_of(events, client.append)

            sides[peers.UMADB] = uma
        for side in sides.values():
            side(_WARM)()  # opens what is opened lazily

        speeds = bench.take_turns(figure, calls * size, sides)
        bench.row(figure, f"of {COPY}", speeds.ratio(OURS, COPY), at_least(0.9))
        if recorder is not None:
            bench.row(figure, "× eventsourcing", speeds.ratio(OURS, peers.EVENTSOURCING), at_least(3.0))
        if url is not None:
            bench.row(figure, "× umadb", speeds.ratio(OURS, peers.UMADB), umadb)

        made = (bench.rounds * bench.sizes.slices + 1) * calls * size
        check.verified(bench, figure, settings, made)
        check.counted(bench, figure, COPY, bare.count(), made)
        if recorder is not None:
            check.counted(bench, figure, peers.EVENTSOURCING, recorder.count(), made)
        if url is not None:
            check.counted(bench, figure, peers.UMADB, peers.Umadb(url).count(), made)
