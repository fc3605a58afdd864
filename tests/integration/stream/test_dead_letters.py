"""Dead letters of a consumer group: made after too many deliveries, listed, redelivered on request."""

from __future__ import annotations

import pytest

from ledger import Ledger
from tests.support.cli import Cli, cli_of
from tests.support.helpers import events


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    """Five entries, of which the third is never acknowledged, and parked."""
    ledger.append_many(events(5))
    cli = cli_of(ledger)
    cli.well("relay", "--once")
    for _ in range(4):
        handed_out(ledger, refused=(3,))
    return cli


def handed_out(ledger: Ledger, refused: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Positions and tries of what the group is handed out, and acknowledges but for some."""
    found = []
    for delivery in ledger.subscribe("mailer", after=0, claim_after=0.05, max_tries=2, idle=0.5):
        found.append((delivery.entry.position, delivery.tries))
        if delivery.entry.position not in refused:
            delivery.ack()
    return found


def test_shown_and_handed_out_again(cli: Cli, ledger: Ledger) -> None:
    assert cli.well("parked", "mailer", "--json").json == [{"position": 3, "tries": 2, "reason": None}]
    assert cli.well("parked", "mailer").out == "entry 3  delivered 2 times\n"
    [group] = cli.well("status", "--json").json["ledgers"][0]["subscriptions"]
    assert (group["name"], group["position"], group["lag"], group["parked"]) == ("mailer", 5, 0, 1)
    assert "up to date; 1 dead letter" in cli.well("status").out
    [check] = [each for each in cli("doctor", "--json").json["checks"] if "dead-lettered" in each["found"]]
    assert (check["name"], check["level"]) == ("main: group mailer", "warning")
    assert handed_out(ledger) == []

    assert cli.well("parked", "mailer", "--retry", "3").out == "No dead letters of group mailer\n"
    assert handed_out(ledger) == [(3, 1)]
    assert handed_out(ledger) == []
    [group] = cli.well("status", "--json").json["ledgers"][0]["subscriptions"]
    assert (group["position"], group["parked"]) == (5, 0)


def test_what_cannot_be_handed_out_again(cli: Cli, ledger: Ledger) -> None:
    ran = cli("parked", "mailer", "--retry", "4")
    assert (ran.code, ran.out) == (2, "") and "entry 4 is not a dead letter of group 'mailer'" in ran.err
    ledger.erase(3, "user:dpo", "asked for")
    cli.well("relay", "--once")
    ran = cli("parked", "mailer", "--retry", "3")
    assert ran.code == 2 and "entry 3 is no longer in the stream: it was trimmed or erased" in ran.err
    assert cli.well("parked", "mailer", "--json").json == [{"position": 3, "tries": 2, "reason": None}]
    assert cli.well("parked", "unknown", "--json").json == []
