"""Entries that do not hold, and the workers that meet them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ledger import Event, Ledger
from ledger.drivers.pools import Connector
from ledger.events import Tail
from ledger.format.chain import extend
from ledger.store.columns import COLUMNS
from ledger.store.drafts import prepare
from ledger.store.entry_rows import row_params
from ledger.store.ledgers import SQL
from ledger.stream.relay import Relay
from ledger.verify.report import Report
from tests.support.findings import places
from tests.support.helpers import event

BAD, LAST = 5, 8
WHO = ("user:ops", "ticket 7")


def insert(url: str, tail: Tail, said: Event, **changes: Any) -> None:
    """A writer's own INSERT of an entry that the trigger lets pass, with columns other than its hashes say."""
    draft = prepare(said, "main")
    with psycopg.connect(url, autocommit=True) as connection:
        [(now,)] = connection.execute("select clock_timestamp()").fetchall()
        [link] = extend(tail, [draft], now)
        values = dict(zip(("ledger_id", *COLUMNS), row_params(1, link), strict=True)) | changes
        back = [values["position"], values["id"], values["hash"]]
        connection.execute(SQL["insert"], [*values.values(), *back])


def false_hash(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), hash=bytes(31) + b"\1")


NO_RULES = "alter table ledger.audit_logs drop constraint entry_rules;"
"""As in a database whose entries are older than the rules."""


@contextmanager
def workers(ledger: Ledger) -> Iterator[tuple[Connector, Relay]]:
    servers = Connector(ledger.settings)
    try:
        yield servers, Relay(servers)
    finally:
        servers.close()


def said(report: Report) -> list[tuple[int | None, str]]:
    return places([each for each in report.findings if each.kind != "unprotected"])
