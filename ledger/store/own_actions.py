"""Erasure, legal hold, skipped entries: what the ledger itself records of them, and the plan that does it.

An erasure removes the body of an entry (before, after, metadata, salt) and records `ledger.entry_erased` in the same
transaction; the envelope stays, and with it the chain. The relay deletes the stream's copy when it publishes that
entry, and projections drop what they made of the body when they come to it, rebuilds in progress too; what a killed
rebuild left behind is dropped at once. What an erasure does not reach:

- backups, base backups and WAL archives made before it, and replicas until they have replayed it;
- Postgres' dead row versions until VACUUM, statistics until ANALYZE, and deleted blocks on the disk;
- in Redis, which only marks a stream entry as deleted, its bytes in memory and in RDB and AOF files until the entries
  around it are trimmed (or the stream's key is deleted: the relay fills it again);
- bundles exported before it, and whatever subscribers made of the entry elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ledger.effects import Pipeline, Plan, Query, Refused, Rollback
from ledger.errors import (
    ErasureRefused,
    HoldRefused,
    IdempotencyConflict,
    InvalidEvent,
    QuarantineRefused,
    SkipRefused,
    Unavailable,
    UnderLegalHold,
    UsageError,
)
from ledger.events import Entry, Event, Receipt
from ledger.format.actions import (
    ERASED,
    ERASED_TYPE,
    HOLD_PLACED,
    HOLD_RELEASED,
    KEY_ROTATED,
    QUARANTINED,
    RETRIED,
    SKIP_TYPE,
    SKIPPED,
    TREE_REBUILT,
    TREE_TYPE,
)
from ledger.format.canonical import Draft
from ledger.store.appender import Appender
from ledger.store.columns import entry_sql
from ledger.store.durability import FLUSH
from ledger.store.idempotency import AlreadyRecorded, Outcome
from ledger.store.ledgers import BEGIN, LOCK_TIMEOUT, LedgerRef

SQL = entry_sql(__file__)
_NAME = re.compile(r"[a-z][a-z0-9_]*").fullmatch
_FUNCTIONS = {
    ERASED: "erase_entry",
    HOLD_PLACED: "place_hold",
    HOLD_RELEASED: "release_hold",
    KEY_ROTATED: "record_key",
    QUARANTINED: "quarantine_entry",
    SKIPPED: "skip_entry",
    RETRIED: "retry_entry",
    TREE_REBUILT: "rebuild_tree",
}
"""Which function of the schema records which of the ledger's own actions; nothing else can."""
_DONE = {
    ERASED: "erased",
    HOLD_PLACED: "put under a legal hold",
    HOLD_RELEASED: "released",
    KEY_ROTATED: "recorded",
    QUARANTINED: "quarantined",
    SKIPPED: "skipped",
    TREE_REBUILT: "rebuilt",
}


def erasing(
    position: int, actor: str, reason: str, actor_type: str = "user", *, mismatched: str | None = None
) -> Event:
    """The event of an erasure: which entry, by whom and why. Raises InvalidEvent.

    mismatched: the digest of the body, in hex, if that does not match the entry's envelope.
    """
    event = _own(ERASED, position, actor, reason, actor_type)
    if mismatched is None:
        return event
    return msgspec.structs.replace(event, metadata={"mismatched": mismatched, "reason": reason})


def mismatch(ledger: LedgerRef, event: Event, allowed: bool) -> Plan[str | None]:
    """The digest (hex) of the body that an erasure removes; None if it is the one that the entry's envelope names.

    Raises ErasureRefused for such a body unless that is allowed: it is evidence, and would be destroyed.
    """
    [(digest, matches)] = yield Query(SQL["body_digest"], (ledger.ledger_id, event.resource_id))
    if matches or digest is None:
        return None
    if matches is not None and not allowed:  # None: it was erased before
        raise ErasureRefused(_mismatched_text(event.resource_id))
    return str(digest)


def _mismatched_text(position: str | None) -> str:
    return (
        f"entry {position}: body hash mismatch. The body was changed, and erasing it destroys the evidence. Keep a "
        f"copy and run 'auditledger verify --from {position}'; then 'auditledger erase --mismatched' (mismatched=True) "
        "records the changed body's hash, and verify keeps reporting it. Nothing was erased"
    )


def holding(held: tuple[str, str] | int, actor: str, reason: str, actor_type: str = "user") -> Event:
    """The event that places a legal hold on a resource (type, id) or on one entry. Raises InvalidEvent."""
    return _own(HOLD_PLACED, held, actor, reason, actor_type)


def releasing(held: tuple[str, str] | int, actor: str, reason: str, actor_type: str = "user") -> Event:
    """The event that releases what `holding` placed. Raises InvalidEvent."""
    return _own(HOLD_RELEASED, held, actor, reason, actor_type)


def skipping(name: str, position: int, actor: str, reason: str, actor_type: str = "user") -> Event:
    """The event of a skip: a projection leaves out the entry at a position. Raises InvalidEvent."""
    return _own(SKIPPED, _skip(name, position), actor, reason, actor_type)


def retrying(name: str, position: int, actor: str, reason: str, actor_type: str = "user") -> Event:
    """The event that takes back a skip. Raises InvalidEvent."""
    return _own(RETRIED, _skip(name, position), actor, reason, actor_type)


def rebuilding_tree(
    ledger: str, sizes: Sequence[int], stands: Any, actor: str, reason: str, actor_type: str = "user"
) -> Event:
    """The event of a rebuilt tree: all tiles, and the checkpoints of these sizes, were removed to be made again.

    ledger: its name. stands: what they were, as tree.stands tells it. Raises InvalidEvent.
    """
    event = _own(TREE_REBUILT, (TREE_TYPE, ledger), actor, reason, actor_type)
    return msgspec.structs.replace(event, metadata=event.metadata | {"sizes": list(sizes), "tree": stands})


def record_own(
    appender: Appender, draft: Draft, tail_timeout: float = math.inf, *, begun: bool = False
) -> Plan[list[Outcome]]:
    """Performs and records one of the ledger's own actions in one transaction. Returns its one outcome.

    An action that the same actor performed before, for the same reason, gets its first receipt.
    tail_timeout: as in Appender.append. begun: in the transaction that is open, which it commits.
    Raises ErasureRefused, UnderLegalHold, HoldRefused, SkipRefused.
    """
    try:
        if draft.event.action == SKIPPED:
            yield from _lock_projection(appender, draft)
            begun = True
        function = SQL["record_own"].format(_FUNCTIONS[draft.event.action])
        entry = yield from appender.append_own(draft, function, tail_timeout, begun=begun)
    except Refused as refused:
        error = _refusal(draft.event.action, refused)
        if error is None:
            raise
        yield Rollback()
        with suppress(Refused):  # no right to flush
            yield FLUSH  # what the error tells of the ledger is durable
        raise error from refused
    if draft.event.action == ERASED:
        yield from _clear_rebuilds()
    if not _says_the_same(draft, entry):
        raise _done_before(draft.event, entry)
    return [AlreadyRecorded(Receipt(entry.id, entry.position, entry.hash, entry.recorded_at))]


def _skip(name: str, position: int) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME(name):
        raise InvalidEvent("projection", f"must be a projection's name, as `status` shows it, not {name!r}")
    if not isinstance(position, int) or not 0 < position < 10**18:
        raise InvalidEvent("position", f"must be the position of an entry, not {position!r}")
    return SKIP_TYPE, f"{name}:{position}"


def _clear_rebuilds() -> Plan[None]:
    """Drops what killed rebuilds left behind. The erasure is recorded: should this fail, the next worker does it."""
    try:
        yield Query(SQL["clear_rebuilds"])
    except Refused:
        yield Rollback()


def _lock_projection(appender: Appender, draft: Draft) -> Plan[None]:
    """Before the tail: no append is to wait for the batch that a worker applies just now."""
    name = (draft.event.resource_id or "").partition(":")[0]
    try:
        yield Pipeline((BEGIN, Query(SQL["lock_projection"], (appender.ledger.ledger_id, name))))
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        raise Unavailable(f"a worker is busy with projection {name!r}: nothing was recorded, try again") from refused


def _own(action: str, about: tuple[str, str] | int, actor: str, reason: str, actor_type: str) -> Event:
    match about:
        case int():
            resource_type, resource_id = ERASED_TYPE, str(about)
        case (str(resource_type), str(resource_id)) if action != ERASED:
            pass
        case _:
            raise InvalidEvent("resource", f"must be the position of an entry, or a pair (type, id), not {about!r}")
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidEvent("reason", "must say why; it stays in the ledger, so name no personal data in it")
    return Event(actor, action, resource_type, resource_id, actor_type, metadata={"reason": reason})


def _refusal(action: str, refused: Refused) -> UsageError | None:
    text = refused.first_line
    match refused.sqlstate:  # of schema/0004, 0007, 0009 and 0011
        case "LE020":
            return UsageError(f"{text}: nothing was recorded")
        case "LE006" if action == QUARANTINED:
            return QuarantineRefused(f"{text}: nothing was recorded")
        case "LE011":
            return ErasureRefused(text)
        case "LE006" | "LE010" if action in (SKIPPED, RETRIED):
            text = text.replace("does not stand still at", "is not blocked at")  # as schema/0007 has it
            return SkipRefused(f"{text}: nothing was recorded")
        case "LE006" if action != ERASED:  # no such entry
            return HoldRefused(text)
        case "LE006" | "LE007":
            return ErasureRefused(text)
        case "LE008":
            return UnderLegalHold(text)
        case "LE009":
            return HoldRefused(text)
    return None


def _says_the_same(draft: Draft, entry: Entry) -> bool:
    event, metadata = draft.event, None if draft.metadata is None else draft.metadata.decode()
    return (event.actor, event.actor_type, metadata) == (entry.actor, entry.actor_type, entry.metadata_json)


def _done_before(event: Event, entry: Entry) -> UsageError:
    text = (
        f"{event.resource_type}:{event.resource_id} was {_DONE[event.action]} already, by {entry.actor} at position "
        f"{entry.position}: nothing was recorded"
    )
    kinds: dict[str, type[UsageError]] = {
        ERASED: ErasureRefused,
        KEY_ROTATED: IdempotencyConflict,
        QUARANTINED: QuarantineRefused,
        SKIPPED: SkipRefused,
    }
    return kinds.get(event.action, HoldRefused)(text)
