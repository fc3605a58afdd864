"""Counters of the ledger's work, progress, and a span for each batch. Knows nothing of the ledger.

Counters are always kept: one addition a batch. Spans are OpenTelemetry's, if its API is installed (extra `otel`) and an
SDK was set up, as by `opentelemetry-instrument auditledger run`; otherwise there are none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, TypeAlias

from ledger.drivers import forks

Progress: TypeAlias = Callable[[int, int], None]
"""Called again and again with how much is done, and how much there is to do."""

_NOTHING: AbstractContextManager[object] = nullcontext()


class Counters:
    """Sums by name and labels, of this process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._sums: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._lock = threading.Lock()
        forks.register(self)

    def after_fork(self) -> object:
        self._sums, self._lock = Counter(), threading.Lock()
        return None

    def add(self, name: str, *labels: str, count: int = 1) -> None:
        with self._lock:
            self._sums[name, labels] += count

    def sums(self, name: str) -> Mapping[tuple[str, ...], int]:
        """The sums of this name by their labels."""
        with self._lock:
            return {labels: count for (each, labels), count in self._sums.items() if each == name}


COUNTERS = Counters()

PUBLISHED = "published"
"""Entries added to a stream; label: ledger."""
SEALED = "sealed"
"""Events of the outbox that became entries; label: ledger."""
PROJECTED = "projected"
"""Entries applied by a live projection; labels: ledger, projection."""
UNRECORDED = "unrecorded"
"""Requests whose entry a middleware (contrib/) could not record; label: the error's type."""
FAILURES = "failures"
"""Labels: the job (relay, project), the error's kind (see errors.py), and the projection it was of, if any."""


def span(name: str, /, **attributes: str | int) -> AbstractContextManager[object]:
    """A span around a block; an exception that leaves the block is recorded on it. Attributes are `ledger.<name>`."""
    trace = _trace()
    # Without an SDK the API makes spans that nobody sees, and which take time.
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _NOTHING
    named = {f"ledger.{key}": value for key, value in attributes.items()}
    tracer = trace.get_tracer("auditledger")
    made: AbstractContextManager[object] = tracer.start_as_current_span(name, attributes=named)
    return made


@cache
def _trace() -> Any:
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, and it takes long to load
    except ImportError:
        return None
    return trace
