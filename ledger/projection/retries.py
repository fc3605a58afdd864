"""Blocked projections: tried again after growing pauses, or their entry is skipped; and how a skip is taken back."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from ledger.drivers.pools import Connector
from ledger.effects import Plan
from ledger.errors import ProjectionFailed, SkipRefused
from ledger.events import Entry
from ledger.format.actions import OWN_ACTIONS
from ledger.projection import failures
from ledger.projection.base import Projection, Retry, ViewPosition
from ledger.projection.rebuild import rebuild
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.ledgers import LedgerRef
from ledger.store.own_actions import record_own, retrying, skipping
from ledger.store.worker import backoff
from ledger.telemetry import COUNTERS, FAILURES, Progress

log = logging.getLogger("ledger.standstill")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until an entry is tried again: after the first attempt, and at most."""
ACTOR, ACTOR_TYPE = "system:projector", "system"
"""The actor that skips an entry because of skip_after."""
SWAP_TAIL_TIMEOUT = 1.0
"""Seconds to wait for the tail while readers wait for a view that is swapped in."""


class _Blocked(NamedTuple):
    """attempts: of this worker. due: when it tries again, in seconds on the monotonic clock; None: never."""

    error: ProjectionFailed
    attempts: int
    due: float | None


class BlockedProjections:
    """The blocked projections of one worker. Other workers may go on or skip the entry: view positions tell.

    skip_after: attempts after which an entry is skipped, on the record; None for never. The ledger's own entries are
    never skipped, nor is an entry right after failures.ROW skipped ones.
    """

    def __init__(self, connector: Connector, skip_after: int | None) -> None:
        self._connector = connector
        self._skip_after = skip_after
        self._blocked: dict[tuple[int, str], _Blocked] = {}

    @property
    def errors(self) -> list[ProjectionFailed]:
        return [blocked.error for blocked in self._blocked.values()]

    def goes(self, ledger: LedgerRef, view_position: ViewPosition, projection: Projection) -> bool:
        """Whether the projection is not blocked, or it is time to try again; never for a view of another version."""
        if view_position.version != projection.version:
            return False
        blocked = self._blocked.get((ledger.ledger_id, projection.name))
        if blocked is None:
            return True
        if view_position.failed_position != blocked.error.position:  # skipped, or applied by another worker
            self.moved(ledger, projection.name)
            return True
        return blocked.due is not None and blocked.due <= time.monotonic()

    def moved(self, ledger: LedgerRef, name: str) -> None:
        """Notes that the projection has passed its entry, if it was blocked."""
        blocked = self._blocked.pop((ledger.ledger_id, name), None)
        if blocked is not None:
            log.info("projection %r goes on in ledger %r", name, ledger.name)

    def failed(self, ledger: LedgerRef, projection: Projection, error: ProjectionFailed, entry: Entry) -> None:
        """Notes an entry that could not be applied, for `status`; skips it after skip_after attempts."""
        noted = self._connector.run(failures.note(ledger.ledger_id, error, projection.version))
        if noted is None:
            return  # another worker has applied it meanwhile
        before = self._blocked.get((ledger.ledger_id, error.name))
        attempts = before.attempts + 1 if before is not None and before.error.position == error.position else 1
        pause = backoff(attempts, FIRST_PAUSE, LONGEST_PAUSE)
        self._block(ledger, _Blocked(error, attempts, time.monotonic() + pause))
        if self._must_skip(error, noted, entry):
            self._skip(ledger, error, noted.tries)

    def failed_to_rebuild(self, ledger: LedgerRef, projection: Projection, error: ProjectionFailed) -> None:
        """Notes why a new version was not built. It is not tried again before a restart: that may take hours."""
        self._connector.run(failures.note(ledger.ledger_id, error, projection.version))
        self._block(ledger, _Blocked(error, 1, None))

    def _block(self, ledger: LedgerRef, blocked: _Blocked) -> None:
        """Counts it, and logs it once per change, not per attempt."""
        error = blocked.error
        COUNTERS.add(FAILURES, "project", type(error).__name__, error.name)
        before = self._blocked.get((ledger.ledger_id, error.name))
        self._blocked[ledger.ledger_id, error.name] = blocked
        if before is None or (before.error.position, before.error.error) != (error.position, error.error):
            what = (error.name, error.position, ledger.name, error.error)
            fields = {"projection": error.name, "position": error.position}
            log.error("projection %r is blocked at entry %d of ledger %r: %s", *what, extra=fields)

    def _must_skip(self, error: ProjectionFailed, noted: failures.Noted, entry: Entry) -> bool:
        if self._skip_after is None or noted.tries < self._skip_after or not error.from_entry:
            return False
        return noted.row < failures.ROW and not entry.action.startswith(OWN_ACTIONS)

    def _skip(self, ledger: LedgerRef, error: ProjectionFailed, tries: int) -> None:
        """Skips the entry on the record."""
        event = skipping(error.name, error.position, ACTOR, f"failed {tries} times: {error.error}", ACTOR_TYPE)
        appender = Appender(ledger, self._connector.settings.lock_timeout)
        try:
            self._connector.run(record_own(appender, prepare(event, ledger.name, own=True)))
        except SkipRefused as refused:  # another worker was faster: the next refresh sees it
            log.warning("%s", refused)
            return
        del self._blocked[ledger.ledger_id, error.name]
        what = (error.name, error.position, ledger.name, tries)
        fields = {"projection": error.name, "position": error.position}
        log.warning("projection %r skips entry %d of ledger %r after %d attempts", *what, extra=fields)


def unskip(
    connector: Connector,
    projection: Projection,
    ledger: LedgerRef,
    position: int,
    actor: str,
    reason: str,
    *,
    actor_type: str = "user",
    progress: Progress | None = None,
) -> int:
    """Rebuilds a projection with an entry that it skips, and records that, in the transaction that swaps the view in.

    A rebuild, because the order of entries matters. If the entry still cannot be applied, nothing changes.
    Returns how many entries were applied. Raises SkipRefused, InvalidEvent, and what `rebuild` raises.
    """
    event = retrying(projection.name, position, actor, reason, actor_type)
    draft = prepare(event, ledger.name, own=True)
    skipped = dict(connector.run(_skips(ledger, projection.name)))
    if position not in skipped.get(projection.name, []):
        raise SkipRefused(f"entry {position} is not skipped by projection {projection.name!r}: nothing was recorded")

    def record() -> Plan[Any]:
        appender = Appender(ledger, connector.settings.lock_timeout)
        return record_own(appender, draft, SWAP_TAIL_TIMEOUT, begun=True)

    return rebuild(connector.settings, projection, progress, retry=Retry(ledger.ledger_id, position, record))


def _skips(ledger: LedgerRef, name: str) -> Plan[list[Any]]:
    rows: list[Any] = yield failures.skips(ledger.ledger_id, [name])
    return rows
