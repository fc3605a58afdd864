"""Metrics for Prometheus, over HTTP. Each scrape reads the state of the ledgers from the servers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from ledger.drivers.pools import Connector
from ledger.errors import InvalidSetting, LedgerError
from ledger.ops.status import STUCK, look
from ledger.ops.status_types import NOT_SET, OK, LedgerState, Overview
from ledger.settings import Settings
from ledger.telemetry import COUNTERS, FAILURES, PROJECTED, PUBLISHED, SEALED
from ledger.tlog.http_server import IDLE_SECONDS, Bounded

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("ledger.metrics")

CONNECT_TIMEOUT = 2.0
"""Seconds; Prometheus waits for ten by default."""


@contextmanager
def serve_metrics(settings: Settings, address: tuple[str, int] | None, ledgers: list[str] | None) -> Iterator[None]:
    """Serves metrics while the block runs. address: host and port; None serves none. ledgers: names; None for all.

    Raises InvalidSetting if prometheus-client is not installed or the port is not available.
    """
    if address is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidSetting("--metrics-port needs prometheus-client: pip install 'auditledger[metrics]'") from None
    host, port = address
    # Own connections: a worker's pool may be busy, or wait for an unreachable server.
    own = Connector(replace(settings, pool_max_size=2, connect_timeout=CONNECT_TIMEOUT))
    registry = CollectorRegistry()
    registry.register(_Collector(own, ledgers))
    try:
        server = _MetricsServer(host, port, _Handler)
    except OSError as error:
        own.close()
        raise InvalidSetting(f"metrics cannot be served at {host}:{port}: {error.strerror or error}") from None
    server.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    log.info("Metrics at http://%s:%s/metrics", f"[{host}]" if ":" in host else host, server.server_address[1])
    try:
        yield
    finally:
        server.shutdown()
        server.end_reading(0)
        server.server_close()
        thread.join()
        own.close()


class _MetricsServer(Bounded, WSGIServer):
    daemon_threads = True  # a running scrape may be lost at exit

    def server_bind(self) -> None:
        super().server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Collector:
    """Collects all metrics on each scrape. Those of an unreachable server are left out."""

    def __init__(self, connector: Connector, names: list[str] | None) -> None:
        self._connector = connector
        self._names = names
        self._turn = threading.Lock()
        self._found: list[Metric] = []
        self._looked = 0.0

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks no server."""
        return []

    def collect(self) -> list[Metric]:
        """Concurrent scrapes that wait when a look begins share its result."""
        came = time.monotonic()
        with self._turn:
            if self._looked <= came:
                self._looked = time.monotonic()
                self._found = list(self._look())
            return self._found

    def _look(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

        for name, text, labels, key in (
            ("sealed_events", "Recorded events that this process appended.", ("ledger",), SEALED),
            ("published_entries", "Entries that this process added to streams.", ("ledger",), PUBLISHED),
            ("projected_entries", "Entries that this process applied.", ("ledger", "projection"), PROJECTED),
            ("failures", "Failures of this process' jobs, by kind.", ("job", "error", "projection"), FAILURES),
        ):
            family = CounterMetricFamily(f"auditledger_{name}", text, labels=labels)
            for values, count in COUNTERS.sums(key).items():
                family.add_metric(values, count)
            yield family
        try:
            yield from _gauges(look(self._connector, self._names))
        except LedgerError as error:
            log.warning("%s", error)


def _gauges(found: Overview) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    families: dict[str, Any] = {}

    def gauge(name: str, value: float | None, **labels: str) -> None:
        if name not in families:
            families[name] = GaugeMetricFamily(f"auditledger_{name}", _HELP[name], labels=tuple(labels))
        if value is not None:
            families[name].add_metric(tuple(labels.values()), value)

    gauge("up", float(found.postgres == OK), server="postgres")
    if found.redis != NOT_SET:
        gauge("up", float(found.redis == OK), server="redis")
    if found.unprotected is not None:
        gauge("unprotected", len(found.unprotected))
    for ledger in found.ledgers:
        for name, value, labels in _of_ledger(ledger):
            gauge(name, value, ledger=ledger.name, **labels)
    yield from families.values()


def _of_ledger(ledger: LedgerState) -> Iterator[tuple[str, float | None, dict[str, str]]]:
    if ledger.ledger_id is not None:
        yield "tail_position", ledger.position, {}
        held = ledger.holder
        # An age that the user may not see is at least this.
        yield "tail_held_seconds", 0.0 if held is None else held.seconds or STUCK, {}
        yield "tail_held_waiting", 0 if held is None else held.waiting, {}
        if ledger.outbox is not None:
            yield "outbox_waiting", ledger.outbox.waiting, {}
            yield "outbox_seconds", ledger.outbox.seconds, {}
            yield "outbox_rejected", ledger.outbox.rejected, {}
        if ledger.stopped is not None:
            yield "bad_entries", len(ledger.stopped), {}
            yield "bad_entry_position", min((bad.position for bad in ledger.stopped), default=0), {}
        if ledger.refusals is not None:
            yield "signing_refused", len(ledger.refusals), {}
    if ledger.stream is not None:
        yield "stream_position", ledger.stream.position, {}
        if ledger.stream.lag is not None:
            yield "stream_lag_entries", ledger.stream.lag.entries, {}
            yield "stream_lag_seconds", ledger.stream.lag.seconds, {}
        if ledger.stream.diverged is not None:
            yield "stream_diverged", float(ledger.stream.diverged), {}
    for kind, places in (("projection", ledger.projections), ("subscription", ledger.subscriptions)):
        for place in places or ():
            if not place.rebuilding:
                labels = {kind: place.name}
                yield f"{kind}_position", place.position, labels
                yield f"{kind}_lag_entries", place.lag.entries, labels
                yield f"{kind}_lag_seconds", place.lag.seconds, labels
                if kind == "projection":
                    blocked = place.blocked
                    seconds = 0.0 if blocked is None else max(0.001, blocked.seconds)
                    yield "projection_standstill_seconds", seconds, labels
                    yield "projection_standstill_position", 0 if blocked is None else blocked.position, labels
                    yield "projection_skipped_entries", place.skipped, labels
                elif place.dead_letters is not None:
                    yield "subscription_parked_entries", place.dead_letters, labels
    if ledger.verified is not None:
        yield "verified_timestamp_seconds", ledger.verified.verified_at.timestamp(), {}
        yield "verified_position", ledger.verified.last, {}
        yield "verified_findings", ledger.verified.findings, {}


_HELP = {
    "up": "1 if the server answers.",
    "unprotected": "Protections that are not as the migrations make them.",
    "tail_position": "The position of a ledger's newest entry.",
    "tail_held_seconds": "Age of a transaction that holds the tail lock for long; 0 if none does.",
    "tail_held_waiting": "Sessions that wait for that transaction.",
    "outbox_waiting": "Recorded events that are not sealed yet, counted up to 100,000.",
    "outbox_seconds": "Age of the first of them; 0 if there is none.",
    "outbox_rejected": "Recorded events that cannot be appended, and were set aside.",
    "bad_entries": "Entries that fail verification, before which workers stop.",
    "bad_entry_position": "Position of the first of them; 0 if there is none.",
    "signing_refused": "Logs of a ledger whose signer refuses to sign.",
    "stream_position": "The position of a stream's newest entry.",
    "stream_lag_entries": "Entries not yet published.",
    "stream_lag_seconds": "Seconds since the first of those was recorded.",
    "stream_diverged": "1 if the stream holds entries that the ledger does not.",
    "projection_position": "The offset of a projection.",
    "projection_lag_entries": "Entries not yet applied.",
    "projection_lag_seconds": "Seconds since the first of those was recorded.",
    "projection_standstill_seconds": "For how long a projection has been blocked; 0 if it is not.",
    "projection_standstill_position": "Position of the entry that it cannot apply; 0 if there is none.",
    "projection_skipped_entries": "Entries that a projection leaves out.",
    "subscription_position": "The offset of a consumer group.",
    "subscription_lag_entries": "Entries not yet acknowledged.",
    "subscription_lag_seconds": "Seconds since the first of those was recorded.",
    "subscription_parked_entries": "Dead letters of a consumer group.",
    "verified_timestamp_seconds": "Time of a ledger's last verification.",
    "verified_position": "The last position of that verification.",
    "verified_findings": "Number of findings of that verification.",
}
