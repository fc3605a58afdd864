"""append, import and create: entries, output, and bad input that records nothing."""

from __future__ import annotations

import gzip
import json
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ledger import Event, Ledger
from ledger.cli.commands.import_file import _EventLine
from tests.support.cli import Cli, cli_of, ended, process, run
from tests.support.helpers import checked

APPEND = ("append", "--actor", "user:1", "--action", "invoice.sent")
KEYS = [
    "position",
    "id",
    "recorded_at",
    "occurred_at",
    "actor",
    "actor_type",
    "action",
    "resource_type",
    "resource_id",
    "before",
    "after",
    "metadata",
    "hash",
]


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger, redis=False)


# ------------------------------------------------------------------------------------------------------------- append


def test_append_prints_its_receipt(cli: Cli, ledger: Ledger) -> None:
    ran = cli.well(*APPEND, "--json")
    [entry] = checked(ledger)
    assert list(ran.json) == ["id", "position", "hash", "recorded_at"]
    assert ran.json["id"] == str(entry.id)
    assert (ran.json["position"], ran.json["hash"]) == (1, entry.hash.hex())
    text = cli.well(*APPEND).out
    assert text.startswith("position 2  id ")


def test_append_takes_every_field_exactly(cli: Cli) -> None:
    given = UUID("01a2049f-2821-72da-8d64-c36bf584a6d0")
    cli.well(
        *APPEND, "--actor-type", "service", "--resource", "invoice:inv:7", "--before", '{"b": 1.10, "a": null}',
        "--after", "[1e2, 123456789012345678901234567890, 0.1]", "--metadata", '"x"',
        "--id", str(given), "--occurred-at", "2026-05-01T12:00:00.1234569+02:00",
    )  # fmt: skip
    line = cli.well("tail", "--json").out
    entry = json.loads(line)
    assert list(entry) == KEYS
    assert '"before":{"a":null,"b":1.1}' in line
    assert '"after":[100.0,123456789012345678901234567890,0.1]' in line
    assert entry["occurred_at"] == "2026-05-01T10:00:00.123456Z"
    assert (entry["id"], entry["metadata"], entry["actor_type"]) == (str(given), "x", "service")
    assert (entry["resource_type"], entry["resource_id"]) == ("invoice", "inv:7")


@pytest.mark.parametrize("option", ["--before", "--after", "--metadata"])
def test_append_refuses_a_key_that_is_given_twice(cli: Cli, ledger: Ledger, option: str) -> None:
    ran = cli(*APPEND, option, '{"user": {"name": "Anna", "n\\u0061me": "Berta"}}')
    assert ran.code == 2 and option in ran.error and ran.error.endswith("user.name: the key is given twice"), ran
    assert checked(ledger) == []


def test_append_twice_with_a_key_adds_nothing(cli: Cli) -> None:
    first, second = (cli.well(*APPEND, "--idempotency-key", "k", "--json").json for _ in range(2))
    assert first == second
    ran = cli(*APPEND, "--idempotency-key", "k", "--after", "1")
    assert ran.code == 2 and "with another body" in ran.error


def test_append_to_another_ledger(cli: Cli) -> None:
    cli.well(*APPEND)
    assert cli.well("create", "second", "--json").json == {"ledger": "second", "created": True}
    assert cli.well("create", "second", "--json").json == {"ledger": "second", "created": False}
    assert cli.well(*APPEND, "--ledger", "second", "--json").json["position"] == 1
    assert cli("create", "Not A Name").code == 2
    ran = cli(*APPEND, "--ledger", "third")
    assert ran.code == 2 and "auditledger create third" in ran.error


BAD_EVENTS: list[tuple[list[str], str]] = [
    (["--after", "{"], "'--after': not JSON"),
    (["--before", "nope"], "'--before': not JSON"),
    (["--metadata", "[" * 100_000], "'--metadata': not JSON"),
    (["--metadata", "[" * 70 + "]" * 70], "deeper than 64"),
    (["--after", "1e999"], "too large"),
    (["--after", "[0.10000000000000000001]"], "more digits than can be kept"),
    (["--after", "NaN"], "not JSON"),
    (["--after", '"\\u0000"'], "after: contains U+0000"),
    (["--after", '{"a": [null, "\\u0000"], "b": 1.10}'], "after.a[1]: contains U+0000"),
    (["--after", '"\\ud800"'], "not JSON"),
    (["--after", json.dumps("x" * 300_000)], "at most 262144"),
    (["--actor", ""], "actor: must have 1 to 255"),
    (["--actor", "\udcff"], "lone surrogate"),
    (["--action", "x" * 129], "action: must have 1 to 128"),
    (["--action", "ledger.mine"], "the ledger's own"),
    (["--resource", "invoice"], "'invoice' is not TYPE:ID"),
    (["--resource", ":7"], "is not TYPE:ID"),
    (["--id", "7"], "not a valid UUID"),
    (["--id", "01a2049f-2821-72da-8d64-c36bf584a6d0", "--idempotency-key", "k"], "not both"),
    (["--occurred-at", "2026-05-01T12:00:00"], "no time zone"),
    (["--occurred-at", "yesterday"], "'--occurred-at'"),
    (["--occurred-at", "0001-01-01T00:00:00+05:00"], "outside the years"),
]


def test_a_bad_event_is_one_line_and_records_nothing(cli: Cli, ledger: Ledger) -> None:
    for arguments, says in BAD_EVENTS:
        ran = cli(*APPEND, *arguments)
        assert ran.code == 2 and not ran.out, ran
        assert says in ran.error
    assert ledger.tail().position == 0


# ------------------------------------------------------------------------------------------------------------- import


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def said(number: int, **more: Any) -> dict[str, Any]:
    return {
        "actor": "user:1",
        "action": "thing.done",
        "after": {"number": number},
        "idempotency_key": str(number),
    } | more


def imported(cli: Cli, content: bytes, tmp_path: Path, *arguments: str) -> Any:
    file = tmp_path / "events.jsonl"
    file.write_bytes(content)
    return cli("import", str(file), "--json", *arguments)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("piped", [False, True], ids=["file", "stdin"])
def test_import(cli: Cli, ledger: Ledger, tmp_path: Path, packed: bool, piped: bool) -> None:
    content = b"\xef\xbb\xbf" + lines(*map(said, range(5))) + b"\n  \n" + lines(said(5))[:-1]
    content = gzip.compress(content) if packed else content
    for recorded, duplicates in ((6, 0), (0, 6)):
        ran = cli("import", "-", "--json", stdin=content) if piped else imported(cli, content, tmp_path)
        assert ran.json == {"read": 6, "recorded": recorded, "duplicates": duplicates, "last_position": 6}
    assert [entry.after["number"] for entry in checked(ledger)] == [0, 1, 2, 3, 4, 5]
    again = cli.well("import", "-", stdin=content).out
    assert again == "Recorded 0 of 6 events; 6 duplicates; the last is at position 6\n"


def test_import_keeps_numbers_and_cuts_times(cli: Cli, tmp_path: Path) -> None:
    text = b'{"actor":"a","action":"b","occurred_at":"2026-05-01T12:00:00.9999999Z","after":{"z":null,"n":1.10}}'
    assert imported(cli, text, tmp_path).code == 0
    line = cli.well("tail", "--json").out
    assert '"after":{"n":1.1,"z":null}' in line
    assert json.loads(line)["occurred_at"] == "2026-05-01T12:00:00.999999Z"


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{\n", ""),
    (b"7\n", "Expected `object`"),
    (lines(said(3, colour="red")), "Object contains unknown field `colour`"),
    (lines({"actor": "a"}), "Object missing required field `action`"),
    (lines(said(3, actor=7)), "Expected `str`, got `int` - at `$.actor`"),
    (lines(said(3, actor="")), "actor: must have 1 to 255"),
    (
        lines(said(3, occurred_at="2026-05-01T12:00:00")),
        "occurred_at: 2026-05-01T12:00:00 has no",
    ),
    (lines(said(3, occurred_at="soon")), "occurred_at: Invalid isoformat"),
    (lines(said(3, id="7")), "Invalid UUID - at `$.id`"),
    (lines(said(3, after={"a": [None, "\0"]})), "after.a[1]: contains U+0000"),
    (b'{"actor":"a","action":"b","after":1e999}\n', "the number 1e999 is too large"),
    (b'{"actor":"a","action":"b","after":0.30000000000000000001}\n', "the number 0.3000"),
    (b"[" * 100_000 + b"\n", ""),
    (b'{"actor":"\xff"}\n', ""),
    (lines(said(1, after="other")), "id "),
]


def test_a_bad_line_ends_the_import_and_says_where(cli: Cli, tmp_path: Path) -> None:
    for number, (bad, says) in enumerate(BAD_LINES):
        cli.well("create", f"ledger{number}")
        content = lines(said(0), said(1)) + b"\n" + bad + lines(said(9))
        ran = imported(cli, content, tmp_path, "--ledger", f"ledger{number}")
        assert ran.code == 2 and not ran.out, ran
        assert ran.error.startswith(f"line 4 of {tmp_path / 'events.jsonl'}: {says}"), ran
        assert ran.error.endswith("Recorded before it: 2 entries, up to position 2."), ran
        assert len(cli.well("tail", "--json", "--ledger", f"ledger{number}").jsons) == 2


def test_a_file_that_cannot_be_read(cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
    assert "No such file" in cli("import", str(tmp_path / "none")).error
    assert "directory" in cli("import", str(tmp_path)).error
    whole = gzip.compress(lines(*map(said, range(1000))))
    for content in (whole[: len(whole) // 2], whole[:-8] + bytes(8)):
        ran = imported(cli, content, tmp_path)
        assert ran.code == 2 and "the gzip data is damaged or cut short" in ran.error
        assert "Recorded before it" in ran.error
    assert [entry.after["number"] for entry in checked(ledger)] == list(range(ledger.tail().position))
    assert cli.well("import", "-").out.startswith("Nothing to import")


def test_a_bad_file_starts_no_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("import", "none").code == 2
    assert run(*APPEND, "--actor", "").code == 2
    assert not (tmp_path / ".ledger").exists()


CONNECTED = "select from pg_stat_activity where datname = current_database() and application_name = 'auditledger'"


def test_ctrl_c_ends_an_import_between_two_events_and_says_where(ledger: Ledger, admin: psycopg.Connection) -> None:
    with process(*cli_of(ledger).urls, "import", "-", stdin=-1) as popen:
        assert popen.stdin is not None
        popen.stdin.write(lines(*map(said, range(10))).decode())
        popen.stdin.flush()
        while not admin.execute(CONNECTED).fetchall():
            time.sleep(0.05)
        time.sleep(0.5)  # until it waits for more; nothing outside shows when
        popen.send_signal(signal.SIGINT)
        ran = ended_after(popen, lines(said(10)).decode())
    assert ran.code == 130
    assert ran.error.endswith("Recorded before it: 10 entries, up to position 10.")
    assert len(checked(ledger)) == 10


def ended_after(popen: Any, more: str) -> Any:
    popen.stdin.write(more)
    popen.stdin.close()
    popen.stdin = None
    return ended(popen)


def test_a_line_has_the_fields_of_an_event_in_their_order() -> None:
    assert _EventLine.__struct_fields__ == Event.__struct_fields__
