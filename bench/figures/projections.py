"""Projections: live over the stream, and replayed from Postgres."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg
from ledger_projections import Timeline

from bench import check, entries, limits
from bench.measure import OURS, Bench, at_least, chunks
from bench.servers import database_url
from ledger import Ledger
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.stream.relay import Relay

COPY = "COPY of the finished rows"
BUILT_IN = ["timeline", "resource_state", "resource_history", "actor_activity"]
_CHUNK = 64 * 1024
_OUT = "copy ledger_views.timeline to stdout (format binary)"


def live(bench: Bench) -> None:
    """One projector brings all four built-in views up to date from the stream, checks and checkpoints included."""
    figure, length = "projections_live", bench.sizes.projected
    made = 0
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        ledger = stack.enter_context(Ledger(settings))
        servers = stack.enter_context(closing(Connector(settings)))
        relay = Relay(servers)
        projector = stack.enter_context(closing(Projector(servers, find_projections(BUILT_IN))))
        projector.install()

        def ours(_: int) -> Callable[[], Any]:
            nonlocal made
            ledger.append_many(entries.events(length, made))
            made += length
            relay.publish()
            return projector.catch_up

        ours(0)()
        speeds = bench.take_turns(figure, length, {OURS: ours}, slices=1)
        bench.row(figure, "all four together", speeds.rates[OURS], at_least(10_000), unit="entries/s")
        if projector.failed:
            raise projector.failed[0]
        with psycopg.connect(database_url(settings)) as connection:
            for query, what in (
                ("select count(*) from ledger_views.timeline", "timeline"),
                ("select count(*) from ledger_views.resource_history", "resource_history"),
                ("select sum(entries) from ledger_views.resource_state", "resource_state"),
                ("select sum(entries) from ledger_views.actor_activity", "actor_activity"),
            ):
                [(found,)] = connection.execute(query)
                check.counted(bench, figure, what, int(found), made)
        check.verified(bench, figure, settings, made)


def replay(bench: Bench) -> None:
    """A rebuild of `timeline`, from reading the ledger to the swap, against a COPY BINARY of its finished rows.

    The COPY goes into a table with the same columns and indexes, the full text index among them.
    """
    figure, length = "replay_timeline", bench.sizes.replayed
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        with Ledger(settings) as ledger:
            ledger.append_many(entries.events(length))
        servers = stack.enter_context(closing(Connector(settings)))
        with closing(Projector(servers, [Timeline()])) as projector:
            projector.install()
        rebuild(settings, Timeline())
        connection = stack.enter_context(psycopg.connect(database_url(settings), autocommit=True))
        with connection.cursor().copy(_OUT) as copy:
            finished = list(chunks(b"".join(copy), _CHUNK))

        def ours(_: int) -> Callable[[], Any]:
            return lambda: rebuild(settings, Timeline())

        def limit(_: int) -> Callable[[], Any]:
            connection.execute("drop table if exists bare_timeline")
            connection.execute("create table bare_timeline (like ledger_views.timeline including all)")
            return lambda: limits.copy_in(connection, "copy bare_timeline from stdin (format binary)", finished)

        speeds = bench.take_turns(figure, length, {OURS: ours, COPY: limit}, slices=1)
        bench.row(figure, f"of {COPY}", speeds.ratio(OURS, COPY), at_least(0.5))
        for query, what in (
            ("select count(*) from ledger_views.timeline", "the rebuilt view"),
            ("select count(*) from bare_timeline", COPY),
        ):
            [(found,)] = connection.execute(query)
            check.counted(bench, figure, what, int(found), length)
        check.verified(bench, figure, settings, length)
