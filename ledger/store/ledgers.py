"""Plans on the store: which ledgers there are, their entries and their tails."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import NamedTuple

from ledger.effects import Begin, CopyOut, Plan, Query, Refused, Row
from ledger.errors import EntryUnreadable, UnknownLedger
from ledger.events import Entry, Tail
from ledger.format import native
from ledger.store.columns import entry_sql

SQL = entry_sql(__file__)
PAGE, PAGE_BYTES = 1000, 8 * 1024 * 1024
"""Entries in one read, and about how many bytes of bodies, whichever comes first."""
STEP = 100
"""Entries that a server is asked for at a time: 25 MB where each body is as large as it may be."""
FAR = 2**63 - 1

BEGIN = Begin("begin isolation level read committed read write")
COMMIT = Query("commit")
LET_REBUILD = SQL["let_rebuild"]
"""Gives ledger_owner what a rebuild wants: the right to create a schema in this database."""
LOCK_TIMEOUT = "55P03"


class LedgerRef(NamedTuple):
    """Which ledger: its id in this database, and its name."""

    ledger_id: int
    name: str


def find_ledger(name: str) -> Plan[LedgerRef]:
    """The ledger of that name. Raises UnknownLedger."""
    rows = yield Query(SQL["find_ledger"], (name,))
    if not rows:
        raise unknown_ledger(name, [ledger.name for ledger in (yield from all_ledgers())])
    return LedgerRef(*rows[0])


def unknown_ledger(name: str, known: Iterable[str]) -> UnknownLedger:
    """The error for a name that no ledger has. known: the names of all ledgers."""
    close = get_close_matches(name, list(known), 1)
    meant = f"did you mean {close[0]!r}? If not, " if close else ""
    problem = f"there is no ledger {name!r} in this database, or none that this user was granted"
    return UnknownLedger(f"{problem}: {meant}create it with 'auditledger create {name}', or grant it to this user")


def all_ledgers() -> Plan[list[LedgerRef]]:
    rows = yield Query(SQL["all_ledgers"])
    return [LedgerRef(*row) for row in rows]


def create_ledger(name: str) -> Plan[bool]:
    """True if it was created, False if it existed."""
    rows = yield Query(SQL["create_ledger"], (name,))
    return rows[0][0] is not None


def tail_of(ledger: LedgerRef) -> Plan[Tail]:
    rows = yield Query(SQL["tail"], (ledger.ledger_id,))
    return Tail(*only(rows, ledger))


def read(ledger: LedgerRef, after: int, limit: int = PAGE, last: int = FAR) -> Plan[list[Entry]]:
    """The next entries at positions after < position <= last, in order; none at their end.

    At most `limit`, and fewer where they come to PAGE_BYTES. Asks for no more positions than entries: a view with a
    barrier is planned as if all its rows were wanted, and what is left of a long ledger might be sorted for each page.
    Raises EntryUnreadable where Postgres cannot read the very next.
    """
    entries: list[Entry] = []
    size, most = 0, STEP
    while len(entries) < limit and size < PAGE_BYTES:
        step = min(most, limit - len(entries))
        near = min(last, after + step)
        try:
            some, some_bytes = yield from _read_some(ledger, after, near, step)
            if len(some) < step and near < last and size + some_bytes < PAGE_BYTES:
                # The end of the ledger, or a hole in a forged one.
                more, more_bytes = yield from _read_some(ledger, near, last, step - len(some))
                some, some_bytes = some + more, some_bytes + more_bytes
        except Refused as refused:
            if not refused.is_damage:
                raise
            if step > 1:
                most = step // 2
                continue
            if entries:
                break
            raise EntryUnreadable(after + 1, f"it cannot be read: {refused.first_line}", ledger.name) from refused
        entries += some
        size += some_bytes
        if len(some) < step:
            break
        after = some[-1].position
        if native.entries is not None and most == STEP:
            most = max(STEP, PAGE_BYTES * len(entries) // max(1, size))
    return entries


def _read_some(ledger: LedgerRef, after: int, last: int, limit: int) -> Plan[tuple[list[Entry], int]]:
    """The first entries at positions after < position <= last, and about how many bytes their bodies take.

    The native core bounds them by PAGE_BYTES too, however large they are: so it may be asked for many.
    """
    if native.entries is None:
        rows = yield Query(SQL["read"], (ledger.ledger_id, after, last, limit))
        entries = [Entry(ledger.name, *row) for row in rows]
        return entries, size_of(entries)
    entries = []
    size = 0

    def take(messages: list[bytes]) -> None:
        nonlocal size
        if size < PAGE_BYTES:
            size += native.entries.take(ledger.name, messages, entries)

    statement = SQL["copy_entries"].format(ledger_id=ledger.ledger_id, after=after, last=last, limit=limit)
    yield CopyOut(statement, take)
    return entries, size


def size_of(entries: Iterable[Entry]) -> int:
    """About how many bytes their bodies take."""
    return sum(
        len(entry.before_json or "") + len(entry.after_json or "") + len(entry.metadata_json or "") for entry in entries
    )


def only(rows: list[Row], ledger: LedgerRef) -> Row:
    """The one row about a ledger's tail. Raises UnknownLedger if there is none."""
    if not rows:
        raise UnknownLedger(f"ledger {ledger.name!r} has no tail in this database")
    return rows[0]


class LedgerEnd(NamedTuple):
    """A ledger's end in Postgres."""

    ledger: LedgerRef
    epoch: int
    position: int


def ledger_ends(names: Collection[str] | None) -> Plan[list[LedgerEnd]]:
    """The ends of all ledgers, or of those named. Raises UnknownLedger."""
    rows = yield Query(SQL["all_tails"])
    ends = [LedgerEnd(LedgerRef(ledger_id, name), epoch, position) for ledger_id, name, epoch, position in rows]
    if names is None:
        return ends
    missing = set(names) - {end.ledger.name for end in ends}
    if missing:
        raise unknown_ledger(min(missing), (end.ledger.name for end in ends))
    return [end for end in ends if end.ledger.name in names]
