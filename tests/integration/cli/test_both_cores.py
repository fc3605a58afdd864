"""One ledger through the command line, by the native core and by Python alone: the same findings, entries and bytes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Event, Ledger
from ledger.drivers.connections import create_redis_connection
from ledger.stream.wire import key
from tests.support.both import needs_core
from tests.support.cli import AUDITLEDGER, Ran
from tests.support.forger import Forger
from tests.support.forging import INFINITY, Time, chain, insert
from tests.support.helpers import erase

pytestmark = needs_core

PYTHON, CORE = {"LEDGER_NATIVE": "0"}, {"LEDGER_NATIVE": "1"}
_WHO = {"actor": "a", "action": "b"}
ODD: list[dict[str, Any]] = [
    {"actor": 'user:"42"\\\n\u2028', "action": "a\x01\x7f", "after": {"é": ["\U0001f600", 1.5e300, -0.0, 2**63]}},
    {"actor": "é" * 255, "action": "€" * 128, "actor_type": "\U0001f600" * 64, "metadata": "\\u0000"},
    _WHO | {"resource_type": "c" * 64, "resource_id": "d" * 255, "before": [[[[]]]], "after": None},
    _WHO | {"after": "x" * 200_000, "occurred_at": "0001-01-01T00:00:00Z"},
    _WHO | {"idempotency_key": "k" * 1024, "occurred_at": "9999-12-31T23:59:59.999999Z"},
    _WHO | {"id": "01930000-0000-7000-8000-000000000001", "occurred_at": "2026-01-01T00:00:00+05:30"},
    *(_WHO | {"after": {"number": number}, "idempotency_key": str(number)} for number in range(300)),
]
"""Events as lines of an import."""


def run(ledger: Ledger, *arguments: str, core: dict[str, str], stdin: str | None = None) -> Ran:
    settings = ledger.settings
    urls = {"LEDGER_DATABASE_URL": settings.database_url or "", "LEDGER_REDIS_URL": settings.redis_url or ""}
    ran = subprocess.run(
        [AUDITLEDGER, *arguments],
        input=stdin,
        env=os.environ | urls | core,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def same(ledger: Ledger, *arguments: str) -> Ran:
    """What both say, but for the seconds that it took."""
    ran = [run(ledger, *arguments, core=core) for core in (CORE, PYTHON)]
    said = [_SECONDS.sub("", each.out) for each in ran]
    assert (ran[0].code, said[0], ran[0].err) == (ran[1].code, said[1], ran[1].err)
    assert ran[0].code in (0, 1), ran[0]
    return ran[0]


_SECONDS = re.compile(r'(?<="seconds":) ?[0-9.e-]+|(?<=; )[0-9.]+ s$', re.MULTILINE)
_LOGGED_AT = re.compile(r"^[0-9-]+ [0-9:,]+ ", re.MULTILINE)


def streamed(ledger: Ledger) -> list[Any]:
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        return list(redis.xrange(key("main")))


def lose_stream(ledger: Ledger) -> None:
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        redis.delete(key("main"))


@pytest.fixture
def odd(ledger: Ledger, admin: psycopg.Connection) -> Ledger:
    """A sound ledger of odd entries, erased ones and own ones."""
    lines = "".join(json.dumps(each) + "\n" for each in ODD)
    assert run(ledger, "import", "-", core=CORE, stdin=lines).code == 0
    ledger.append(Event("user:43", "invoice.updated", after={"number": -1}))
    for position in (3, 10):
        erase(admin, position)
    ledger.hold(5, "user:counsel", "case 12")
    return ledger


@pytest.fixture
def forger(odd: Ledger) -> Iterator[Forger]:
    with Forger(odd.settings.database_url or "") as forger:
        yield forger


def test_which_core_runs(ledger: Ledger) -> None:
    for core, says in ((CORE, r"native \(auditledger-native .+\)"), (PYTHON, r"Python \(LEDGER_NATIVE=0\)")):
        assert re.search(rf"^core: {says}$", run(ledger, "--version", core=core).out, re.MULTILINE)
        assert re.fullmatch(says, run(ledger, "status", "--json", core=core).json["core"])


def test_the_same_file_imported_by_both(ledger: Ledger) -> None:
    """Into a ledger each: whatever is not of the moment is the same, and each verifies what the other wrote."""
    lines = "".join(json.dumps(each) + "\n" for each in ODD)
    said = []
    for name, core in (("one", CORE), ("two", PYTHON)):
        run(ledger, "create", name, core=core)
        imported = run(ledger, "--ledger", name, "import", "-", core=core, stdin=lines)
        assert imported.code == 0, imported
        with psycopg.connect(ledger.settings.database_url or "") as connection:
            rows = connection.execute(
                "select position, actor, actor_type, action, resource_type, resource_id, before::text, after::text,"
                " metadata::text, octet_length(salt) from ledger.entries join ledger.ledgers using (ledger_id)"
                " where name = %s order by position",
                (name,),
            ).fetchall()
            named = connection.execute(
                "select position, id, occurred_at::text from ledger.entries join ledger.ledgers using (ledger_id)"
                " where name = %s and position > 4 order by position",
                (name,),
            ).fetchall()
        said.append((rows, [(position, id_) for position, id_, _ in named], named[:2]))
        assert same(ledger, "--ledger", name, "verify", "--json").json["ok"]
        again = run(ledger, "--ledger", name, "import", "--json", "-", core=core, stdin=lines.split("\n", 4)[4])
        assert again.code == 0 and again.json["recorded"] == 0
    assert said[0] == said[1] and len(said[0][0]) == len(ODD)


def test_the_same_bad_line_is_named(ledger: Ledger) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in [*ODD[:8], {"actor": "", "action": "b"}, *ODD[8:]])
    ran = []
    for name, core in (("one", CORE), ("two", PYTHON)):
        run(ledger, "create", name, core=core)
        ran.append(run(ledger, "--ledger", name, "import", "-", core=core, stdin=lines))
    assert ran[0] == ran[1] and ran[0].code == 2 and "actor" in ran[0].err


def test_reading(odd: Ledger) -> None:
    last = odd.tail().position
    entries = same(odd, "tail", "--from", "1", "-n", str(last), "--json").jsons
    assert [entry["position"] for entry in entries] == list(range(1, last + 1))
    same(odd, "tail", "-n", "20")
    assert run(odd, "relay", "--once", core=CORE).code == 0
    followed = same(odd, "tail", "--from", "1", "-n", str(last), "--follow", "--json").jsons
    assert followed == entries
    assert same(odd, "verify", "--json").json["ok"]
    assert run(odd, "project", "--once", core=CORE).code == 0
    same(odd, "history", f"{'c' * 64}:{'d' * 255}", "--json")
    same(odd, "query", "--actor", "a", "--json")


def test_bundles_are_the_same(odd: Ledger, tmp_path: Path) -> None:
    written = []
    for name, core in (("one", CORE), ("two", PYTHON)):
        assert run(odd, "export", str(tmp_path / name), core=core).code == 0
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
        assert same(odd, "verify", "--bundle", str(tmp_path / name), "--json").json["ok"]
    assert written[0] == written[1] and len(written[0]) >= 3


def test_streams_are_the_same(odd: Ledger) -> None:
    """The stream is lost in between, so that each core fills it."""
    entries = []
    for core in (CORE, PYTHON):
        assert run(odd, "relay", "--once", core=core).code == 0
        entries.append(streamed(odd))
        lose_stream(odd)
    assert entries[0] == entries[1] and len(entries[0]) >= odd.tail().position - 2


FORGERIES = (
    "update ledger.audit_logs set actor = 'user:43' where position = 20",
    "update ledger.audit_logs set after = '{\"number\": 14}' where position = 21",
    "update ledger.audit_logs set salt = decode(repeat('ab', 16), 'hex') where position = 22",
    "delete from ledger.audit_logs where position in (30, 31, 40)",
    "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null where position = 50",
    "update ledger.audit_logs set salt = null where position = 51",
    "update ledger.audit_logs set recorded_at = 'infinity' where position = 60",
    "update ledger.audit_logs set occurred_at = '4000-01-01 BC' where position = 61",
    "update ledger.audit_logs set recorded_at = recorded_at - interval '1 day' where position = 62",
    "update ledger.audit_logs set hash = null where position = 70",
    "update ledger.audit_logs set prev_hash = null where position = 75",
    "update ledger.audit_logs set body_hash = null where position = 80",
    "update ledger.audit_logs set actor = null where position = 85",
    "update ledger.audit_logs set action = 'ledger.nonsense' where position = 90",
    "update ledger.audit_logs set hash = decode('abcd', 'hex') where position = 95",
    "insert into ledger.audit_logs select * from ledger.audit_logs where position = 100",
    "update ledger.audit_logs set position = -position where position = 105",
    "update ledger.audit_logs set ledger_id = 99 where position = 110",
    "update ledger.audit_logs set resource_id = null where resource_id is not null",
)
LOOSE = (
    "alter table ledger.audit_logs drop constraint entry_format, drop constraint entry_rules,"
    " drop constraint one_entry_per_position, drop constraint one_entry_per_id",
    "alter table ledger.audit_logs alter hash drop not null, alter prev_hash drop not null, alter salt drop not null,"
    " alter body_hash drop not null, alter recorded_at drop not null, alter actor drop not null",
)


def forge(forger: Forger) -> None:
    """Rows that break a rule with true hashes, then all else."""
    forger.run(*LOOSE)
    chain(
        forger.connection,
        {"actor": ""},
        {"action": "x" * 129},
        {"resource_type": "a"},
        {"after": b"[" * 65 + b"]" * 65},
        {"after": b'"\\ud800"'},
        {"after": b"[1,\n2]"},
        {"after": b'"' + b"x" * 300_000 + b'"'},
        {"action": "ledger.nonsense"},
        {"action": "ledger.entry_erased", "resource_type": "ledger.entry", "resource_id": "50", "after": None},
        {"salt": bytes(15)},
        {"after": b'"\\u0041"'},
    )
    forger.run(*FORGERIES)
    forger.done()


def test_the_same_findings(odd: Ledger, forger: Forger) -> None:
    forge(forger)
    report = same(odd, "verify", "--json").json
    kinds = {finding["kind"] for finding in report["findings"]}
    assert kinds >= {
        *("hash_mismatch", "broken_link", "missing_entry", "body_mismatch", "body_missing", "time_regression"),
        *("rule_broken", "unprotected"),
    }
    spans = [(finding["position"], finding["through"]) for finding in report["findings"] if finding["position"]]
    positions = {position for first, last in spans for position in range(first, last + 1)}
    assert positions >= {20, 21, 22, 30, 40, 50, 51, 60, 61, 62, 70, 75, 80, 85, 90, 95, 100, 105, 110}
    same(odd, "verify")
    same(odd, "verify", "--json", "--workers", "2")
    same(odd, "verify", "--json", "--from", "72")


def test_a_time_that_postgres_alone_has(odd: Ledger, forger: Forger) -> None:
    forger.run(*LOOSE)
    rows = chain(forger.connection, {"after": b"1"})
    row = rows[0]._replace(position=rows[0].position + 1, id=bytes(16))
    insert(forger.connection, row, (Time("infinity", INFINITY), Time("-infinity", -INFINITY - 1)))
    forger.done()
    assert {finding["kind"] for finding in same(odd, "verify", "--json").json["findings"]} >= {"hash_mismatch"}
    same(odd, "tail", "--from", "300", "--json")


@pytest.mark.parametrize("position", [20, 50, 62, 90])
def test_a_relay_stops_before_the_same_entry(odd: Ledger, forger: Forger, position: int) -> None:
    forger.run(*LOOSE, *(statement for statement in FORGERIES if f"position = {position}" in statement))
    forger.done()
    said = []
    for core in (CORE, PYTHON):
        ran = run(odd, "relay", "--once", "--json", core=core)
        said.append((ran.code, ran.out, _LOGGED_AT.sub("", ran.err), streamed(odd)))
        lose_stream(odd)
    assert said[0] == said[1] and len(said[0][3]) > position - 5
    same(odd, "tail", "--from", str(position - 2), "--json")
