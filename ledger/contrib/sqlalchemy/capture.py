"""Captures what the sessions of a target write, by SQLAlchemy's events."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy import inspect as mapper_of
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Mapper, Session, UOWTransaction

from ledger.contrib.sqlalchemy import legacy
from ledger.contrib.sqlalchemy.flush import Flush
from ledger.contrib.sqlalchemy.mapped import Mapped
from ledger.contrib.sqlalchemy.outbox import record
from ledger.contrib.sqlalchemy.policy import CREATED, DELETED, UPDATED, Policy
from ledger.contrib.sqlalchemy.sessions import Target, sync_target
from ledger.contrib.sqlalchemy.statements import Statements
from ledger.errors import UsageError
from ledger.settings import check_digest_key


def capture(
    target: Target, tables: Mapping[type, Policy | None], *, ledger: str = "main", digest_key: str | None = None
) -> Capture:
    """Records what sessions of `target` write to the tables of these mapped classes, in the sessions' transactions.

    target: a sessionmaker, async_sessionmaker, scoped session, class of sessions or session. Sessions that are open
    already are captured, but for those of an async_sessionmaker or class of AsyncSession.
    tables: mapped classes, which stand for those that inherit from them, too. digest_key: by default LEDGER_DIGEST_KEY.
    Raises UsageError, InvalidSetting.
    """
    key = check_digest_key(digest_key or os.environ.get("LEDGER_DIGEST_KEY") or None)
    return Capture(sync_target(target), tables, ledger, key)


class Capture:
    """A running capture; `remove` ends it. As a context manager it ends with the block."""

    def __init__(
        self,
        target: type[Session] | Session,
        tables: Mapping[type, Policy | None],
        ledger: str,
        digest_key: str | None,
    ) -> None:
        self.ledger = ledger
        self._digest_key = digest_key
        self._policies = {_mapper(each): policy or Policy() for each, policy in tables.items()}
        self._mapped: dict[Mapper[Any], Mapped | None] = {}
        for mapper in self._policies:
            self.of(mapper)
        self._statements = Statements(self)
        self._listeners: list[tuple[Any, str, Callable[..., Any]]] = [
            (target, "before_flush", self._before_flush),
            (target, "after_flush", self._after_flush),
            (target, "do_orm_execute", self._statements.execute),
        ]
        of_mappers: dict[str, Callable[..., None]] = {
            "before_insert": self._before,
            "before_update": self._before,
            "before_delete": self._before,
            "after_insert": self._inserted,
            "after_update": self._updated,
            "after_delete": self._deleted,
        }
        self._listeners += [(mapper, *each) for mapper in self._policies for each in of_mappers.items()]
        for on, name, function in self._listeners:
            if isinstance(on, Mapper):
                event.listen(on, name, function, raw=True, propagate=True)
            else:
                event.listen(on, name, function)
        self._bulk = legacy.install(target, self)

    def remove(self) -> None:
        """Ends the capture. What was recorded stays."""
        while self._listeners:
            event.remove(*self._listeners.pop())
        self._bulk.remove(self)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    @property
    def mappers(self) -> list[Mapper[Any]]:
        """Those that a policy was given for."""
        return list(self._policies)

    def of(self, mapper: Mapper[Any]) -> Mapped | None:
        """None for a class that is not captured."""
        if mapper not in self._mapped:
            base = next((each for each in mapper.iterate_to_root() if each in self._policies), None)
            found = None if base is None else Mapped(mapper, self._policies[base], base, self._digest_key)
            self._mapped[mapper] = found
        return self._mapped[mapper]

    def record(self, connection: Connection, events: list[Any]) -> None:
        record(connection, self.ledger, [each for each in events if each is not None])

    def _before_flush(self, session: Session, context: UOWTransaction, objects: object) -> None:
        session.info[self] = Flush(session, context, self.of)

    def _after_flush(self, session: Session, context: UOWTransaction) -> None:
        flush: Flush | None = session.info.pop(self, None)
        if flush is not None:
            for connection, events in flush.events().items():
                self.record(connection, events)

    def _flush(self, state: InstanceState[Any]) -> Flush | None:
        session = state.session
        return None if session is None else session.info.get(self)

    def _before(self, mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        if (flush := self._flush(state)) is not None:
            flush.begin()

    def _inserted(self, mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        self._wrote(CREATED, connection, state)

    def _updated(self, mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        self._wrote(UPDATED, connection, state)

    def _deleted(self, mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        self._wrote(DELETED, connection, state)

    def _wrote(self, op: str, connection: Connection, state: InstanceState[Any]) -> None:
        if (flush := self._flush(state)) is not None:
            flush.wrote(op, state, connection)


def _mapper(of: Any) -> Mapper[Any]:
    try:
        mapper = mapper_of(of)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise UsageError(f"not a mapped class: {of!r}")
    return mapper
