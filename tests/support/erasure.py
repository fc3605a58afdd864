"""Calls of the functions that erase and hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from ledger import Event
from ledger.events import Tail
from ledger.format.chain import extend
from ledger.store.drafts import prepare
from ledger.store.entry_rows import row_params

OWN, CHANGE = "LE005", "LE004"


def refused(connection: psycopg.Connection, sqlstate: str, run: Callable[..., object], *args: Any) -> None:
    """Refused for that reason, and nothing has changed."""
    before = connection.execute("table ledger.audit_logs order by 1, 2").fetchall()
    holds = connection.execute("table ledger.holds").fetchall()
    with pytest.raises(psycopg.Error) as error, connection.transaction():
        run(*args)
    assert error.value.sqlstate == sqlstate, error.value
    assert connection.execute("table ledger.audit_logs order by 1, 2").fetchall() == before
    assert connection.execute("table ledger.holds").fetchall() == holds


def call(connection: psycopg.Connection, function: str, event: Event, tail: Tail) -> None:
    """The function, with an entry that continues `tail`."""
    [link] = extend(tail, [prepare(event, "main", own=True)], tail.recorded_at)
    params = row_params(1, link)
    marks = ", ".join(["%s"] * len(params))
    connection.execute(f"select ledger.{function}(row({marks})::ledger.audit_logs)".encode(), params)
