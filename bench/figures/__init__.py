"""One module for each group of figures. FIGURES: every figure by name, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.figures import (
    append,
    batches,
    concurrent,
    growth,
    importing,
    outbox,
    processes,
    projections,
    reading,
    relay,
    transactions,
    visible,
)
from bench.measure import Bench

FIGURES: Mapping[str, Callable[[Bench], None]] = {
    "append_single": append.single,
    "append_many_1000": batches.of_1000,
    "append_many_10000": batches.of_10000,
    "append_many_cloudtrail": batches.of_cloudtrail,
    "threads_8": concurrent.threads_8,
    "threads_32": concurrent.threads_32,
    "asyncio_8": concurrent.asyncio_8,
    "asyncio_32": concurrent.asyncio_32,
    "processes_8": processes.eight,
    "processes_8_slow": processes.eight_slow,
    "append_in_transaction": transactions.append,
    "record_in_transaction": transactions.record,
    "record_processes_8": outbox.eight,
    "record_processes_32": outbox.thirty_two,
    "seal": outbox.seal,
    "seal_latency": outbox.latency,
    "captured_update": outbox.captured_update,
    "verify": reading.verify,
    "read": reading.read,
    "relay": relay.relay,
    "projections_live": projections.live,
    "replay_timeline": projections.replay,
    "visible": visible.visible,
    "import": importing.import_,
    "growth": growth.growth,
}
