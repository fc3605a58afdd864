"""Appending and recording in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg

from bench import check, entries, limits
from bench.measure import OURS, Bench, at_most
from bench.servers import database_url
from ledger import Ledger

BARE = "bare INSERT"
_UPDATE = "update accounts set balance = balance + 1 where id = %s"


def append(bench: Bench) -> None:
    """A transaction that updates a row, then appends, against the same with a bare INSERT instead."""
    _measure(bench, "append_in_transaction", Ledger.append, limits.Bare, limits.INSERT, 1.3)


def record(bench: Bench) -> None:
    """The same with record."""
    _measure(bench, "record_in_transaction", Ledger.record, limits.BareOutbox, limits.INSERT_OUTBOX, 1.15)


def _measure(
    bench: Bench,
    figure: str,
    write: Callable[..., object],
    bare_of: type[limits.Bare] | type[limits.BareOutbox],
    insert: Any,
    most: float,
) -> None:
    """write: a method of Ledger. most: wanted of its time, with the INSERT's as 1."""
    count = bench.sizes.single
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        connection = stack.enter_context(psycopg.connect(database_url(settings), autocommit=True))
        bare = stack.enter_context(closing(bare_of(stack.enter_context(bench.servers.database()))))
        for each in (connection, bare.connection):
            each.execute("create table accounts (id int primary key, balance int) with (fillfactor = 50)")
            each.execute("insert into accounts select id, 0 from generate_series(1, 100) as id")

        def ours(number: int) -> Callable[[], Any]:
            events = list(entries.events(count, number * count))

            def work() -> None:
                for index, event in enumerate(events):
                    with connection.transaction():
                        connection.execute(_UPDATE, (index % 100 + 1,))
                        write(ledger, event, connection=connection)

            return work

        def limit(number: int) -> Callable[[], Any]:
            rows = bare.rows(entries.events(count, number * count))

            def work() -> None:
                for index, row in enumerate(rows):
                    with bare.connection.transaction():
                        bare.connection.execute(_UPDATE, (index % 100 + 1,))
                        bare.connection.execute(insert, row, prepare=True)

            return work

        ours(10**6)()
        limit(10**6)()
        speeds = bench.take_turns(figure, count, {OURS: ours, BARE: limit})
        bench.row(figure, f"time, × the same with a {BARE}", speeds.ratio(BARE, OURS), at_most(most))
        made = (bench.rounds * bench.sizes.slices + 1) * count
        check.sealed(bench, figure, settings, made)
        check.counted(bench, figure, BARE, bare.count(), made)
        for name, each in ((OURS, connection), (BARE, bare.connection)):
            [(updated,)] = each.execute("select sum(balance) from accounts")
            check.counted(bench, figure, f"the application's table beside {name}", updated, made)
