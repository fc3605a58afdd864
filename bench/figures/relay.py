"""The relay: from Postgres to the stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from bench import check, entries, limits
from bench.measure import OURS, Bench, at_least
from ledger import Ledger, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.stream.relay import Relay
from ledger.stream.wire import key

XADD = "raw pipelined XADD"


def relay(bench: Bench) -> None:
    """A relay that fills a lost stream from Postgres, against redis-py's pipelines of ready-made XADDs of them."""
    figure, length = "relay", bench.sizes.relayed
    with ExitStack() as stack:
        settings = stack.enter_context(bench.servers.database())
        with Ledger(settings) as ledger:
            ledger.append_many(entries.events(length))
            name = key(ledger.ref.name)
        servers = stack.enter_context(closing(Connector(settings)))
        client = stack.enter_context(create_redis_connection(bench.servers.redis_url))
        Relay(servers).publish()
        ready = limits.stream_entries(client, name)
        check.counted(bench, figure, "the stream", len(ready), length)

        def ours(_: int) -> Callable[[], Any]:
            client.delete(name)
            return Relay(servers).publish

        def limit(_: int) -> Callable[[], Any]:
            client.delete(name)
            return lambda: limits.xadd(client, name, ready)

        speeds = bench.take_turns(figure, length, {OURS: ours, XADD: limit})
        bench.row(figure, f"of {XADD}", speeds.ratio(OURS, XADD), at_least(0.6))
        ours(0)()
        if limits.stream_entries(client, name) != ready:
            raise check.CheckFailed("relay: a refilled stream is not the same as the first")
        check.counted(bench, figure, "the refilled stream", len(ready), length)
        check.verified(bench, figure, settings, length)
