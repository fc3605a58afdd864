"""Random command lines: every command ends with 0, 1, 2 or 3 and a message, and the ledger stays sound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ledger_projections import history, state

from ledger import BodyUnreadable, Entry, Ledger, testing
from ledger.migrate.migrate import load_migrations
from tests.fuzz import seeds
from tests.fuzz.foreign import record
from tests.fuzz.json_texts import values
from tests.fuzz.mutations import NUMBERS, texts
from tests.fuzz.profile import bounded, fuzz
from tests.support.cli import Cli, Ran, cli_of, run
from tests.support.helpers import checked, event, events

ID = "01930000-0000-7000-8000-000000000001"
WHO = ["--actor", "user:42", "--reason", "asked for", "--actor-type", "user"]
COMMANDS = [
    [
        *("append", "--actor", "user:42", "--action", "invoice.updated", "--resource", "invoice:inv_7", "--id", ID),
        *("--before", '{"a":1}', "--after", '{"a":[1,2.5,null]}', "--metadata", '"x"', "--actor-type", "service"),
        *("--occurred-at", "2026-05-01T12:00:00.1234569+02:00"),
    ],
    ["append", "--actor", "user:42", "--action", "user.login", "--idempotency-key", "key", "--after", "1e400"],
    ["tail", "-n", "3"],
    ["tail", "--from", "1", "-n", "2"],
    [
        *("query", "--actor", "user:42", "--action", "invoice.*", "--resource", "invoice:inv_7", "--limit", "5"),
        *("--since", "2026-01-01", "--until", "2030-01-01T00:00:00Z", "--text", '"paid off" -overdue or x*'),
    ],
    ["query", "--limit", "1", "--cursor", "AAAAAAAAAAUAAAAA"],
    ["history", "invoice:inv_7", "--limit", "5", "--after", "1"],
    ["state", "invoice:inv_7"],
    ["activity", "user:42", "--limit", "3"],
    ["erase", "1", *WHO],
    ["hold", "invoice:inv_7", *WHO],
    ["release", "2", *WHO],
    ["prove", "1", "--with-body"],
    ["prove", ID],
    ["prove", "--between", "1", "2"],
    ["verify", "--from", "1"],
    ["create", "other"],
    ["replay", "timeline"],
    ["project", "timeline", "--once"],
    ["relay", "--once"],
    ["grant", "ledger_reader", "nobody", "--ledger", "main"],
    ["revoke", "ledger_writer", "nobody"],
    ["check", "-", "--key", seeds.log().key.vkey, "--witness", seeds.log().witnesses[0].vkey, "--quorum", "1"],
    ["run", "--once", "--log-format", "json", "timeline"],
    ["status"],
    ["doctor"],
    ["skip", "timeline", "1", *WHO],
    ["retry", "timeline", "1", *WHO],
    ["parked", "mailer", "--retry", "1"],
]
VALUES = sorted({argument for command in COMMANDS for argument in command[1:] if not argument.startswith("-")})
LEFT_OUT = re.compile(r"--(workers|follow|home|database-url|redis-url|metrics-port|help)|-f$")
"""Options that start processes or servers, wait for ever, or answer with help."""


@pytest.fixture(scope="module")
def ledger(servers: testing.TestServers, template: str, pytestconfig: pytest.Config) -> Iterator[Ledger]:
    worker = getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0")
    redis_url = testing.redis_database(servers.redis_url, int(worker.removeprefix("gw")))
    with (
        testing.database(servers.database_url, template=template) as url,
        Ledger.open(database_url=url, redis_url=redis_url) as opened,
    ):
        opened.append_many(events(3))
        opened.append(event(4, resource_type="invoice", resource_id="inv_7", before={"a": 1}))
        yield opened


@pytest.fixture(scope="module")
def cli(ledger: Ledger) -> Cli:
    cli = cli_of(ledger)
    cli.well("project", "--once")
    return cli


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command's arguments, a few of them changed."""
    command = list(draw(st.sampled_from(COMMANDS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(1, len(command)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(command):
                del command[at]
            case 1:
                command.insert(at, draw(st.sampled_from(["--json", "--", "", *VALUES])))
            case 2 if at < len(command):
                command[at] = draw(st.sampled_from(NUMBERS).map(lambda each: each.decode()) | values)
            case _ if at < len(command):
                command[at] = draw(texts([command[at], *VALUES], 2))
            case _:
                pass
    return [argument.replace("\0", "") for argument in command]  # no system hands that over


def well_ended(ran: Ran) -> None:
    assert ran.code in (0, 1, 2, 3), ran
    assert "Traceback" not in ran.err and "an internal error" not in ran.err, ran
    if ran.code:
        assert "error: " in ran.err or '"level":"error"' in ran.err or "DOES NOT VERIFY" in ran.out, ran


TOO_MUCH = "9" * 25
WORKERS = ("relay", "project", "run")


@fuzz(50)
@given(lines(), st.binary(max_size=20) | st.sampled_from(seeds.proofs()), st.booleans())
@example(["append", "--actor", "a", "--action", "b", "--after", "0e99999999999999999999"], b"", False)
@example(["append", "--actor", "a", "--action", "b", "--after", "[" * 60_000], b"", False)
@example(["append", "--actor", "a", "--action", "b", "--after", "9" * 5000], b"", False)
@example(["append", "--actor", "\udcff", "--action", "b"], b"", False)
@example(["append", "--actor", "a", "--action", "b", "--idempotency-key", "\udcff"], b"", False)
@example(["append", "--actor", "a", "--action", "b", "--id", "\udcff"], b"", False)
@example(["tail", "--from", "1", "-n", TOO_MUCH], b"", False)
@example(["tail", "-n", TOO_MUCH], b"", False)
@example(["history", "invoice:inv_7", "--after", TOO_MUCH], b"", False)
@example(["prove", "--between", "9999999999999999999", "1"], b"", False)
@example(["prove", "--between", "\udcff", "1"], b"", True)
@example(["query", "--text", "\u3300" * 500], b"", False)
@example(["query", "--text", "\ufdfa" * 500], b"", False)
@example(["query", "--since", "0001-01-01", "--until", "9999-12-31T23:59:59.999999"], b"", False)
@example(["query", "--since", "0001-01-01T00:00:00+01:00"], b"", False)
@example(["query", "--action", "*" * 1000], b"", False)
@example(["query", "--action", "a*" * 5000], b"", False)
@example(["activity", "\udcff"], b"", False)
@example(["grant", "ledger_reader", "\udcff", "--all-ledgers"], b"", False)
@example(["grant", "ledger_reader", "a" * 5000, "--all-ledgers"], b"", False)
@example(["project", "--once", ".:x"], b"", False)
@example(["project", "--once", "json:"], b"", False)
@example(["project", "--once", "json:dumps"], b"", False)
@example(["project", "--once", "\udcff"], b"", False)
@example(["replay", "\udcff"], b"", False)
@example(["erase", TOO_MUCH, *WHO], b"", False)
@example(["hold", "a" * 70 + ":x", *WHO], b"", False)
@example(["check", "-", "--key", seeds.private_keys()[0]], b"", False)
@example(["nonsense" * 10_000], b"", False)
@example(["state", "a." * 60_000], b"", False)
def test_any_command_ends_well(cli: Cli, line: list[str], stdin: bytes, as_json: bool) -> None:
    if any(LEFT_OUT.match(argument) for argument in line) or (line[0] in WORKERS and "--once" not in line[1:]):
        return
    with bounded():
        ran = cli(*(["--json"] if as_json else []), *line, stdin=stdin)
    well_ended(ran)
    assert seeds.private_keys()[0].rpartition("+")[2] not in ran.err + ran.out
    if as_json and ran.code == 0:
        for each in ran.out.splitlines():
            json.loads(each)


def test_the_ledger_is_still_one(ledger: Ledger, cli: Cli) -> None:
    """After all of that."""
    assert checked(ledger)
    assert cli("verify").code == 0


def test_a_forged_cursor(ledger: Ledger, cli: Cli) -> None:
    """Its checksum is no secret; a position that no ledger has finds nothing, or is refused."""
    from ledger_projections.timeline import _cursor

    ref = ledger.ref
    for position in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        ran = cli("query", "--cursor", _cursor(position, repr((ref.ledger_id, []))))
        well_ended(ran)


@pytest.mark.parametrize("address", [
    *(f"{host}:80" for host in ("..", "a" * 70, "a..b", "\udcff", "256.256.256.256", "[::1", "::1]", "[::g]", "")),
    *(f"127.0.0.1:{port}" for port in ("99999", "-1", "٣", TOO_MUCH, "")),
])  # fmt: skip
def test_addresses_that_cannot_be_listened_on(cli: Cli, tmp_path: Path, address: str) -> None:
    key = tmp_path / "witness.key"
    assert run("witness", "keygen", str(key), "--name", "witness.example/w1").code == 0
    state = ["--state", str(tmp_path / "state"), "--log", seeds.log().key.vkey]
    for ran in (
        run("witness", "serve", "--key", str(key), *state, "--listen", address),
        cli("relay", "--metrics-port", address),
    ):
        assert ran.code == 2 and "error: " in ran.err and "fault" not in ran.err, ran


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x1b[2J"])
def test_files_whose_names_are_no_text(tmp_path: Path, name: str) -> None:
    for options in ([], ["--json"]):
        key = str(tmp_path / f"{name}{len(options)}")
        assert run(*options, "keygen", key, "--origin", "log.example").code == 0
        assert run(*options, "witness", "keygen", f"{key}w", "--name", "witness.example/w1").code == 0
        assert run(*options, "check", f"{key}x", "--key", seeds.log().key.vkey).code == 2
        assert run(*options, "verify", "--bundle", f"{key}x").code == 2
        assert run(*options, "keygen", key, "--origin", "log.example").code == 2


# --------------------------------------------------------------------------------------------------- another writer's


REFUSED = {
    "[" * 3000 + "]" * 3000: ["body_depth"],
    '{"a":\n' * 3000 + "1" + "}" * 3000: ["body_depth", "body_line_breaks"],
    '"\\ud800"': ["body_characters"],
    '"\\u0000"': ["body_characters"],
    " [1,\r\n2] ": ["body_line_breaks"],
}
"""What the column's type takes as JSON, and the rules that it breaks: an entry of before those may have it."""
FOREIGN = [
    *REFUSED, "1e400", '{"a":1e400}', "9" * 5000, '{"a":1,"a":2}', "0e99999999999999999999", "-0", '{"":{"":[{}]}}',
]  # fmt: skip
"""What Postgres takes as JSON, and this package would not have written."""


RULES = next(migration.sql for migration in load_migrations() if migration.file == "0008_entry_rules.sql")
RULES = RULES[RULES.index("alter table") :]
"""Adds the constraint, which looks at no entry that is there."""


def test_entries_of_another_writer_are_shown(migrated_url: str, redis_url: str) -> None:
    """Hashed as they should be: whoever reads the ledger gets the text, and verify names the rules that are broken."""
    recorded: list[Entry] = []
    broken: list[tuple[int, str]] = []
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        for text, rules in REFUSED.items():
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                record(connection, "inv_0", None, text)
            assert refused.value.diag.constraint_name in rules
        connection.execute("alter table ledger.audit_logs drop constraint entry_rules")
        for number, text in enumerate(FOREIGN):
            for before, after in ((None, text), (text, "{}"), ('{"a":1}', text)):
                recorded.append(record(connection, f"inv_{number}", before, after))
                broken += [(recorded[-1].position, rule) for rule in REFUSED.get(text, [])]
        connection.execute(RULES.encode())
    with Ledger.open(database_url=migrated_url, redis_url=redis_url) as ledger:
        cli = cli_of(ledger)
        commands = ["tail -n 99", "relay --once", f"tail --from 1 -n {len(recorded)} --follow"]
        commands += ["project --once", "query", "query --text word", "activity", "status"]
        commands += [f"{view} invoice:inv_{number}" for view in ("history", "state") for number in range(len(FOREIGN))]
        for line in commands:
            for options in ([], ["--json"]):
                ran = cli(*options, *line.split())
                assert ran.code == 0, (line, ran)
                for each in ran.out.splitlines() if options else ():
                    assert each.startswith("{") and each.endswith("}")
        ran = cli("verify", "--json")
        *findings, last = ran.json["findings"]
        named = [
            (position, each["detail"].partition(":")[0])
            for each in findings
            for position in range(each["position"], each["through"] + 1)
        ]
        assert ran.code == 1 and sorted(named) == sorted(broken)
        not_validated = "constraint entry_rules on ledger.audit_logs is not validated"
        assert (last["position"], last["through"], last["detail"]) == (None, None, not_validated)
        assert list(ledger.read()) == recorded
        assert list(islice(ledger.follow(after=0), len(recorded))) == recorded
        for number in range(len(FOREIGN)):
            for item in ledger.run(history(ledger.ref, "invoice", f"inv_{number}")):
                read_or_said(lambda item=item: item.changes)  # type: ignore[misc]
            now = ledger.run(state(ledger.ref, "invoice", f"inv_{number}"))
            assert now is not None
            read_or_said(lambda now=now: now.state)  # type: ignore[misc]
    unreadable = [entry.position for entry in recorded if not read_or_said(lambda entry=entry: entry.after)]  # type: ignore[misc]
    assert len(unreadable) == 12, unreadable


def read_or_said(read: Callable[[], object]) -> bool:
    """Can it be read? Else the error is one of ours, which says where the text is."""
    try:
        read()
    except BodyUnreadable as error:
        assert "its text can" in str(error)
        return False
    return True
