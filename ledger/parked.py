"""Entries that a consumer group has parked: listed, and handed out again. Plans.

They are noted in Redis alone, in a hash from position to tries: a Redis that was lost has lost them too.
"""

from __future__ import annotations

from collections.abc import Mapping

from ledger.effects import Command, Plan, Query
from ledger.errors import UsageError
from ledger.store import SQL, LedgerRef
from ledger.stream import StreamId, key, parked_key

_CONSUMER = "auditledger"
_LONG_AGO = 365 * 86_400_000
"""Milliseconds for which it seems to have been claimed, so that whoever asks next takes it over."""


def parked(ledger: LedgerRef, group: str) -> Plan[Mapping[int, int]]:
    """How often each parked entry was handed out, by position, in order."""
    flat = yield Command(("HGETALL", parked_key(ledger.name, group)))
    return dict(sorted(zip(map(int, flat[::2]), map(int, flat[1::2]), strict=True)))


def hand_out_again(ledger: LedgerRef, group: str, position: int) -> Plan[None]:
    """Lets the group's next consumer have a parked entry, as if for the first time.

    Raises UsageError where it is not parked, or no longer in the stream.
    """
    if position not in (yield from parked(ledger, group)):
        raise UsageError(f"group {group!r} has not parked entry {position}")
    [(_, epoch, _)] = yield Query(SQL["tails"], ([ledger.ledger_id],))
    claimed = yield Command(
        (
            *("XCLAIM", key(ledger.name), group, _CONSUMER, 0, str(StreamId(epoch, position))),
            *("IDLE", _LONG_AGO, "RETRYCOUNT", 0, "FORCE", "JUSTID"),
        )
    )
    if not claimed:
        raise UsageError(f"entry {position} is no longer in the stream: it was trimmed or erased; read() shows it")
    yield Command(("HDEL", parked_key(ledger.name, group), position))
