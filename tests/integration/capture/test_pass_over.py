"""The sealer's looks begin behind what is gone for good, and never behind what a transaction may still commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from ledger import Event, Ledger
from ledger.capture import sealer as sealer_module
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.effects import Plan, Query
from tests.support.helpers import eventually
from tests.support.logins import Logins

RECORD = "select ledger.record('main', actor => 'user:1', action => %s)"


@pytest.fixture
def connector(ledger: Ledger, login: Logins, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connector]:
    """Of a worker, which looks where the looks may begin before each of them."""
    monkeypatch.setattr(sealer_module, "PASS_OVER", 0)
    with closing(
        Connector(replace(ledger.settings, database_url=login("ledger_writer", "ledger_projector")))
    ) as connector:
        yield connector


def gone(connector: Connector) -> int:
    """The seq behind which this worker's looks begin."""

    def ask() -> Plan[int]:
        [(value,)] = yield Query("select coalesce(current_setting('ledger.gone_1', true), '0')::int")
        return int(value)

    return connector.run(ask())


def passes(ledger: Ledger, sealer: Sealer, connector: Connector) -> int:
    """`gone` after one event more. A transaction of any database of the server may be in the way for a while."""
    ledger.record(Event("user:2", "one.more"))
    assert sealer.seal() == 1
    return gone(connector)


def test_a_transaction_that_commits_late(ledger: Ledger, connector: Connector) -> None:
    """Its event has a seq below those of many that were sealed meanwhile."""
    sealer = Sealer(connector)
    with psycopg.connect(ledger.settings.database_url or "") as late:
        late.execute(RECORD, ("was.late",))
        for number in range(5):
            ledger.record(Event("user:2", f"was.early_{number}"))
            assert sealer.seal() == 1
        assert gone(connector) == 0
        late.commit()
        ledger.record(Event("user:1", "came.after"))
        assert sealer.seal() == 2
    assert [entry.action for entry in ledger.read()][-2:] == ["was.late", "came.after"]
    eventually(lambda: passes(ledger, sealer, connector) >= 8)


def test_a_transaction_that_began_before_and_records_after(ledger: Ledger, connector: Connector) -> None:
    sealer = Sealer(connector)
    with psycopg.connect(ledger.settings.database_url or "") as late:
        late.execute("select pg_current_xact_id()")
        for _ in range(3):
            ledger.record(Event("user:2", "was.early"))
            assert sealer.seal() == 1
        late.execute(RECORD, ("was.late",))
        assert sealer.seal() == 0
        late.commit()
        assert sealer.seal() == 1


def test_what_was_rolled_back_is_passed_over(ledger: Ledger, connector: Connector) -> None:
    """While a transaction that only reads keeps VACUUM from removing anything."""
    sealer = Sealer(connector)
    url = ledger.settings.database_url or ""
    with psycopg.connect(url) as reader, psycopg.connect(url) as other:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select from ledger.ledgers")
        other.execute(RECORD, ("was.taken_back",))
        other.rollback()
        for _ in range(3):
            ledger.record(Event("user:2", "a.b"))
            assert sealer.seal() == 1
        eventually(lambda: passes(ledger, sealer, connector) >= 3)
