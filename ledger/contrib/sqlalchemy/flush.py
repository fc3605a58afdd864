"""What a flush of the unit of work writes.

A flush registers every object that it may write, then calls the events of the mappers around its statements, then
`after_flush`, when the objects still know what they were. What they do not know, because it was expired or deferred, is
read: at most one SELECT a class before the flush's statements, and one after them, never one a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import inspect as state_of
from sqlalchemy.orm import InstanceState, Mapper, PassiveFlag, Session, UOWTransaction
from sqlalchemy.orm.base import LoaderCallableStatus

from ledger.contrib.sqlalchemy.mapped import Mapped, Values, identity_of
from ledger.contrib.sqlalchemy.policy import CREATED, DELETED
from ledger.contrib.sqlalchemy.values import typed
from ledger.events import Event

State = InstanceState[Any]
_PENDING = PassiveFlag.PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS


class Flush:
    """One flush of one session. before: what was known of each row, or was read. held: what was loaded of it."""

    def __init__(self, session: Session, context: UOWTransaction, of: Callable[[Mapper[Any]], Mapped | None]) -> None:
        self._session = session
        self._context = context
        self._of = of
        self._before: dict[State, Values] = {}
        self._held: dict[State, frozenset[str]] = {}
        self._written: dict[State, tuple[str, Connection]] = {}
        self._mapped: dict[State, Mapped] = {}
        self._begun = False

    def begin(self) -> None:
        """Before the first statement: remembers what all rows that are there already hold."""
        if self._begun:
            return
        self._begun = True
        unknown: dict[Mapped, list[tuple[State, frozenset[str]]]] = defaultdict(list)
        for state, (deleted, listed_only) in self._context.states.items():
            mapped = None if listed_only or state.key is None else self._of(state.mapper)
            if mapped is None:
                continue
            known = {key: value for key in mapped.columns if (value := _original(state, key)) is not _UNKNOWN}
            self._before[state] = known
            self._held[state] = frozenset(state.dict)
            wanted = mapped.columns if deleted or mapped.policy.full else _wanted(state, mapped)
            if missing := frozenset(wanted) - known.keys():
                unknown[mapped].append((state, missing))
        for state, values in self._read(unknown, lock=True):
            self._before[state] = {**values, **self._before[state]}

    def wrote(self, op: str, state: State, connection: Connection) -> None:
        if (mapped := self._of(state.mapper)) is not None:
            self._mapped[state] = mapped
            self._written.setdefault(state, (op, connection))

    def events(self) -> dict[Connection, list[Event]]:
        """After the flush's statements, in their order. By connection: a session may have one to each database."""
        after = self._after()
        replaced = {state.key: state for state in self._before if self._context.states[state][0]}
        found: dict[Connection, list[Event]] = defaultdict(list)
        for state, (op, connection) in self._written.items():
            mapped, dialect = self._mapped[state], connection.dialect
            old = self._before.get(state)
            if state.key is None and replaced:  # an object that takes a deleted one's place in the same row
                place = replaced.get(state.mapper.identity_key_from_primary_key(identity_of(state)))
                old = None if place is None or place in self._written else self._before[place]
            if op == DELETED:
                event = mapped.whole(DELETED, old or {}, dialect, gone=True)
            elif old is None:
                event = mapped.whole(CREATED, after[state], dialect)
            else:
                event = mapped.updated(identity_of(state), old, after[state], dialect)
            found[connection] += [] if event is None else [event]
            if op != DELETED:
                found[connection] += self._collections(state, mapped, {**(old or {}), **after[state]}, connection)
        return found

    def _after(self) -> dict[State, Values]:
        """What each row that was written holds now, as far as it is recorded."""
        after: dict[State, Values] = {}
        unknown: dict[Mapped, list[tuple[State, frozenset[str]]]] = defaultdict(list)
        for state, (op, _) in self._written.items():
            mapped = self._mapped[state]
            if op == DELETED:
                continue
            after[state] = {key: state.dict[key] for key in mapped.columns if key in state.dict}
            lacks = mapped.columns.keys() - after[state].keys()
            if state not in self._before and op == CREATED:
                expired, columns = state.expired_attributes, mapped.columns
                made = {key for key in lacks if key in expired or columns[key].server_default is not None}
                after[state].update(dict.fromkeys(lacks - made))
            elif state not in self._before:
                made = set(lacks)
            else:
                made = lacks & (self._held[state] | (mapped.volatile & self._before[state].keys()))
            if made:
                unknown[mapped].append((state, frozenset(made)))
        for state, values in self._read(unknown):
            after[state] = {**values, **after[state]}
        for state, values in after.items():
            if state in self._before:
                after[state] = {**self._before[state], **values}
        return after

    def _read(
        self, unknown: dict[Mapped, list[tuple[State, frozenset[str]]]], *, lock: bool = False
    ) -> Iterator[tuple[State, Values]]:
        for mapped, states in unknown.items():
            connection = self._session.connection(bind_arguments={"mapper": mapped.mapper})
            keys = frozenset[str]().union(*(missing for _, missing in states))
            rows = mapped.read(connection, [identity_of(state) for state, _ in states], sorted(keys), lock=lock)
            for state, _ in states:
                yield state, rows.get(identity_of(state), {})

    def _collections(self, state: State, mapped: Mapped, values: Values, connection: Connection) -> Iterable[Event]:
        for key in mapped.collections:
            added, _, deleted = state.get_history(key, _PENDING)
            gone, come = (_members(some, connection) for some in (deleted, added))
            if gone or come:
                primary = dict(zip(mapped.primary, identity_of(state), strict=True))
                event = mapped.collection(key, {**values, **primary}, gone, come, connection.dialect)
                if event is not None:
                    yield event


_UNKNOWN = object()


def _original(state: State, key: str) -> Any:
    """What the row holds before the flush, if the object knows."""
    value = state.committed_state.get(key, _UNKNOWN)
    if value is _UNKNOWN:
        value = state.dict.get(key, _UNKNOWN)
    return _UNKNOWN if isinstance(value, LoaderCallableStatus) else value


def _wanted(state: State, mapped: Mapped) -> set[str]:
    """What an UPDATE may change, and the resource's key."""
    changed = mapped.columns.keys() & state.committed_state.keys()
    return {*changed, *mapped.key, *mapped.volatile, *mapped.foreign}


def _members(members: Iterable[Any], connection: Connection) -> list[Any]:
    return [_member(state_of(each), connection) for each in members or () if each is not None]


def _member(state: State, connection: Connection) -> Any:
    """The primary key of a member of a collection: its value, or a list of several."""
    values = [
        typed(value, column.type, connection.dialect)
        for value, column in zip(identity_of(state), state.mapper.primary_key, strict=True)
    ]
    return values[0] if len(values) == 1 else values
