"""Captured tables in tests: installs captures, reads what waits in the outbox."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from ledger import Ledger
from ledger.capture.sealer import Sealer
from ledger.capture.tables import Policy, install
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive

INVOICES = (
    "create table public.invoices (id int primary key, total numeric(12, 2) not null, status text default 'open')"
)


class Change(NamedTuple):
    action: str
    key: str
    before: Any
    after: Any


def capture(connection: psycopg.Connection, table: str, **policy: Any) -> None:
    drive(install(table, Policy(**policy)), connection)


def changes(connection: psycopg.Connection) -> list[Change]:
    """What captured tables put into the outbox, in order."""
    rows = connection.execute(
        "select action, resource_id, before, after from ledger.outbox where resource_type <> 'capture' order by seq"
    )
    return [Change(*row) for row in rows]


def taken(connection: psycopg.Connection) -> list[Change]:
    """`changes`, which are removed."""
    found = changes(connection)
    connection.execute("delete from ledger.outbox")
    return found


def sealed(ledger: Ledger) -> None:
    """Appends everything that waits."""
    connector = Connector(ledger.settings)
    try:
        while Sealer(connector).seal():
            pass
    finally:
        connector.close()
