"""Consumer groups: their start, deliveries, list, deletion and reset; sync and async."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from ledger import AsyncLedger, Event, Ledger
from ledger.drivers.pools import Connector
from ledger.errors import UsageError
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.support.api import AsyncApi
from tests.support.cli import cli_of
from tests.support.helpers import events

Told = list[tuple[int, int]]
"""Positions and delivery attempts."""
Do: TypeAlias = Callable[[Any], tuple[Any, ...] | None]


class Both:
    """A Ledger, or an AsyncLedger, behind one face. do: what to do with each delivery; by default ack."""

    def __init__(self, settings: Settings, kind: str) -> None:
        self.api = AsyncApi(settings) if kind == "async" else None
        self.ledger: Any = self.api.ledger if self.api is not None else Ledger(settings)

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        made = getattr(self.ledger, name)(*args, **options)
        return made if self.api is None else self.api.call(made)

    def told(
        self, group: str, do: Callable[[Any], tuple[Any, ...] | None] = lambda _: ("ack",), **options: Any
    ) -> Told:
        """do: the method of the delivery to call, and its arguments; None for none."""
        found: Told = []
        given = {"idle": 0.7, **options}

        def noted(delivery: Any) -> Any:
            found.append((delivery.entry.position, delivery.tries))
            said = do(delivery)
            return None if said is None else getattr(delivery, said[0])(*said[1:])

        if self.api is None:
            for delivery in self.ledger.subscribe(group, **given):
                noted(delivery)
            return found

        async def collect(ledger: AsyncLedger) -> None:
            async for delivery in ledger.subscribe(group, **given):
                waited = noted(delivery)
                if waited is not None:
                    await waited

        self.api.call(collect(self.ledger))
        return found

    def close(self) -> None:
        (self.api or self.ledger).close()


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest, ledger: Ledger) -> Iterator[Both]:
    """Ten entries, published."""
    ledger.append_many(events(10))
    published(ledger)
    made = Both(ledger.settings, request.param)
    yield made
    made.close()


def published(ledger: Ledger) -> None:
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    servers.close()


def test_a_new_group_begins_at_the_end(both: Both, ledger: Ledger) -> None:
    assert both.told("mailer") == []
    ledger.append_many(events(2, 10))
    published(ledger)
    assert both.told("mailer") == both.told("other", after=10) == [(11, 1), (12, 1)]
    assert [position for position, _ in both.told("all", after=0)] == list(range(1, 13))
    assert both.told("all", after=5) == [], "where it was"


def test_what_is_there_is_handed_out_however_short_the_wait(both: Both, ledger: Ledger) -> None:
    """Who connected for longer than `idle` ended before it had asked for anything."""
    everything = list(range(1, 11))

    async def followed() -> list[int]:
        return [entry.position async for entry in both.ledger.follow(after=0, idle=0)]

    assert [position for position, _ in both.told("mailer", after=0, idle=0)] == everything
    if both.api is None:
        assert [entry.position for entry in ledger.follow(after=0, idle=0)] == everything
    else:
        assert both.api.call(followed()) == everything


def test_a_group_beyond_the_end_is_refused(both: Both) -> None:
    for after in (11, -1, 2**63):
        with pytest.raises(UsageError, match="ends at 10"):
            both.told("mailer", after=after)
    assert both.call("groups") == []
    both.told("mailer")
    with pytest.raises(UsageError, match="ends at 10"):
        both.call("reset_group", "mailer", after=11)
    with pytest.raises(UsageError, match="ends at 10"):
        both.told("mailer", after=11)
    for group in ("", "a\nb", "x" * 300):
        with pytest.raises(UsageError):
            both.told(group)
    for options in ({"batch_size": 0}, {"max_tries": 0}, {"claim_after": 0}, {"actions": "a.*"}):
        with pytest.raises(UsageError):
            both.told("mailer", **options)


def test_listed_set_back_and_deleted(both: Both, ledger: Ledger) -> None:
    both.told("mailer", lambda _: None, after=4, batch_size=2)
    both.told("done", after=0)
    done, mailer = both.call("groups")
    assert (done.name, done.position, done.pending, done.dead_letters, done.consumers, done.lag) == (
        *("done", 10, 0, 0, 1, 0),
    )
    assert (mailer.name, mailer.position, mailer.pending, mailer.lag) == ("mailer", 4, 6, 6)
    both.call("reset_group", "done", after=8)
    assert both.told("done") == [(9, 1), (10, 1)]
    both.call("reset_group", "mailer", after=9)
    assert both.told("mailer") == [(10, 1)], "what was pending is forgotten"
    both.call("delete_group", "mailer")
    assert [group.name for group in both.call("groups")] == ["done"]
    for name, more in (("delete_group", {}), ("reset_group", {"after": 1})):
        with pytest.raises(UsageError, match="no group 'mailer'"):
            both.call(name, "mailer", **more)
    assert both.told("mailer") == [], "a new one"


def test_only_some_actions(both: Both, ledger: Ledger) -> None:
    for action in ("mail.sent", "mailsent", "user.login", "mail.read"):
        ledger.append(Event("user:1", action))
    published(ledger)
    wanted: dict[str, Any] = {"after": 0, "actions": ["mail.*", "user.login"]}
    assert both.told("mailer", batch_size=2, **wanted) == [(11, 1), (13, 1), (14, 1)]
    [mailer] = both.call("groups")
    assert (mailer.position, mailer.pending, mailer.lag) == (14, 0, 0)
    assert both.told("none", after=0, actions=[]) == []


def test_many_entries_beyond_the_stream_are_not_waited_for_one_by_one(both: Both, ledger: Ledger) -> None:
    """Nobody published them, and no other consumer had them: each of them took the whole wait for the stream."""
    both.told("mailer")
    ledger.append_many(events(60, 10))
    began = time.monotonic()
    assert both.told("mailer", idle=3) == [(position, 1) for position in range(11, 71)]
    assert time.monotonic() - began < 15


def test_the_reason_is_a_string(both: Both) -> None:
    with pytest.raises(UsageError, match="reason of a nack must be a string, not NoneType"):
        both.told("mailer", lambda _: ("nack", None), after=9)
    with pytest.raises(UsageError, match="batch_size must be a whole number from 1 to 1000, not '5'"):
        both.told("mailer", batch_size="5")


def test_extended(both: Both) -> None:
    """It is not delivered to another consumer before that, whatever claim_after says."""

    def extend(delivery: Any) -> tuple[Any, ...] | None:
        return ("extend", 4.0) if delivery.entry.position == 9 else None

    assert both.told("mailer", extend, after=8, idle=0.3) == [(9, 1), (10, 1)]
    began = time.monotonic()
    assert both.told("mailer", claim_after=0.3, idle=1.5) == [(10, 2)]
    assert both.told("mailer", claim_after=0.3, idle=4) == [(9, 2)]
    assert time.monotonic() - began > 3


def test_refused_with_a_reason_and_redelivered(both: Both) -> None:
    """After a delay, however long claim_after is; at last a dead letter, with the reason."""

    def refuse(delivery: Any) -> tuple[Any, ...]:
        return ("nack", f"no mail server {delivery.tries}", 0.2) if delivery.entry.position == 9 else ("ack",)

    told = both.told("mailer", refuse, after=8, claim_after=60, max_tries=3, idle=2.5)
    assert told == [(9, 1), (10, 1), (9, 2), (9, 3)]
    [letter] = both.call("dead_letters", "mailer")
    assert letter == (9, 3, "no mail server 3")
    [group] = both.call("groups")
    assert (group.position, group.pending, group.dead_letters) == (10, 0, 1)
    both.call("redeliver", "mailer", 9)
    assert both.call("dead_letters", "mailer") == []
    assert both.told("mailer") == [(9, 1)]
    with pytest.raises(UsageError):
        both.call("redeliver", "mailer", 9)


def test_on_the_command_line(ledger: Ledger) -> None:
    ledger.append_many(events(10))
    published(ledger)
    cli = cli_of(ledger)
    assert cli.well("groups").out == "No consumer groups\n"
    for delivery in ledger.subscribe("mailer", after=8, max_tries=1, idle=0.5):
        delivery.nack("no \x1b[2J mail")
    assert cli.well("groups").out.split("  ")[:1] == ["mailer"]
    assert cli.well("groups", "list", "--json").json == [
        {"name": "mailer", "position": 10, "pending": 0, "dead_letters": 2, "consumers": 1, "lag": 0}
    ]
    assert cli.well("parked", "mailer", "--json").json[0] == {"position": 9, "tries": 1, "reason": "no \x1b[2J mail"}
    assert "\x1b" not in cli.well("parked", "mailer").out
    cli.well("groups", "reset", "mailer", "--after", "3")
    assert [delivery.entry.position for delivery in ledger.subscribe("mailer", idle=0.5)] == list(range(4, 11))
    ran = cli("groups", "reset", "mailer", "--after", "11")
    assert ran.code == 2 and "ends at 10" in ran.error
    cli.well("groups", "delete", "mailer")
    assert cli("groups", "delete", "mailer").code == 2
