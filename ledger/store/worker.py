"""What the workers share (relay, projector, signer): the loop, backing off, and the places where each is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import NamedTuple

from ledger.drivers.pools import Connector
from ledger.effects import Plan, Query
from ledger.errors import LedgerError, Unavailable
from ledger.store.ledgers import LedgerRef
from ledger.store.quarantine import SQL
from ledger.telemetry import COUNTERS, FAILURES

log = logging.getLogger("ledger.stops")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds until a place is tried again: after the first time, and at most."""


class Pauses(NamedTuple):
    """Seconds between two steps of a worker.

    busy: after a step that did something. idle: the longest after steps that did nothing, for each of which the pause
    doubles. retry: after a server was unreachable.
    """

    busy: float
    idle: float
    retry: float


def run_until(
    stop: threading.Event,
    step: Callable[[], object],
    pauses: Pauses,
    *,
    log: logging.Logger,
    job: str | None = None,
    rest: Callable[[float], object] | None = None,
) -> None:
    """Calls `step` again and again until `stop` is set.

    step: returns whether it did something. Its Unavailable is logged, and `step` is called again after a pause: the
    connections that it needs are opened anew then. job: the name under which that counts as a failure, if at all.
    rest: waits for so many seconds at most between two steps; None: for `stop`.
    """
    pause = pauses.busy
    while not stop.is_set():
        try:
            pause = pauses.busy if step() else min(pauses.idle, pause * 2)
            if rest is not None:
                rest(pause)
                continue
        except Unavailable as error:
            log.warning("%s; trying again", error)
            if job is not None:
                COUNTERS.add(FAILURES, job, type(error).__name__, "")
            pause = pauses.retry
        stop.wait(pause)


def backoff(attempts: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failed attempts: `first`, then twice as long each time, up to `longest`.

    `longest` is at most 1,024 times `first`.
    """
    return min(longest, first * 2.0 ** min(attempts - 1, 10))


class _Stop(NamedTuple):
    """error: why. attempts: that failed. due: when it is tried again, on the monotonic clock."""

    error: LedgerError
    attempts: int
    due: float


class Stops:
    """The places where one worker is stopped: before an entry that does not hold, or at an unusable stream.

    Each is tried again after growing pauses, as the entry may have been quarantined or restored; the worker goes on
    elsewhere. job: the worker's name in the metrics. The worker chooses the keys of its places.
    """

    def __init__(self, connector: Connector, job: str) -> None:
        self._connector = connector
        self._job = job
        self._stops: dict[Hashable, _Stop] = {}

    @property
    def errors(self) -> list[LedgerError]:
        return [stop.error for stop in self._stops.values()]

    def waits(self, key: Hashable) -> bool:
        """Whether the worker is stopped there, and it is not yet time to try again."""
        stop = self._stops.get(key)
        return stop is not None and stop.due > time.monotonic()

    def look_again(self) -> None:
        """Lets all be tried at once."""
        self._stops = {key: stop._replace(due=0.0) for key, stop in self._stops.items()}

    def stopped(
        self,
        key: Hashable,
        ledger: LedgerRef,
        error: LedgerError,
        *,
        position: int | None = None,
        pause: float | None = None,
        quiet: bool = False,
    ) -> None:
        """Notes that the worker is stopped. Logged once per change of the error, unless quiet.

        position: of an entry that does not hold, which is also noted in the database, where `status` finds it.
        pause: seconds until it is tried again; None: backs off.
        """
        before = self._stops.get(key)
        attempts = 1 if before is None else before.attempts + 1
        if pause is None:
            pause = backoff(attempts, FIRST_PAUSE, LONGEST_PAUSE)
        self._stops[key] = _Stop(error, attempts, time.monotonic() + pause)
        COUNTERS.add(FAILURES, self._job, type(error).__name__, "")
        if not quiet and (before is None or str(before.error) != str(error)):
            log.error("ledger %r: %s", ledger.name, error, extra={"position": position})
        if position is not None:  # each time: others may have noted so many that this one is gone
            with suppress(LedgerError):  # a role without the right to, or an unreachable database: the log has it
                self._connector.run(_suspect(ledger, position))

    def passed(self, key: Hashable, ledger: LedgerRef) -> None:
        """Notes that the worker went on there, if it was stopped."""
        if self._stops.pop(key, None) is not None:
            log.info("%s goes on in ledger %r", self._job, ledger.name)


def _suspect(ledger: LedgerRef, position: int) -> Plan[None]:
    yield Query(SQL["suspect"], (ledger.ledger_id, position))
