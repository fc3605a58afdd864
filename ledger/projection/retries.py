"""Projections that stand still before an entry: tried again after growing pauses, or the entry is skipped by policy.

And skipped entries that are taken back.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from ledger.drivers.pools import Connector
from ledger.effects import Plan
from ledger.errors import ProjectionFailed, SkipRefused
from ledger.events import Entry
from ledger.format.rules import OWN_ACTIONS
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
"""Seconds before an entry is tried again: after the first try, and at most."""
ACTOR, ACTOR_TYPE = "system:projector", "system"
"""Who skips an entry by policy."""
SWAP_TAIL_TIMEOUT = 1.0
"""Seconds to wait for the tail while readers wait for a view that is put in place."""


class _Blocked(NamedTuple):
    """error: why. attempts: of this worker, in vain. due: when it tries again, on the monotonic clock; None: never."""

    error: ProjectionFailed
    attempts: int
    due: float | None


class BlockedProjections:
    """What stands still in one worker. Others may stand still, go on or skip the same meanwhile: checkpoints say so.

    skip_after: after so many tries an entry is skipped, on the record; None for never. The ledger's own entries never
    are, nor is any while trouble.ROW skipped ones stand before it.
    """

    def __init__(self, connector: Connector, skip_after: int | None) -> None:
        self._connector = connector
        self._skip_after = skip_after
        self._blocked: dict[tuple[int, str], _Blocked] = {}

    @property
    def errors(self) -> list[ProjectionFailed]:
        return [blocked.error for blocked in self._blocked.values()]

    def goes(self, ledger: LedgerRef, view_position: ViewPosition, projection: Projection) -> bool:
        """Does the projection go on, or is it time to try again? A view of another version is left as it is."""
        if view_position.version != projection.version:
            return False
        blocked = self._blocked.get((ledger.ledger_id, projection.name))
        if blocked is None:
            return True
        if view_position.failed_position != blocked.error.position:  # skipped, or another worker was luckier
            self.moved(ledger, projection.name)
            return True
        return blocked.due is not None and blocked.due <= time.monotonic()

    def moved(self, ledger: LedgerRef, name: str) -> None:
        """The projection has come past what it stood still at, if it did."""
        blocked = self._blocked.pop((ledger.ledger_id, name), None)
        if blocked is not None:
            log.info("projection %r goes on in ledger %r", name, ledger.name)

    def failed(self, ledger: LedgerRef, projection: Projection, error: ProjectionFailed, entry: Entry) -> None:
        """Notes an entry that could not be applied, for `status`; skips it where that is the policy."""
        noted = self._connector.run(failures.note(ledger.ledger_id, error, projection.version))
        if noted is None:
            return  # another worker has applied it meanwhile
        before = self._blocked.get((ledger.ledger_id, error.name))
        attempts = before.attempts + 1 if before is not None and before.error.position == error.position else 1
        pause = backoff(attempts, FIRST_PAUSE, LONGEST_PAUSE)
        self._stand(ledger, _Blocked(error, attempts, time.monotonic() + pause))
        if self._is_to_be_skipped(error, noted, entry):
            self._skip(ledger, error, noted.tries)

    def failed_to_rebuild(self, ledger: LedgerRef, projection: Projection, error: ProjectionFailed) -> None:
        """Notes why a new version is not in place. It is not tried again before a restart: that may take hours."""
        self._connector.run(failures.note(ledger.ledger_id, error, projection.version))
        self._stand(ledger, _Blocked(error, 1, None))

    def _stand(self, ledger: LedgerRef, blocked: _Blocked) -> None:
        """Counts and logs it, once a change, not once a try."""
        error = blocked.error
        COUNTERS.add(FAILURES, "project", type(error).__name__, error.name)
        before = self._blocked.get((ledger.ledger_id, error.name))
        self._blocked[ledger.ledger_id, error.name] = blocked
        if before is None or (before.error.position, before.error.error) != (error.position, error.error):
            what = (error.name, error.position, ledger.name, error.error)
            said = {"projection": error.name, "position": error.position}
            log.error("projection %r stands still at entry %d of ledger %r: %s", *what, extra=said)

    def _is_to_be_skipped(self, error: ProjectionFailed, noted: failures.Noted, entry: Entry) -> bool:
        if self._skip_after is None or noted.tries < self._skip_after or not error.from_entry:
            return False
        return noted.row < failures.ROW and not entry.action.startswith(OWN_ACTIONS)

    def _skip(self, ledger: LedgerRef, error: ProjectionFailed, tries: int) -> None:
        """Skips the entry on the record."""
        event = skipping(error.name, error.position, ACTOR, f"failed {tries} times: {error.error}", ACTOR_TYPE)
        appender = Appender(ledger, self._connector.settings.lock_timeout)
        try:
            self._connector.run(record_own(appender, prepare(event, ledger.name, own=True)))
        except SkipRefused as refused:  # another worker was faster; then the checkpoint says so
            log.warning("%s", refused)
            return
        del self._blocked[ledger.ledger_id, error.name]
        what = (error.name, error.position, ledger.name, tries)
        said = {"projection": error.name, "position": error.position}
        log.warning("projection %r leaves out entry %d of ledger %r after %d tries", *what, extra=said)


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
    """Rebuilds a projection with an entry that it skips, and records that, in the transaction that puts it in place.

    Never applied after the entries behind it, because their order matters. Where it still cannot be applied, nothing
    has changed. Returns how many entries were replayed. Raises SkipRefused, InvalidEvent, and what `rebuild` raises.
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
