"""The context as Postgres' setting `ledger.context`, for triggers and for SQL that calls `ledger.record`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Transaction, event, text
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.selectable import SelectBase

from ledger.capture.context import Context, current
from ledger.contrib.sqlalchemy.sessions import Target, sync_target

_SET = text("select set_config('ledger.context', cast(:context as text), true)")


def audit_setting(target: Target) -> Callable[[], None]:
    """Sessions of `target` set `ledger.context` before the first statement of a transaction that may write.

    Again if the context has changed since. One parameterised statement, local to the transaction: nothing of it stays
    in a pooled connection. Every statement but a SELECT of SQLAlchemy's own counts as one that may write. It has no
    effect in AUTOCOMMIT, where no transaction holds the setting. target: as of `capture`. Returns what undoes it.
    """
    sessions = sync_target(target)
    listener = _Listener()
    event.listen(sessions, "after_begin", listener.begun)
    return lambda: event.remove(sessions, "after_begin", listener.begun)


class _Listener:
    def __init__(self) -> None:
        self._settings: WeakKeyDictionary[Connection, _Setting] = WeakKeyDictionary()

    def begun(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        if connection not in self._settings:
            self._settings[connection] = setting = _Setting()
            event.listen(connection, "before_cursor_execute", setting.before)
            event.listen(connection, "rollback_savepoint", setting.rolled_back)


class _Setting:
    """What one connection's transaction was told."""

    def __init__(self) -> None:
        self._told: str | None = ""
        self._transaction: Transaction | None = None

    def before(self, connection: Connection, cursor: Any, sql: str, parameters: Any, context: Any, many: bool) -> None:
        compiled = getattr(context, "compiled", None)
        statement = getattr(compiled, "statement", None)
        if statement is _SET or isinstance(statement, SelectBase):
            return
        transaction = connection.get_transaction()
        if transaction is not self._transaction:
            self._transaction, self._told = transaction, ""
        running = current()
        setting = "" if running is None or running == Context() else running.setting()
        if setting != self._told:
            connection.execute(_SET, {"context": setting})
            self._told = setting

    def rolled_back(self, connection: Connection, name: str, context: Any) -> None:
        """The setting is again what it was at the savepoint."""
        self._told = None
