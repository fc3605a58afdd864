"""Entries that a group was given from Postgres, and that the relay publishes before they are acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from ledger import Delivery, Event, Ledger
from ledger.drivers.pools import Connector
from ledger.stream.relay import Relay

GROUP = "mailer"
HELD = 1.5
"""The visibility timeout, in seconds."""


@pytest.fixture
def first(ledger: Ledger) -> Iterator[Delivery]:
    """Entry 2, delivered before it was published; it is published now."""
    ledger.append(Event("user:1", "a.b"))
    publish(ledger)
    ledger.append(Event("user:1", "a.b"))
    deliveries = ledger.subscribe(GROUP, after=1, claim_after=HELD, idle=5)
    delivery = next(deliveries)
    assert (delivery.entry.position, delivery.tries) == (2, 1)
    publish(ledger)
    yield delivery


def publish(ledger: Ledger) -> None:
    with closing(Connector(ledger.settings)) as connector:
        Relay(connector).publish()


def others(ledger: Ledger, idle: float, max_tries: int = 5) -> list[tuple[int, int]]:
    """Positions and delivery attempts of what another consumer is given, which it acknowledges."""
    given = []
    for delivery in ledger.subscribe(GROUP, claim_after=HELD, idle=idle, max_tries=max_tries):
        given.append((delivery.entry.position, delivery.tries))
        delivery.ack()
    return given


def test_it_stays_with_its_consumer(ledger: Ledger, first: Delivery) -> None:
    assert others(ledger, HELD / 3) == []
    first.ack()
    ledger.append(Event("user:1", "a.b"))
    publish(ledger)
    assert others(ledger, HELD + 1) == [(3, 1)]


def test_one_acknowledged_before_another_consumer_asks(ledger: Ledger, first: Delivery) -> None:
    first.ack()
    assert others(ledger, HELD + 1) == []


def test_it_is_redelivered_once_when_its_time_is_over(ledger: Ledger, first: Delivery) -> None:
    assert others(ledger, HELD / 3) == []
    assert others(ledger, HELD + 1.5) == [(2, 2)]


def test_it_is_redelivered_once_to_one_who_asks_after_its_time(ledger: Ledger, first: Delivery) -> None:
    time.sleep(HELD + 0.1)
    assert others(ledger, 1) == [(2, 2)]


def test_it_can_be_extended(ledger: Ledger, first: Delivery) -> None:
    assert others(ledger, HELD / 3) == []
    first.extend(60)
    assert others(ledger, HELD + 1.5) == []


def test_it_can_be_refused(ledger: Ledger, first: Delivery) -> None:
    assert others(ledger, HELD / 3) == []
    first.nack("not now")
    assert others(ledger, 1) == [(2, 2)]


def test_its_attempts_count(ledger: Ledger, first: Delivery) -> None:
    time.sleep(HELD + 0.1)
    assert others(ledger, 1, max_tries=1) == []
    assert [(letter.position, letter.tries) for letter in ledger.dead_letters(GROUP)] == [(2, 1)]


def test_a_late_acknowledgement_leaves_the_next_ones_lease(ledger: Ledger, first: Delivery) -> None:
    first.ack()
    ledger.append(Event("user:1", "a.b"))
    deliveries = ledger.subscribe(GROUP, claim_after=60, idle=5)
    assert next(deliveries).entry.position == 3
    first.ack()
    assert others(ledger, 1) == []
