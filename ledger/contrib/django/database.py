"""Sends the audit context to Postgres, as the setting `ledger.context`, before the first write of a transaction.

The setting holds for the transaction, and so behind a transaction pooler, too. Triggers of captured tables and
`ledger.record` read it. It is sent again if the context has changed since, or a savepoint was rolled back, which takes
settings back. Nothing is prepended to statements.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

from ledger.capture.context import current
from ledger.contrib.django import conf
from ledger.contrib.django.asking import ask_actor

SEND = "select set_config('ledger.context', %s, true)"
_IDLE = 0
"""libpq's PQTRANS_IDLE: a transaction, if one begins, begins with this statement."""
_verb = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*([a-z]+)", re.IGNORECASE | re.DOTALL).match
_READS = frozenset(
    [
        *("begin", "commit", "end", "release", "rollback", "savepoint", "start"),
        *("close", "declare", "discard", "fetch", "move", "reset", "select", "set", "show", "table", "values"),
        *("listen", "lock", "notify", "unlisten"),
    ]
)
_WRITES = frozenset(["insert", "update", "delete", "merge", "truncate"])
"""Those that get a transaction of their own, if there is none; others may refuse to run in one."""
_may_write = re.compile(r"\b(insert|update|delete|merge)\b", re.IGNORECASE).search


def connected(connection: Any, **_: Any) -> None:
    """A receiver of connection_created."""
    has_one = any(isinstance(wrapper, SendsContext) for wrapper in connection.execute_wrappers)
    if connection.vendor == "postgresql" and connection.alias in conf.options().databases and not has_one:
        connection.execute_wrappers.append(SendsContext())


def send_context(using: str = "default") -> None:
    """Sends the context now, in the open transaction: before a SELECT of a function that writes, or a COPY.

    Raises TransactionManagementError outside a transaction.
    """
    connection = connections[using]
    connection.validate_no_broken_transaction()
    if not connection.in_atomic_block and connection.get_autocommit():
        raise transaction.TransactionManagementError("send_context() outside a transaction: the setting would be lost")
    connection.ensure_connection()
    _send(connection, _setting())


class SendsContext:
    """An execute wrapper of one connection (Django's documentation, "Database instrumentation")."""

    def __init__(self) -> None:
        self._sent: str | None = ""
        """What the setting is in the transaction; None if that is not known."""
        self.count = 0
        """How often it was sent."""

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        if connection.connection.info.transaction_status == _IDLE:
            self._sent = ""
        verb = _first_word(sql, connection)
        if verb == "rollback":
            self._sent = None
        if verb in _READS or connection.needs_rollback:
            return execute(sql, params, many, context)
        setting = _setting()
        if setting == self._sent:
            return execute(sql, params, many, context)
        if connection.in_atomic_block or not connection.get_autocommit():
            _send(connection, setting)
            self._sent, self.count = setting, self.count + 1
        elif verb in _WRITES:
            with transaction.atomic(using=connection.alias, savepoint=False):
                return self(execute, sql, params, many, context)
        return execute(sql, params, many, context)


def _setting() -> str:
    ask_actor()
    context = current()
    return "" if context is None else context.setting()


def _send(connection: Any, setting: str) -> None:
    """Beneath Django's cursors, so that it is in no count of queries of a test."""
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute(SEND, (setting,))


def _first_word(sql: Any, connection: Any) -> str:
    """The statement's first word in lower case; of several statements and of a WITH, what may be written."""
    text = sql if isinstance(sql, str) else sql.as_string(connection.connection)
    found = _verb(text)
    verb = found[1].lower() if found else ""
    if verb == "with":
        return "update" if _may_write(text) else "select"
    if verb in _READS and ";" in text.rstrip("; \n"):
        return "update" if _may_write(text) else ""
    return verb
