"""Waits for Postgres' notifications, on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import psycopg
from psycopg import sql

from ledger.drivers import forks
from ledger.drivers.connections import connect
from ledger.drivers.cursors import Cursor
from ledger.drivers.errors import translate
from ledger.drivers.postgres_connection import AnsweringConnection
from ledger.effects import Query, Row
from ledger.errors import LedgerError
from ledger.settings import Settings

TURN = 0.25
"""Seconds after which a wait looks whether it is to stop."""


class Listener:
    """A connection that listens to one channel, opened when it is first used, and again after it was lost.

    Behind a pooler that lends sessions it hears nothing: `ask` returns None, and there is no use in `wait`.
    """

    def __init__(self, settings: Settings, channel: str) -> None:
        self._settings = settings
        self._channel = channel
        self._connection: AnsweringConnection | None = None
        forks.register(self)

    def after_fork(self) -> object:
        had, self._connection = self._connection, None
        return had

    def ask(self, query: Query) -> Sequence[Row] | None:
        """The rows of a statement in this session; None if there is no session to keep. Raises Unavailable."""
        try:
            connection = self._open()
            return Cursor(connection).execute(query.sql, query.params).fetchall() if connection.direct else None
        except (psycopg.Error, OSError) as error:
            raise self._lost(error) from error

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Waits for a notification, for so many seconds at most, or until `stop` is set. Returns whether one came."""
        try:
            connection = self._open()
            while seconds > 0 and not stop.is_set():
                for _ in connection.notifies(timeout=min(seconds, TURN), stop_after=1):
                    return True
                seconds -= TURN
            return False
        except (psycopg.Error, OSError) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> AnsweringConnection:
        forks.process()
        if self._connection is None:
            connection = connect(self._settings)
            if connection.direct:
                connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            self._connection = connection
        return self._connection

    def _lost(self, error: Exception) -> LedgerError:
        self.close()
        return translate(error)
