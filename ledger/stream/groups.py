"""Consumer groups as they stand: listed, deleted, set to another position. Plans.

Postgres knows up to where a group has dealt with everything, Redis who has what, and its dead letters.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.effects import Command, Plan, Query, Refused, foreseen
from ledger.errors import UsageError
from ledger.store.ledgers import SQL, LedgerRef, tail_of
from ledger.stream.commands import end_of
from ledger.stream.wire import StreamId, group_keys, key


class Group(NamedTuple):
    """position: up to where it has dealt with everything. lag: entries behind the ledger's end.

    pending: delivered and not acknowledged; dead_letters: given up after too many attempts; consumers: that Redis knows
    of it. All three are 0 where Redis has no such group.
    """

    name: str
    position: int
    pending: int
    dead_letters: int
    consumers: int
    lag: int


class InRedis(NamedTuple):
    """What Redis knows of a group."""

    delivered: StreamId
    pending: int
    consumers: int


def check_group(name: str) -> None:
    """Raises UsageError for what is no name of a group."""
    if not isinstance(name, str) or not name.strip() or len(name.encode(errors="replace")) > 200:
        raise UsageError("a group's name has 1 to 200 bytes")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise UsageError("a group's name has no control characters")


def beyond(ledger: LedgerRef, position: int, end: int, group: str | None = None) -> UsageError:
    """The error for a position that a ledger does not have."""
    what = f"group {group!r} is at {position}" if group else f"a group cannot begin after entry {position}"
    mend = f": 'auditledger groups reset {group} --after {end}' sets it to the end" if group else ""
    return UsageError(f"{what}: ledger {ledger.name!r} ends at {end}{mend}")


def groups_of(ledger: LedgerRef) -> Plan[dict[str, InRedis]]:
    """The groups that Redis knows, by name."""
    try:
        reply = yield Command(("XINFO", "GROUPS", key(ledger.name)))
    except Refused as refused:
        if not str(refused).lower().startswith(("err no such key", "no such key")):
            raise
        return {}
    with foreseen("XINFO GROUPS"):
        found = [dict(zip(group[::2], group[1::2], strict=True)) for group in reply]
        return {
            group[b"name"].decode(errors="replace"): InRedis(
                StreamId.parse(group[b"last-delivered-id"]), int(group[b"pending"]), int(group[b"consumers"])
            )
            for group in found
        }


def groups(ledger: LedgerRef) -> Plan[list[Group]]:
    """All groups, by name."""
    known = dict((yield Query(SQL["subscriptions"], (ledger.ledger_id,))))
    in_redis = yield from groups_of(ledger)
    end = (yield from tail_of(ledger)).position
    found = []
    for name in sorted(known.keys() | in_redis.keys()):
        there = in_redis.get(name, InRedis(StreamId(0, 0), 0, 0))
        dead = yield Command(("HLEN", group_keys(ledger.name, name).parked))
        with foreseen("HLEN"):
            position = known.get(name, there.delivered.position)
            lag = max(0, end - position)
            found.append(Group(name, position, there.pending, int(dead), there.consumers, lag))
    return found


def delete_group(ledger: LedgerRef, name: str) -> Plan[None]:
    """Forgets a group, its dead letters too. Raises UsageError where there is none of that name."""
    yield from _check_there(ledger, name)
    yield from _forget(ledger, name)
    yield Command(("DEL", group_keys(ledger.name, name).parked))
    yield Query(SQL["delete_subscription"], (ledger.ledger_id, name))


def reset_group(ledger: LedgerRef, name: str, after: int) -> Plan[None]:
    """Lets a group go on after a position; what it had pending is forgotten, its dead letters stay.

    Raises UsageError where there is no such group, or no such position.
    """
    yield from _check_there(ledger, name)
    end = yield from end_of(ledger)
    if not 0 <= after <= end.position:
        raise beyond(ledger, after, end.position)
    yield Query(SQL["set_subscription"], (ledger.ledger_id, name, after))
    yield from _forget(ledger, name)
    yield Command(("XGROUP", "CREATE", key(ledger.name), name, str(end._replace(position=after)), "MKSTREAM"))


def _check_there(ledger: LedgerRef, name: str) -> Plan[None]:
    check_group(name)
    rows = yield Query(SQL["subscription"], (ledger.ledger_id, name))
    if not rows and name not in (yield from groups_of(ledger)):
        raise UsageError(f"there is no group {name!r} in ledger {ledger.name!r}")


def _forget(ledger: LedgerRef, name: str) -> Plan[None]:
    try:
        yield Command(("XGROUP", "DESTROY", key(ledger.name), name))
    except Refused as refused:
        if not str(refused).startswith(("ERR", "NOGROUP")) and "requires the key to exist" not in str(refused):
            raise
    yield Command(
        ("DEL", *(each for field, each in group_keys(ledger.name, name)._asdict().items() if field != "parked"))
    )
