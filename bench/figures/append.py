"""Single appends: alone, and in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import psycopg

from bench import check, entries, limits, peers
from bench.measure import OURS, Bench, Side, at_least, at_most, each_of
from bench.servers import database_url
from ledger import Ledger

BARE = "bare INSERT"
_WARM = 20
_UPDATE = "update accounts set balance = balance + 1 where id = %s"


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


def in_transaction(bench: Bench) -> None:
    """A transaction of the caller's that updates a row, then appends, against the same with a bare INSERT instead."""
    figure, count = "append_in_transaction", bench.sizes.single
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        connection = stack.enter_context(psycopg.connect(database_url(settings), autocommit=True))
        bare = stack.enter_context(closing(limits.Bare(stack.enter_context(bench.servers.database()))))
        for each in (connection, bare.connection):
            each.execute("create table accounts (id int primary key, balance int) with (fillfactor = 50)")
            each.execute("insert into accounts select id, 0 from generate_series(1, 100) as id")

        def ours(number: int) -> Callable[[], Any]:
            events = list(entries.events(count, number * count))

            def work() -> None:
                for index, event in enumerate(events):
                    with connection.transaction():
                        connection.execute(_UPDATE, (index % 100 + 1,))
                        ledger.append(event, connection=connection)

            return work

        def limit(number: int) -> Callable[[], Any]:
            rows = bare.rows(entries.events(count, number * count))

            def work() -> None:
                for index, row in enumerate(rows):
                    with bare.connection.transaction():
                        bare.connection.execute(_UPDATE, (index % 100 + 1,))
                        bare.connection.execute(limits.INSERT, row, prepare=True)

            return work

        ours(10**6)()
        limit(10**6)()
        speeds = bench.take_turns(figure, count, {OURS: ours, BARE: limit})
        bench.row(figure, f"time, × the same with a {BARE}", speeds.ratio(BARE, OURS), at_most(1.3))
        made = (bench.rounds * bench.sizes.slices + 1) * count
        check.verified(bench, figure, settings, made)
        check.counted(bench, figure, BARE, bare.count(), made)
        for name, each in ((OURS, connection), (BARE, bare.connection)):
            [(updated,)] = each.execute("select sum(balance) from accounts")
            check.counted(bench, figure, f"the application's table beside {name}", updated, made)
