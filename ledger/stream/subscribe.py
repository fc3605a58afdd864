"""What a consumer of a consumer group goes through: claims, deliveries, and the group's progress at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ledger.drivers import forks
from ledger.effects import Feed
from ledger.store.durability import Durable
from ledger.store.ledgers import LedgerRef
from ledger.stream.consumer_group import Subscription
from ledger.stream.delivery import Holder, PendingEntry
from ledger.stream.reader import IdleTimer

D = TypeVar("D")


def deliveries(
    ledger: LedgerRef,
    durable: Durable,
    group: str,
    deliver: Callable[[PendingEntry, Holder], D],
    *,
    after: int | None,
    consumer: str | None,
    batch_size: int,
    actions: Sequence[str] | None,
    claim_after: float,
    max_tries: int,
    idle: float | None,
) -> Feed[D]:
    """What Ledger.subscribe hands out. deliver: makes a delivery of a pending entry and of the consumer that holds it.

    In a child of a fork it begins anew, as another consumer, to which other entries are delivered. What was claimed
    before the fork is the parent's.
    """
    idle_timer = IdleTimer(idle)
    while True:
        begun = forks.Begun("subscribe()")
        subscription = Subscription(
            ledger, durable, group, consumer,
            after=after, batch_size=batch_size, actions=actions, claim_after=claim_after, max_tries=max_tries,
        )  # fmt: skip
        yield subscription.begin()
        while not idle_timer.over and not begun.inherited:
            for pending in (yield subscription.next_pending(idle_timer.wait)):
                yield [deliver(pending, subscription)]
                if begun.inherited:
                    break
                idle_timer.reset()
        if not begun.inherited:
            yield subscription.save()
            return
