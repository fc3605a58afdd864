"""Concurrent relays: one's knowledge of the ledger may be older than what another published."""

from __future__ import annotations

import threading

import pytest

from ledger import Ledger
from ledger.drivers.pools import Connector
from ledger.store.ledgers import ledger_ends
from ledger.stream import publish
from ledger.stream.commands import state
from ledger.stream.publish import resume_point
from ledger.stream.relay import Relay, open_epoch
from tests.support.helpers import events


def test_a_relay_that_looked_at_the_ledger_before_another_published_more(ledger: Ledger) -> None:
    """It took the faster relay's entries for those of a database that was set back."""
    ledger.append_many(events(3))
    servers = Connector(ledger.settings)
    [ledger_end] = servers.run(ledger_ends(None))
    ledger.append_many(events(3, 3))
    Relay(servers).publish()
    assert servers.run(resume_point(ledger_end, 1000)).next > ledger_end.position
    slow = Relay(servers)
    assert slow._catch_up(ledger_end, None) == 0
    ledger.append_many(events(1, 6))
    assert slow.publish() == 1
    servers.close()


def test_a_relay_that_looked_at_the_ledger_before_another_filled_a_new_epoch(ledger: Ledger) -> None:
    ledger.append_many(events(6))
    servers = Connector(ledger.settings)
    [ledger_end] = servers.run(ledger_ends(None))
    servers.run(open_epoch(ledger.ref))
    Relay(servers).publish()
    assert Relay(servers)._catch_up(ledger_end, None) == 0
    servers.close()


def test_a_relay_that_runs_ends_between_two_batches(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is still to publish; what it published stays, and another one goes on after it."""
    ledger.append_many(events(20))
    servers = Connector(ledger.settings)

    class Stop(threading.Event):
        """Set once something is published."""

        def is_set(self) -> bool:
            return servers.run(state("main")).last.position > 0

    monkeypatch.setattr(publish, "BATCH", 5)
    Relay(servers).run(Stop())
    assert servers.run(state("main")).last.position == 5
    assert Relay(servers).publish() == 15
    servers.close()
