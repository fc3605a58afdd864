"""Keeps live projections up to date: reads once for all of them, applies, again and again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from ledger.drivers.pools import Connector
from ledger.drivers.run import Redis
from ledger.errors import ChainBroken, LedgerError, ProjectionFailed, StreamDiverged, Unavailable, UsageError
from ledger.events import Entry, Seen, Tail
from ledger.projection.apply import advance, advance_exactly
from ledger.projection.base import Projection, check_projection, clear_rebuilds, install, view_positions
from ledger.projection.lanes import BATCH, MANY, Batches, Lane, LeftOut, Positions, ReadAhead, ahead_of, lanes_of
from ledger.projection.rebuild import rebuild
from ledger.projection.retries import BlockedProjections
from ledger.store.ledgers import PAGE, LedgerEnd, LedgerRef, ledger_ends
from ledger.store.worker import Pauses, Stops, run_until
from ledger.stream.reader import NO_STREAMS, Reader, Streams, next_entries, rolled_back
from ledger.telemetry import COUNTERS, FAILURES, PROJECTED, Progress, span

log = logging.getLogger("ledger.projector")

WAIT_SECONDS = 0.5
"""Seconds to wait on the streams for something new, and so the longest to notice a stop."""
REFRESH_SECONDS = 1.0
"""Seconds between looks for new ledgers and for view positions that others moved."""
PAUSES = Pauses(busy=0.0, idle=0.0, retry=1.0)
"""None between steps: each waits for something new itself."""


class Projector:
    """Runs projections over the ledgers of one database; any number of projectors may run at once.

    names: of the ledgers, None for all. A projection that fails in a ledger is blocked there, before the entry that it
    could not apply, and is tried again after growing pauses; the others go on. Before an entry that does not hold, all
    projections stop that have not passed it yet, likewise. skip_after: as in BlockedProjections.
    """

    def __init__(
        self,
        connector: Connector,
        projections: Sequence[Projection],
        names: Collection[str] | None = None,
        *,
        skip_after: int | None = None,
    ) -> None:
        self._connector = connector
        self._names = names
        self._blocked = BlockedProjections(connector, skip_after)
        self._stops = Stops(connector, "project")
        self._projections = [check_projection(each) for each in projections]
        self._redis: Redis | None = None
        self._streams = Streams(connector.settings.redis_url is not None)
        self._believed = True  # the stream, until it is ahead of a database that was restored
        self._front: dict[int, Lane] = {}
        self._behind: list[Lane] = []
        self._ahead, self._broken = LeftOut(), LeftOut()
        self._read_ahead = ReadAhead(self._read)

    @property
    def failed(self) -> list[ProjectionFailed]:
        """The error of each blocked projection."""
        return self._blocked.errors

    @property
    def stopped(self) -> list[LedgerError]:
        """The errors of the entries that do not hold, before which projections have stopped."""
        return self._stops.errors

    def install(self, progress: Progress | None = None) -> None:
        """Creates the tables of new projections, and rebuilds those whose version has changed."""
        self._connector.run(clear_rebuilds())
        ledgers = [ledger_end.ledger for ledger_end in self._connector.run(ledger_ends(None))]
        for projection in self._projections:
            known = self._connector.run(view_positions(projection.name))
            if any(view_position.version != projection.version for view_position in known.values()):
                log.warning("projection %r has a new version: rebuilding its view", projection.name)
                try:
                    rebuild(self._connector.settings, projection, progress)
                except ProjectionFailed as error:
                    [ledger] = [each for each in ledgers if each.name == error.ledger]
                    self._blocked.failed_to_rebuild(ledger, projection, error)
                    continue
                except ChainBroken as error:
                    ledger = next((each for each in ledgers if each.name == error.ledger), ledgers[0])
                    self._stops.stopped((ledger.ledger_id, projection.name), ledger, error, position=error.position)
                    continue
            self._install(projection, ledgers)

    def _install(self, projection: Projection, ledgers: Sequence[LedgerRef]) -> None:
        """Leaves the projection out if its tables exist without view positions, or the reverse."""
        errors = {name: error for name, error in self._broken.errors.items() if name != projection.name}
        try:
            self._connector.run(install(projection, ledgers))
        except (Unavailable, UsageError):
            raise
        except LedgerError as error:
            problem = f"{error}: 'auditledger replay {projection.name}' builds it anew"
            errors[projection.name] = LedgerError(problem)
        self._broken.update(errors)

    def run(self, stop: threading.Event) -> None:
        """Projects until `stop` is set; an unreachable server is tried again."""
        refreshed = 0.0

        def step() -> None:
            nonlocal refreshed
            try:
                if time.monotonic() - refreshed > REFRESH_SECONDS:
                    self._refresh()
                    refreshed = time.monotonic()
                self._step(WAIT_SECONDS)
            except Unavailable:
                refreshed = 0.0
                raise
            except StreamDiverged as error:  # the next refresh leaves out what is ahead of its ledger
                log.warning("%s", error)
                COUNTERS.add(FAILURES, "project", type(error).__name__, "")
                refreshed = 0.0

        run_until(stop, step, PAUSES, log=log, job="project")

    def catch_up(self, progress: Callable[[int], None] | None = None) -> int:
        """Projects up to the ledgers' ends as they are now. Returns how many entries were applied.

        progress: called with the number of entries of each batch. Does not wait for blocked projections, which `failed`
        tells. Once the others are done, raises StreamDiverged if a view has seen more than its ledger has, and the
        error of a projection that could not be installed.
        """
        count = 0
        self._refresh()
        ends = self._connector.run(ledger_ends(self._names))
        goals = {ledger_end.ledger.ledger_id: ledger_end.position for ledger_end in ends}
        while any(
            lane.reader.tail.position < goals.get(lane.reader.ledger.ledger_id, 0)
            for lane in (*self._front.values(), *self._behind)
        ):
            taken = self._step(None)
            count += taken
            if progress is not None:
                progress(taken)
        for error in (*self._ahead.errors.values(), *self._broken.errors.values()):
            raise error
        return count

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    # ---------------------------------------------------------------------------------------------------------- lanes

    def _refresh(self) -> None:
        """Makes the lanes anew, from the view positions in the database; projections are installed in new ledgers."""
        ends = self._connector.run(ledger_ends(self._names))
        ledgers = [ledger_end.ledger for ledger_end in ends]
        positions: Positions = {ledger.ledger_id: [] for ledger in ledgers}
        for projection in self._projections:
            known = self._connector.run(view_positions(projection.name))
            is_current = all(view_position.version == projection.version for view_position in known.values())
            if is_current and any(ledger.ledger_id not in known for ledger in ledgers):
                self._install(projection, ledgers)
                known = self._connector.run(view_positions(projection.name))
            for ledger in ledgers:
                if ledger.ledger_id in known:
                    positions[ledger.ledger_id].append((known[ledger.ledger_id], projection))
        self._leave_out_ahead(ends, positions)
        self._believed = True
        self._front, self._behind = {}, []
        for ledger_end in ends:
            ledger = ledger_end.ledger
            going = [each for each in positions[ledger.ledger_id] if self._blocked.goes(ledger, *each)]
            lanes = [lane for lane in lanes_of(ledger_end, going) if not self._stops.waits(lane.place)]
            if lanes:
                *behind, self._front[ledger.ledger_id] = lanes
                self._behind += behind

    def _was_elsewhere(self) -> bool:
        """Whether it read on from elsewhere than the views are, as after a restore of the database. Refreshes."""
        before = self._tails()
        self._refresh()
        return self._tails() != before

    def _tails(self) -> list[Tail]:
        return [lane.reader.tail for lane in (*self._front.values(), *self._behind)]

    def _leave_out_ahead(self, ends: Sequence[LedgerEnd], positions: Positions) -> None:
        """Leaves out views that have seen more than their ledger has. Ledgers may have grown since `ends`."""
        ahead = ahead_of(ends, positions)
        if ahead:
            ahead = ahead_of(self._connector.run(ledger_ends(self._names)), positions)
        errors = {}
        for ledger_end, each in ahead:
            positions[ledger_end.ledger.ledger_id].remove(each)
            error = rolled_back(ledger_end.ledger, each[0].position, ledger_end.position)
            errors[f"{ledger_end.ledger.name} {each[1].name}"] = error
        self._ahead.update(errors)

    # -------------------------------------------------------------------------------------------------------- applying

    def _step(self, wait: float | None) -> int:
        """Reads the next entries and applies them. Returns how many, of each ledger those of its slowest lane."""
        if not self._front:
            time.sleep(wait or 0)
            return 0
        front = self._read_ahead.take(self._front)
        if not front:
            front = self._read([lane.reader for lane in self._front.values()], None if self._behind else wait)
        work = [(self._front[ledger_id], entries) for ledger_id, entries in front.items()]
        for lane in self._behind:  # they read entries that are long out of the stream
            batches = self._connector.run(next_entries([lane.reader], NO_STREAMS, wait=None))
            work += [(lane, entries) for entries in batches.values()]
        for lane in (*self._front.values(), *self._behind):
            if lane.reader.stopped is not None:
                self._stop(lane, lane.reader.stopped)
                return 0
        random.shuffle(work)  # an error of one ledger keeps no other from its turn
        with self._read_ahead.beyond(self._front, front):
            return self._apply(work)

    def _read(self, readers: Sequence[Reader], wait: float | None = None) -> Batches:
        if self._streams.there and self._redis is None:
            self._redis = self._connector.new_redis()
        streams = self._streams if self._believed else NO_STREAMS
        return self._connector.run(next_entries(readers, streams, wait=wait, limit=BATCH), self._redis)

    def _apply(self, work: Sequence[tuple[Lane, Sequence[Seen]]]) -> int:
        """Applies to each lane what was read for it. Returns as `_step` does."""
        for lane, entries in work:
            ledger = lane.reader.ledger
            try:
                with span("ledger.project", name=ledger.name, last=entries[-1].position, entries=len(entries)):
                    done, together = self._advance(lane, entries)
            except StreamDiverged as error:
                log.warning("%s: reading from Postgres. 'auditledger relay' says what to do", error)
                COUNTERS.add(FAILURES, "project", type(error).__name__, "")
                self._believed = False
                return 0
            except ChainBroken as error:
                self._stop(lane, error)
                return 0
            except Unavailable:
                raise
            except LedgerError as error:  # whatever it is, the other ledgers go on
                self._stops.stopped(lane.place, ledger, error)
                self._refresh()
                return 0
            self._stops.passed(lane.place, ledger)
            if not together:
                self._refresh()
                return done
            lane.reader.tail = entries[-1].tail
        rear = {lane.reader.ledger: lane for lane in (*self._front.values(), *reversed(self._behind))}
        if any(self._has_caught_up(lane) for lane in self._behind):
            self._refresh()
        return sum(len(entries) for lane, entries in work if rear[lane.reader.ledger] is lane)

    def _stop(self, lane: Lane, error: ChainBroken) -> None:
        """Stops the lane where it is, unless it was read from elsewhere than its views are now."""
        if self._was_elsewhere():
            log.warning("%s. Its views were rolled back with it, and go on", error)
            return
        self._stops.stopped(lane.place, lane.reader.ledger, error, position=error.position)
        self._refresh()

    def _has_caught_up(self, lane: Lane) -> bool:
        front = self._front[lane.reader.ledger.ledger_id]
        return front.reader.tail.position - lane.reader.tail.position <= PAGE

    def _advance(self, lane: Lane, entries: Sequence[Seen]) -> tuple[int, bool]:
        """Applies the entries. Returns how many, and whether all of the lane's projections are at their end then.

        A few are applied to all views in one commit, which is quickest. Many are applied to each view in a thread of
        its own, so that one is prepared while Postgres works on another; those that do not fail keep what they did.
        """
        reader = lane.reader

        def applied(name: str, count: int) -> None:
            COUNTERS.add(PROJECTED, reader.ledger.name, name, count=count)
            self._blocked.moved(reader.ledger, name)

        def alone(projection: Projection) -> int | ProjectionFailed:
            plan = advance_exactly(reader.ledger, projection, reader.tail, entries, epoch=reader.epoch, applied=applied)
            try:
                return len(self._connector.run(plan))
            except ProjectionFailed as error:
                return error

        if len(lane.projections) == 1:
            outcomes = [alone(*lane.projections)]
        elif len(entries) < MANY:
            plan = advance(reader.ledger, lane.projections, reader.tail, entries, epoch=reader.epoch, applied=applied)
            try:
                # Fewer if a rebuild was swapped in meanwhile, with view positions of its own.
                return len(entries), len(self._connector.run(plan)) == len(lane.projections)
            except ProjectionFailed:  # each alone, to see which failed
                outcomes = [alone(projection) for projection in lane.projections]
        else:
            with ThreadPoolExecutor(len(lane.projections)) as executor:
                outcomes = list(executor.map(alone, lane.projections))
        done = []
        for projection, outcome in zip(lane.projections, outcomes, strict=True):
            done.append(len(entries))
            if isinstance(outcome, ProjectionFailed):
                done[-1] = outcome.position - reader.tail.position - 1
                entry = entries[done[-1]]
                if isinstance(entry, Entry):  # a quarantined one is applied to no view
                    self._blocked.failed(reader.ledger, projection, outcome, entry)
        return max(done), all(outcome == 1 for outcome in outcomes)
