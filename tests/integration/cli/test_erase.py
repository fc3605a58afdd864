"""erase, hold, release: entries, output and exit codes."""

from __future__ import annotations

import pytest

from ledger import Ledger
from tests.support.cli import Cli, cli_of
from tests.support.helpers import checked, event

WHO = ("--actor", "user:dpo", "--reason", "request 4711")


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    ledger.append(event(1, resource_type="invoice", resource_id="inv:7"))
    ledger.append(event(2))
    return cli_of(ledger, redis=False)


def test_erase(cli: Cli, ledger: Ledger) -> None:
    ran = cli.well("erase", "1", *WHO, "--json")
    assert "Entry 1 is erased" in ran.err
    entries = checked(ledger)
    assert [entry.erased for entry in entries] == [True, False, False]
    assert (ran.json["position"], ran.json["hash"]) == (3, entries[2].hash.hex())
    assert (entries[2].actor, entries[2].metadata) == ("user:dpo", {"reason": "request 4711"})
    assert cli.well("erase", "1", *WHO).out.startswith("position 3  id ")
    assert "(erased)" in cli.well("tail").out
    assert cli.well("verify", "--json").json["ok"]


def test_hold_and_release(cli: Cli, ledger: Ledger) -> None:
    for held in ("invoice:inv:7", "1"):
        placed = cli.well("hold", held, *WHO, "--json").json["position"]
        ran = cli("erase", "1", *WHO)
        assert (ran.code, ran.out) == (2, "")
        assert f"error: entry 1 is under the legal hold of entry {placed}: nothing was erased" in ran.err
        assert cli.well("release", held, *WHO, "--actor-type", "counsel").out.startswith("position ")
    cli.well("erase", "1", *WHO)
    assert [entry.action for entry in checked(ledger)[2:]] == [
        *("ledger.hold_placed", "ledger.hold_released") * 2,
        "ledger.entry_erased",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("erase", "99", *WHO), "there is no entry 99"),
        (("erase", "0", *WHO), "is not a position: a whole number from 1"),
        (("erase", "x", *WHO), "'x' is not a position"),
        (("erase", "1", "--actor", "user:dpo"), "Missing option '--reason'"),
        (("erase", "1", "--actor", "user:dpo", "--reason", " "), "reason: must say why"),
        (("erase", "1", "--actor", "", "--reason", "x"), "actor: must have 1 to 255 characters"),
        (("hold", "invoice", *WHO), "'invoice' is not TYPE:ID"),
        (("hold", "99", *WHO), "there is no entry 99"),
        (("release", "invoice:inv:7", *WHO), "there is no hold on invoice:inv:7"),
    ],
)
def test_wrong_use(cli: Cli, ledger: Ledger, arguments: tuple[str, ...], text: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert len(checked(ledger)) == 2
