"""A text that is no UTF-8, as damaged files bring it: it is named as an entry that cannot be read, with either core."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from ledger import Ledger, create_redis_connection
from ledger.drivers.pools import Connector
from ledger.errors import EntryUnreadable
from ledger.settings import Settings
from ledger.stream import wire
from ledger.stream.relay import Relay
from tests.support.forger import Forger
from tests.support.helpers import events

PROBLEM = "it cannot be read: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"
DAMAGE = "update ledger.audit_logs set actor = '\\x41ff'::bytea::text where position = 60"


@pytest.fixture
def forger(ledger: Ledger) -> Iterator[Forger]:
    """Who may put any bytes where a text is. The ledger has 100 entries."""
    ledger.append_many(events(100))
    with Forger(ledger.settings.database_url or "") as forger:
        forger.run("create cast (bytea as text) without function")
        yield forger


@pytest.mark.parametrize("workers", [1, 2])
def test_verified(forger: Forger, workers: int) -> None:
    forger.run(DAMAGE)
    report = forger.verify(workers=workers)
    assert [each.detail for each in report.findings if each.position == 60] == [PROBLEM]
    assert report.entries == 99 and report.last == 100


@pytest.mark.parametrize("workers", [1, 2])
def test_verified_after_one_that_is_quarantined(ledger: Ledger, forger: Forger, workers: int) -> None:
    """Which is put together before it is judged."""
    forger.run("update ledger.audit_logs set actor = 'another' where position = 59")
    forger.done()
    ledger.quarantine(59, "user:dpo", "changed")
    with Forger(ledger.settings.database_url or "") as again:
        again.run(DAMAGE)
    report = forger.verify(workers=workers)
    found = [(each.position, each.kind) for each in report.findings if each.position]
    assert found == [(59, "quarantined"), (60, "unreadable")]
    assert report.entries == 100 and report.last == 101


def test_read(ledger: Ledger, forger: Forger) -> None:
    forger.run(DAMAGE)
    entries = ledger.read()
    assert [entry.position for entry in islice(entries, 59)] == list(range(1, 60))
    with pytest.raises(EntryUnreadable, match=f"^entry 60: {PROBLEM}"):
        next(entries)
    assert ledger.tail().position == 100


def test_published(ledger: Ledger, forger: Forger, redis_url: str) -> None:
    forger.run(DAMAGE)
    connector = Connector(Settings(database_url=ledger.settings.database_url, redis_url=redis_url))
    relay = Relay(connector)
    relay.publish()
    [stopped] = relay.stopped
    assert str(stopped).startswith(f"entry 60: {PROBLEM}")
    connector.close()
    with create_redis_connection(redis_url) as client:
        assert client.xlen(wire.key("main")) == 59
