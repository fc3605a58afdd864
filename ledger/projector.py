"""Keeps live projections up to date: reads once for all of them, applies, again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from ledger import projection as plans
from ledger.consumer import Reader, Streams, next_entries, set_back
from ledger.drive import Redis
from ledger.errors import ProjectionFailed, Unavailable
from ledger.events import Entry
from ledger.projection import Checkpoint, Projection
from ledger.relay import Standing, standings
from ledger.replay import rebuild
from ledger.servers import Servers
from ledger.telemetry import COUNTERS, FAILURES, PROJECTED, span

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds to wait on the streams for something new, and so the longest to notice a stop."""
REFRESH = 1.0
"""Seconds between looks for new ledgers and at checkpoints that others moved."""
MANY = 100
"""From so many entries on each projection applies them in a thread and a transaction of its own."""
RETRY = 1.0
"""Seconds before a server that was away is tried again."""


class Projector:
    """Runs projections over the ledgers of one database; any number of projectors may run at once.

    names: of the ledgers, None for all. A projection that fails stops, with its view before the entries that it failed
    on, and the others go on; `failed` has the errors.
    """

    def __init__(
        self, servers: Servers, projections: Sequence[Projection], names: Collection[str] | None = None
    ) -> None:
        self._servers = servers
        self._names = names
        self._going = list(projections)
        self._redis: Redis | None = None
        self._streams = Streams(servers.settings.redis_url is not None)
        self._readers: dict[int, Reader] = {}
        self.failed: list[ProjectionFailed] = []

    def install(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Creates the tables of new projections, and rebuilds those whose version has changed."""
        ledgers = [standing.ledger for standing in self._servers.run(standings(None))]
        for projection in self._going:
            found = self._servers.run(plans.checkpoints(projection.name))
            if any(checkpoint.version != projection.version for checkpoint in found.values()):
                log.warning("projection %r has a new version: rebuilding its view", projection.name)
                rebuild(self._servers.settings, projection, progress)
            self._servers.run(plans.install(projection, ledgers))

    def run(self, stop: threading.Event) -> None:
        """Projects until `stop` is set or every projection has failed; a server that is away is waited for."""
        refreshed = 0.0
        while not stop.is_set() and self._going:
            try:
                if time.monotonic() - refreshed > REFRESH:
                    self._refresh()
                    refreshed = time.monotonic()
                self._step(WAIT)
            except Unavailable as error:
                log.warning("%s; trying again", error)
                COUNTERS.add(FAILURES, "project", type(error).__name__, "")
                refreshed = 0.0
                stop.wait(RETRY)

    def catch_up(self, progress: Callable[[int], None] | None = None) -> int:
        """Projects until the ledgers' ends as they are now. Returns how many entries that took."""
        count = 0
        self._refresh()
        goals = {standing.ledger.ledger_id: standing.position for standing in self._servers.run(standings(self._names))}
        while self._going and any(self._readers[ledger_id].tail.position < goal for ledger_id, goal in goals.items()):
            taken = self._step(None)
            count += taken
            if progress is not None:
                progress(taken)
        return count

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _refresh(self) -> None:
        """Places a reader in each ledger where the slowest projection stands; new ledgers get their checkpoints."""
        found = self._servers.run(standings(self._names))
        ledgers = [standing.ledger for standing in found]
        checkpoints: dict[int, list[Checkpoint]] = {ledger.ledger_id: [] for ledger in ledgers}
        for projection in self._going:
            known = self._servers.run(plans.checkpoints(projection.name))
            if any(ledger.ledger_id not in known for ledger in ledgers):
                self._servers.run(plans.install(projection, ledgers))
                known = self._servers.run(plans.checkpoints(projection.name))
            for ledger in ledgers:
                checkpoints[ledger.ledger_id].append(known[ledger.ledger_id])
        self._check_not_ahead(found, checkpoints)
        self._readers = {
            standing.ledger.ledger_id: _reader(standing, checkpoints[standing.ledger.ledger_id])
            for standing in found
            if self._going
        }

    def _check_not_ahead(self, found: Sequence[Standing], checkpoints: dict[int, list[Checkpoint]]) -> None:
        """Raises StreamDiverged where a view has seen more than there is. Ledgers may have grown since `found`."""
        reached = {
            ledger_id: max((each.position for each in some), default=0) for ledger_id, some in checkpoints.items()
        }
        if any(reached[standing.ledger.ledger_id] > standing.position for standing in found):
            for standing in self._servers.run(standings(self._names)):
                if reached.get(standing.ledger.ledger_id, 0) > standing.position:
                    raise set_back(standing.ledger, reached[standing.ledger.ledger_id], standing.position)

    def _step(self, wait: float | None) -> int:
        """Reads what is next and applies it. Returns how many entries that were."""
        readers = list(self._readers.values())
        if not readers:
            time.sleep(wait or 0)
            return 0
        if self._streams.there and self._redis is None:
            self._redis = self._servers.new_redis()
        found = self._servers.run(next_entries(readers, self._streams, wait=wait), self._redis)
        for ledger_id, entries in found.items():
            reader = self._readers[ledger_id]
            try:
                with span("ledger.project", name=reader.ledger.name, last=entries[-1].position, entries=len(entries)):
                    held = self._advance(reader, entries)
            except ProjectionFailed as error:
                self._stop_failed(error)
                return 0
            if len(held) < len(self._going):  # a rebuild was swapped in meanwhile, with checkpoints of its own
                self._refresh()
                return 0
            reader.tail = entries[-1].tail
        return sum(map(len, found.values()))

    def _advance(self, reader: Reader, entries: Sequence[Entry]) -> dict[str, Checkpoint]:
        """Applies the entries; the projections' checkpoints afterwards. Raises ProjectionFailed.

        A few go into all views in one commit, which is quickest. With many, one view is prepared while Postgres works
        on another; those that did not fail keep what they did.
        """

        def advance(projections: Sequence[Projection]) -> dict[str, Checkpoint]:
            plan = plans.advance(reader.ledger, projections, reader.tail, entries, epoch=reader.epoch, applied=applied)
            return self._servers.run(plan)

        def applied(name: str, count: int) -> None:
            COUNTERS.add(PROJECTED, reader.ledger.name, name, count=count)

        if len(entries) < MANY:
            return advance(self._going)
        with ThreadPoolExecutor(len(self._going)) as executor:
            held = list(executor.map(advance, [[projection] for projection in self._going]))
        return {name: checkpoint for each in held for name, checkpoint in each.items()}

    def _stop_failed(self, error: ProjectionFailed) -> None:
        """The others go on without it, each from where it stands."""
        log.error("%s", error, extra={"projection": error.name, "position": error.position})
        COUNTERS.add(FAILURES, "project", type(error).__name__, error.name)
        self.failed.append(error)
        self._going = [projection for projection in self._going if projection.name != error.name]
        self._refresh()


def _reader(standing: Standing, checkpoints: Sequence[Checkpoint]) -> Reader:
    slowest = min(checkpoints, key=lambda checkpoint: checkpoint.position)
    return Reader(standing.ledger, slowest.tail, slowest.epoch if slowest.position else standing.epoch)
