"""Does a long ledger cost more? The same calls on a short one and on a long one, in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
from ledger_projections import ResourceHistory, history

from bench import check, entries
from bench.measure import Bench, Side, at_most, each_of
from bench.servers import database_url
from ledger import Ledger
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings

_SCATTER = 7_368_787
"""A prime: lookups go all over the ledger, in both at the same relative places."""


def growth(bench: Bench) -> None:
    """Single appends and history lookups in a long ledger against a short one: filled by append_many and a rebuild.

    Each resource has as many entries in both, and lookups go all over them, so that the long one's pages are not all in
    Postgres' own cache. Both are vacuumed once after they are filled, as autovacuum would in time.
    """
    figure = "growth"
    short, long = bench.sizes.growth
    with ExitStack() as stack:
        ledgers: dict[int, Ledger] = {}
        for length in (short, long):
            settings = stack.enter_context(bench.servers.database())
            ledgers[length] = stack.enter_context(Ledger(settings))
            _fill(settings, ledgers[length], length)

        def appending(length: int) -> Side:
            def side(number: int) -> Callable[[], Any]:
                count = bench.sizes.single
                events = list(entries.events(count, length + number * count))
                return lambda: each_of(events, ledgers[length].append)

            return side

        def looking_up(length: int) -> Side:
            ledger = ledgers[length]
            ref = ledger.ref

            def side(number: int) -> Callable[[], Any]:
                count = bench.sizes.lookups
                places = [(number * count + each) * _SCATTER % length for each in range(count)]
                ids = [entries.resource_id(place) for place in places]
                return lambda: each_of(ids, lambda each: _found(ledger.run(history(ref, "invoice", each))))

            return side

        for what, one, count in (
            ("append", appending, bench.sizes.single),
            ("history lookup", looking_up, bench.sizes.lookups),
        ):
            sides = {f"{what} at {length:,}": one(length) for length in (short, long)}
            for side in sides.values():
                side(10**4)()
            speeds = bench.take_turns(figure, count, sides)
            small, large = sides
            ratio = speeds.ratio(small, large)
            bench.row(figure, f"{what}: time at {long:,} entries, × at {short:,}", ratio, at_most(1.2))
        appended = (bench.rounds * bench.sizes.slices + 1) * bench.sizes.single
        for length, ledger in ledgers.items():
            check.verified(bench, f"{figure} at {length:,}", ledger.settings, length + appended)


def _fill(settings: Settings, ledger: Ledger, length: int) -> None:
    ledger.append_many(entries.events(length))
    rebuild(settings, ResourceHistory())
    with psycopg.connect(database_url(settings), autocommit=True) as connection:
        connection.execute("vacuum analyze ledger.audit_logs, ledger_views.resource_history")


def _found(items: list[Any]) -> None:
    if not items:
        raise check.CheckFailed("growth: a resource without a history")
