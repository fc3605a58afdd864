"""What psycopg sends in a pipeline: no Flush in ours, which would make Postgres forget a timeout.

Traced by libpq itself (PQtrace). `without_flush` leans on an internal of psycopg's; these tests fail when that changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import Trace

from ledger import Ledger, Plan
from ledger.drivers.connections import aconnect, connect
from ledger.drivers.postgres import Transaction, without_flush
from ledger.drivers.run import adrive, drive
from ledger.effects import Begin, Pipeline, Query

LATE = "select pg_sleep(0.02)"
"""Its result is not there when everything is sent: then psycopg sends a Flush."""


@contextmanager
def traced(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], file: Path) -> Iterator[Counter[str]]:
    """Counts the messages that the block sends, by name."""
    sent: Counter[str] = Counter()
    with file.open("w+b", buffering=0) as stream:
        connection.pgconn.trace(stream.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        yield sent
        connection.pgconn.untrace()
    lines = (line.split("\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    sent.update(fields[2].strip() for fields in lines if fields[0] == "F")


def pipeline() -> Plan[None]:
    yield Pipeline((Begin("begin"), Query(LATE), Query("commit")))


def test_a_pipeline_of_a_plan(ledger: Ledger, tmp_path: Path) -> None:
    with closing(connect(ledger.settings)) as connection, traced(connection, tmp_path / "trace") as sent:
        drive(pipeline(), connection)
    assert (sent["Sync"], sent["Flush"]) == (1, 0)


def test_a_pipeline_of_an_awaited_plan(ledger: Ledger, tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        connection = await aconnect(ledger.settings)
        with traced(connection, tmp_path / "trace") as sent:
            await adrive(pipeline(), connection)
        await connection.close()
        return sent

    sent = asyncio.run(run())
    assert (sent["Sync"], sent["Flush"]) == (1, 0)


def test_what_a_projection_writes(ledger: Ledger, tmp_path: Path) -> None:
    with closing(connect(ledger.settings)) as connection, traced(connection, tmp_path / "trace") as sent:
        Transaction(connection).execute_many("select pg_sleep(%s)", [(0.01,), (0.01,)])
    assert sent["Flush"] == 0 < sent["Sync"]


@pytest.mark.parametrize("ours", [True, False])
def test_why(ledger: Ledger, tmp_path: Path, ours: bool) -> None:
    """psycopg's own pipeline sends a Flush, and Postgres forgets its timeout. Once this fails, without_flush can go."""
    with closing(connect(ledger.settings)) as connection:
        with traced(connection, tmp_path / "trace") as sent, connection.pipeline() as block:
            if ours:
                without_flush(block)
            for statement in ("begin", "set local idle_in_transaction_session_timeout = '200ms'", LATE):
                connection.execute(statement)
        assert (sent["Sync"], sent["Flush"]) == (1, 0 if ours else 1)
        time.sleep(0.7)
        if ours:
            with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
                connection.execute("select 1")
        else:
            connection.execute("select 1")
