"""A text that is no UTF-8, as damaged files bring it: it is named as an entry that cannot be read, with either core."""

from __future__ import annotations

from itertools import islice

import psycopg
import pytest

from ledger import Ledger, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.errors import EntryUnreadable
from ledger.settings import Settings
from ledger.stream import wire
from ledger.stream.relay import Relay
from tests.support.helpers import events

PROBLEM = "it cannot be read: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"


@pytest.fixture
def damaged(ledger: Ledger, admin: psycopg.Connection) -> Ledger:
    """In the actor of entry 60."""
    ledger.append_many(events(100))
    admin.execute(
        """
        create cast (bytea as text) without function;
        alter table ledger.audit_logs disable trigger all;
        update ledger.audit_logs set actor = '\\x41ff'::bytea::text where position = 60;
        """
    )
    return ledger


@pytest.mark.parametrize("workers", [1, 2])
def test_verified(damaged: Ledger, workers: int) -> None:
    report = damaged.verify(workers=workers)
    assert [each.detail for each in report.findings if each.position == 60] == [PROBLEM]
    assert report.entries == 99 and report.last == 100


def test_read(damaged: Ledger) -> None:
    entries = damaged.read()
    assert [entry.position for entry in islice(entries, 59)] == list(range(1, 60))
    with pytest.raises(EntryUnreadable, match=f"^entry 60: {PROBLEM}"):
        next(entries)
    assert damaged.tail().position == 100


def test_published(damaged: Ledger, redis_url: str) -> None:
    connector = Connector(Settings(database_url=damaged.settings.database_url, redis_url=redis_url))
    relay = Relay(connector)
    relay.publish()
    [stopped] = relay.stopped
    assert str(stopped).startswith(f"entry 60: {PROBLEM}")
    connector.close()
    with create_redis_connection(redis_url) as client:
        assert client.xlen(wire.key("main")) == 59
