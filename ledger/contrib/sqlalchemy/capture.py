"""Captures what the sessions of a target write, by SQLAlchemy's events."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import InstanceState, Mapper, Session, UOWTransaction

from ledger.contrib.sqlalchemy import legacy
from ledger.contrib.sqlalchemy.flush import Flush
from ledger.contrib.sqlalchemy.policy import CREATED, DELETED, UPDATED, Policy
from ledger.contrib.sqlalchemy.sessions import Target, sync_target
from ledger.contrib.sqlalchemy.statements import Statements
from ledger.contrib.sqlalchemy.tables import Tables
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
    return Capture(sync_target(target), Tables(tables, ledger, key))


class Capture:
    """A running capture; `remove` ends it. As a context manager it ends with the block."""

    def __init__(self, target: type[Session] | Session, tables: Tables) -> None:
        self._tables = tables
        of_sessions: dict[str, Callable[..., Any]] = {
            "before_flush": self._before_flush,
            "after_flush": self._after_flush,
            "do_orm_execute": Statements(tables).execute,
        }
        of_mappers: dict[str, Callable[..., None]] = {
            "before_insert": self._before,
            "before_update": self._before,
            "before_delete": self._before,
            "after_insert": self._inserted,
            "after_update": self._updated,
            "after_delete": self._deleted,
        }
        self._listeners: list[tuple[Any, str, Callable[..., Any]]] = []
        for name, function in of_sessions.items():
            event.listen(target, name, function)
            self._listeners.append((target, name, function))
        for mapper in tables.given:
            for name, function in of_mappers.items():
                event.listen(mapper, name, function, raw=True, propagate=True)
                self._listeners.append((mapper, name, function))
        self._end_bulk = legacy.install(target, tables)

    def remove(self) -> None:
        """Ends the capture. What was recorded stays."""
        if self._listeners:
            self._end_bulk()
        while self._listeners:
            event.remove(*self._listeners.pop())

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _before_flush(self, session: Session, context: UOWTransaction, objects: object) -> None:
        session.info[self] = Flush(session, context, self._tables.of)

    def _after_flush(self, session: Session, context: UOWTransaction) -> None:
        flush: Flush | None = session.info.pop(self, None)
        if flush is not None:
            for connection, events in flush.events().items():
                self._tables.record(connection, events)

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
