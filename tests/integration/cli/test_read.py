"""tail, query, history, state and activity."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger import Event, Ledger
from tests.support.cli import Cli, cli_of, ended, process
from tests.support.helpers import event, events

DAY = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger, redis=False)


def record(ledger: Ledger) -> None:
    """Six entries on three days."""
    invoice: Any = {"resource_type": "invoice", "resource_id": "inv:7"}
    said = [
        Event("user:1", "invoice.created", after={"status": "draft", "amount": 12.5}, **invoice),
        Event("user:2", "invoice.sent", before={"status": "draft"}, after={"status": "sent"}, **invoice),
        Event("user:1", "login.failed", metadata={"reason": "wrong password"}),
        Event("user:1", "invoice.paid", before={"status": "sent"}, after={"status": "paid"}, **invoice),
        Event("user:1", "login.failed", metadata={"reason": "no such user"}),
        Event("evil\x1b[2J", "door.opened", resource_type="door", resource_id="1", after={"\u202e": "\x9b"}),
    ]
    for number, each in enumerate(said):
        fields = {name: getattr(each, name) for name in each.__struct_fields__}
        ledger.append(Event(**fields | {"occurred_at": DAY.replace(day=1 + number // 2)}))


def positions(cli: Cli, *arguments: str) -> list[int]:
    return [entry["position"] for entry in cli.well(*arguments, "--json").jsons]


def test_tail(cli: Cli, ledger: Ledger) -> None:
    assert cli.well("tail").out == ""
    ledger.append_many(events(25))
    assert positions(cli, "tail") == list(range(16, 26))
    assert positions(cli, "tail", "-n", "3") == [23, 24, 25]
    assert positions(cli, "tail", "-n", "0") == []
    assert positions(cli, "tail", "-n", "100") == list(range(1, 26))
    assert positions(cli, "tail", "--from", "20") == [20, 21, 22, 23, 24, 25]
    assert positions(cli, "tail", "--from", "20", "-n", "2") == [20, 21]
    assert positions(cli, "tail", "--from", "20", "-n", "2", "--follow") == [20, 21]
    assert positions(cli, "tail", "--from", "26") == []
    assert "ends at position 25" in cli("tail", "--from", "27").error
    [line] = cli.well("tail", "-n", "1").out.splitlines()
    assert line.split()[0] == "25" and "user:42" in line and '{"number":24}' in line and "\t" not in line


@pytest.mark.parametrize("redis", [False, True], ids=["postgres alone", "with redis"])
def test_tail_follow(ledger: Ledger, redis: bool) -> None:
    ledger.append_many(events(3))
    with process(*cli_of(ledger, redis=redis).urls, "tail", "--follow", "--json", "-n", "2") as popen:
        assert popen.stdout is not None
        seen = [json.loads(popen.stdout.readline())["position"] for _ in range(2)]
        ledger.append(event(3))
        seen.append(json.loads(popen.stdout.readline())["position"])
        popen.terminate()
        assert ended(popen).err == ""
    assert seen == [2, 3, 4]


def test_a_view_that_is_not_built(cli: Cli) -> None:
    for arguments in (["query"], ["history", "a:b"], ["state", "a:b"], ["activity"]):
        ran = cli(*arguments)
        assert ran.code == 2 and not ran.out
        assert "auditledger project" in ran.error


def test_a_view_that_lags_says_so(cli: Cli, ledger: Ledger) -> None:
    record(ledger)
    cli.well("project", "--once")
    assert cli.well("query").err == ""
    ledger.append(event())
    for arguments in (["query"], ["history", "invoice:inv:7"], ["state", "invoice:inv:7"], ["activity"]):
        ran = cli.well(*arguments)
        assert " is 1 entry behind, at position 6" in ran.err.splitlines()[0]


def test_query(cli: Cli, ledger: Ledger) -> None:
    record(ledger)
    cli.well("project", "--once")
    assert positions(cli, "query") == [6, 5, 4, 3, 2, 1]
    assert positions(cli, "query", "--actor", "user:1", "--action", "invoice.*") == [4, 1]
    assert positions(cli, "query", "--resource", "invoice:inv:7", "--since", "2026-05-02") == [4]
    assert positions(cli, "query", "--until", "2026-05-02T12:00:00Z") == [2, 1]
    assert positions(cli, "query", "--text", "wrong password") == [3]
    first = cli.well("query", "--limit", "4", "--json")
    assert [entry["position"] for entry in first.jsons] == [6, 5, 4, 3]
    cursor = first.err.strip().removeprefix("cursor: ")
    rest = cli.well("query", "--limit", "4", "--json", "--cursor", cursor)
    assert ([entry["position"] for entry in rest.jsons], rest.err) == ([2, 1], "")
    assert rest.jsons == [json.loads(line) for line in reversed(cli.well("tail", "--json").out.splitlines()[:2])]
    assert cli.well("query", "--actor", "nobody").err == "Nothing found\n"
    for arguments in (["--cursor", cursor, "--actor", "user:1"], ["--cursor", "?"], ["--since", "soon"],
                      ["--actor", "\udcff"], ["--resource", "x"]):  # fmt: skip
        ran = cli("query", *arguments)
        assert ran.code == 2 and ran.error and not ran.out


def test_history_state_activity(cli: Cli, ledger: Ledger) -> None:
    record(ledger)
    cli.well("project", "--once")
    items = cli.well("history", "invoice:inv:7", "--json").jsons
    assert [item["position"] for item in items] == [1, 2, 4]
    assert items[1]["changes"] == [{"field": "status", "before": "draft", "after": "sent"}]
    assert 'status: "draft" -> "sent"' in cli.well("history", "invoice:inv:7").out
    assert "amount: nothing -> 12.5" in cli.well("history", "invoice:inv:7").out
    assert positions(cli, "history", "invoice:inv:7", "--after", "2") == [4]
    assert "--after 1" in cli.well("history", "invoice:inv:7", "--limit", "1").err
    now = cli.well("state", "invoice:inv:7", "--json").json
    assert now["state"] == {"amount": 12.5, "status": "paid"}
    assert (now["entries"], now["first_position"], now["last_position"], now["deleted"]) == (3, 1, 4, False)
    assert json.loads(cli.well("state", "invoice:inv:7").out) == now["state"]
    none = cli.well("state", "invoice:none", "--json")
    assert none.json is None and "No entry is about invoice:none" in none.err
    rows = cli.well("activity", "--json").jsons
    assert sum(row["entries"] for row in rows) == 6
    assert [row["action"] for row in cli.well("activity", "user:2", "--json").jsons] == ["invoice.sent"]
    assert rows[-1]["day"] == "2026-05-01" and rows[-1]["first_occurred_at"] == "2026-05-01T12:00:00.000000Z"
    assert len(cli.well("activity", "--limit", "2", "--json").jsons) == 2
    assert "user:2  invoice.sent" in cli.well("activity", "user:2").out


def test_what_is_printed_cannot_steer_a_terminal(cli: Cli, ledger: Ledger) -> None:
    record(ledger)
    cli.well("project", "--once")
    for arguments in (["tail"], ["query"], ["history", "door:1"], ["state", "door:1"], ["activity"]):
        ran = cli.well(*arguments)
        assert not {"\x1b", "\x9b", "\u202e"} & set(ran.out + ran.err), arguments
    assert "evil\\x1b[2J" in cli.well("tail").out
    assert cli.well("tail", "-n", "1", "--json").json["actor"] == "evil\x1b[2J"
