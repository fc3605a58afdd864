"""`Session.bulk_save_objects`, `bulk_insert_mappings` and `bulk_update_mappings`, which call no events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from sqlalchemy import insert, inspect, update
from sqlalchemy.orm import InstanceState, Session

from ledger.contrib.sqlalchemy.mapped import Identity, Mapped, Values, identity_of
from ledger.contrib.sqlalchemy.policy import CREATED
from ledger.contrib.sqlalchemy.tables import Tables

State = InstanceState[Any]
_NO_FLUSH = {"autoflush": False}


class Bulk:
    """Stands in for the three methods of a class of sessions, or of one session, for as long as captures want it."""

    def __init__(self, target: type[Session] | Session) -> None:
        self.captured: list[Tables] = []
        self._target = target
        for handle in (self.bulk_save_objects, self.bulk_insert_mappings, self.bulk_update_mappings):
            setattr(target, handle.__name__, self._instead(handle, getattr(target, handle.__name__)))

    def _instead(self, handle: Callable[..., None], original: Callable[..., None]) -> Callable[..., None]:
        of_class = isinstance(self._target, type)

        @wraps(original)
        def method(*args: Any, **kwargs: Any) -> None:
            if not self.captured:
                return original(*args, **kwargs)
            session, rest = (args[0], args[1:]) if of_class else (self._target, args)
            return handle(session, original.__get__(session) if of_class else original, *rest, **kwargs)

        return method

    def bulk_save_objects(
        self,
        session: Session,
        original: Callable[..., None],
        objects: Iterable[object],
        return_defaults: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """With `return_defaults`, so that the new rows' keys are known."""
        objects = list(objects)
        states: list[State] = [inspect(each) for each in objects]
        before = [_read(session, tables, [each for each in states if each.key], lock=True) for tables in self.captured]
        original(objects, True, *args, **kwargs)
        for tables, old in zip(self.captured, before, strict=True):
            for mapped, rows in _read(session, tables, states).items():
                connection, known = _connection(session, mapped), old.get(mapped, {})
                events = [
                    mapped.updated(key, known[key], row, connection.dialect)
                    if key in known
                    else mapped.whole(CREATED, row, connection.dialect)
                    for key, row in rows.items()
                ]
                tables.record(connection, events)

    def bulk_insert_mappings(
        self,
        session: Session,
        original: Callable[..., None],
        mapper: Any,
        mappings: Iterable[dict[str, Any]],
        return_defaults: bool = False,
        render_nulls: bool = False,
    ) -> None:
        """As the statement that SQLAlchemy 2 has for it, which is captured."""
        if not self._captures(mapper):
            original(mapper, mappings, return_defaults, render_nulls)
        elif rows := list(mappings):
            session.execute(insert(mapper), rows, execution_options={"render_nulls": render_nulls, **_NO_FLUSH})

    def bulk_update_mappings(
        self, session: Session, original: Callable[..., None], mapper: Any, mappings: Iterable[dict[str, Any]]
    ) -> None:
        if not self._captures(mapper):
            original(mapper, mappings)
        elif rows := list(mappings):
            session.execute(update(mapper), rows, execution_options={"synchronize_session": False, **_NO_FLUSH})

    def _captures(self, mapper: Any) -> bool:
        return any(tables.of(inspect(mapper)) is not None for tables in self.captured)


def install(target: type[Session] | Session, tables: Tables) -> Callable[[], None]:
    """Returns what ends it."""
    bulk: Bulk | None = vars(target).get("_ledger_bulk")
    if bulk is None:
        bulk = Bulk(target)
        target._ledger_bulk = bulk  # type: ignore[union-attr]
    bulk.captured.append(tables)
    return lambda: bulk.captured.remove(tables)


def _read(
    session: Session, tables: Tables, states: Sequence[State], *, lock: bool = False
) -> dict[Mapped, dict[Identity, Values]]:
    """The rows of these objects: one statement a class."""
    wanted: dict[Mapped, list[Identity]] = defaultdict(list)
    for state in states:
        if (mapped := tables.of(state.mapper)) is not None:
            wanted[mapped].append(identity_of(state))
    rows = {
        mapped: mapped.read(_connection(session, mapped), keys, mapped.columns, lock=lock)
        for mapped, keys in wanted.items()
    }
    # In the order of the objects: the database gives them in any.
    return {mapped: {key: rows[mapped][key] for key in keys if key in rows[mapped]} for mapped, keys in wanted.items()}


def _connection(session: Session, mapped: Mapped) -> Any:
    return session.connection(bind_arguments={"mapper": mapped.mapper})
