"""The dead letters of a consumer group: listed, and redelivered. Plans.

They are kept in Redis alone, in a hash from position to delivery attempts: they are lost if Redis is.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.effects import Command, Plan, foreseen
from ledger.errors import UsageError
from ledger.store.ledgers import LedgerRef
from ledger.stream.commands import end_of
from ledger.stream.wire import group_keys, key

_CONSUMER = "auditledger"
_LONG_AGO = 365 * 86_400_000
"""Milliseconds: the idle time that a dead letter is given, so that the next consumer claims it."""


class DeadLetter(NamedTuple):
    """tries: delivery attempts. reason: of the last `nack`, None if there was none."""

    position: int
    tries: int
    reason: str | None


def dead_letters(ledger: LedgerRef, group: str) -> Plan[list[DeadLetter]]:
    """The group's dead letters, by position."""
    keys = group_keys(ledger.name, group)
    tries_reply = yield Command(("HGETALL", keys.parked))
    reasons_reply = yield Command(("HGETALL", keys.reasons))
    with foreseen("HGETALL"):
        reasons = {int(position): text.decode(errors="replace") for position, text in _pairs(reasons_reply)}
        attempts = {int(position): int(tries) for position, tries in _pairs(tries_reply)}
    return [DeadLetter(position, tries, reasons.get(position)) for position, tries in sorted(attempts.items())]


def redeliver(ledger: LedgerRef, group: str, position: int) -> Plan[None]:
    """Delivers a dead letter to the group's next consumer, as if for the first time.

    Raises UsageError if the entry is no dead letter, or no longer in the stream.
    """
    if position not in {letter.position for letter in (yield from dead_letters(ledger, group))}:
        raise UsageError(f"entry {position} is not a dead letter of group {group!r}")
    id_ = (yield from end_of(ledger))._replace(position=position)
    claimed = yield Command(
        (
            *("XCLAIM", key(ledger.name), group, _CONSUMER, 0, str(id_)),
            *("IDLE", _LONG_AGO, "RETRYCOUNT", 0, "FORCE", "JUSTID"),
        )
    )
    if not claimed:
        raise UsageError(
            f"entry {position} is not in the stream: it is not published yet, or was trimmed or erased; read() shows it"
        )
    yield Command(("HDEL", group_keys(ledger.name, group).parked, position))
    yield Command(("HDEL", group_keys(ledger.name, group).reasons, position))


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
