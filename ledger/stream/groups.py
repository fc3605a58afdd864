"""Consumer groups: listed, deleted, set to another position. Plans.

Postgres has a group's committed offset; Redis has its consumers, its pending entries and its dead letters.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.effects import Command, Plan, Query, Refused, foreseen
from ledger.errors import UsageError
from ledger.store.ledgers import SQL, LedgerRef, tail_of
from ledger.stream.commands import end_of
from ledger.stream.wire import StreamId, group_keys, key


class Group(NamedTuple):
    """position: up to which the group has dealt with everything. lag: entries from there to the ledger's end.

    pending: entries delivered and not acknowledged. dead_letters: entries given up after too many delivery attempts.
    consumers: how many Redis knows. All three are 0 if Redis has no such group.
    """

    name: str
    position: int
    pending: int
    dead_letters: int
    consumers: int
    lag: int


class GroupState(NamedTuple):
    """A group as Redis has it. delivered: the id that was delivered last. pending, consumers: how many."""

    delivered: StreamId
    pending: int
    consumers: int


def check_group(name: str) -> None:
    """Raises UsageError if a group cannot have that name."""
    if not isinstance(name, str) or not name.strip() or len(name.encode(errors="replace")) > 200:
        raise UsageError("a group's name has 1 to 200 bytes")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise UsageError("a group's name has no control characters")


def beyond(ledger: LedgerRef, position: int, end: int, group: str | None = None) -> UsageError:
    """The error for a position that a ledger does not have."""
    problem = f"group {group!r} is at {position}" if group else f"a group cannot begin after entry {position}"
    fix = f": 'auditledger groups reset {group} --after {end}' sets it to the end" if group else ""
    return UsageError(f"{problem}: ledger {ledger.name!r} ends at {end}{fix}")


def groups_of(ledger: LedgerRef) -> Plan[dict[str, GroupState]]:
    """The groups in Redis, by name."""
    try:
        reply = yield Command(("XINFO", "GROUPS", key(ledger.name)))
    except Refused as refused:
        if not str(refused).lower().startswith(("err no such key", "no such key")):
            raise
        return {}
    with foreseen("XINFO GROUPS"):
        known = [dict(zip(group[::2], group[1::2], strict=True)) for group in reply]
        return {
            group[b"name"].decode(errors="replace"): GroupState(
                StreamId.parse(group[b"last-delivered-id"]), int(group[b"pending"]), int(group[b"consumers"])
            )
            for group in known
        }


def groups(ledger: LedgerRef) -> Plan[list[Group]]:
    """All groups, by name."""
    committed = dict((yield Query(SQL["subscriptions"], (ledger.ledger_id,))))
    in_redis = yield from groups_of(ledger)
    end = (yield from tail_of(ledger)).position
    listed = []
    for name in sorted(committed.keys() | in_redis.keys()):
        state = in_redis.get(name, GroupState(StreamId(0, 0), 0, 0))
        dead = yield Command(("HLEN", group_keys(ledger.name, name).parked))
        with foreseen("HLEN"):
            position = committed.get(name, state.delivered.position)
            lag = max(0, end - position)
            listed.append(Group(name, position, state.pending, int(dead), state.consumers, lag))
    return listed


def delete_group(ledger: LedgerRef, name: str) -> Plan[None]:
    """Deletes a group with its dead letters. Raises UsageError if there is none of that name."""
    yield from _check_exists(ledger, name)
    yield from _forget(ledger, name)
    yield Command(("DEL", group_keys(ledger.name, name).parked))
    yield Query(SQL["delete_subscription"], (ledger.ledger_id, name))


def reset_group(ledger: LedgerRef, name: str, after: int) -> Plan[None]:
    """Lets a group go on after a position. Its pending entries are dropped, its dead letters stay.

    Raises UsageError if there is no such group, or no such position.
    """
    yield from _check_exists(ledger, name)
    end = yield from end_of(ledger)
    if not 0 <= after <= end.position:
        raise beyond(ledger, after, end.position)
    yield Query(SQL["set_subscription"], (ledger.ledger_id, name, after))
    yield from _forget(ledger, name)
    yield Command(("XGROUP", "CREATE", key(ledger.name), name, str(end._replace(position=after)), "MKSTREAM"))


def _check_exists(ledger: LedgerRef, name: str) -> Plan[None]:
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
