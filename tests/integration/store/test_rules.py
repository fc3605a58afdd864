"""One table of rules: the database, append and verify refuse and report the same."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import given, settings

from ledger import Event, InvalidEvent, Ledger, testing
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.canonical import draft
from ledger.format.findings import Record
from ledger.format.rules import LIMITS, MAX_BODY, MAX_DEPTH, RULES, Columns, broken, surely_kept
from ledger.format.times import microseconds
from ledger.migrate.migrate import SQL as MIGRATE
from ledger.migrate.migrate import load_migrations, migrate, schema_folder
from ledger.settings import Settings
from ledger.verify import database, own_entries
from ledger.verify.report import Report
from tests.support.cli import cli_of
from tests.support.findings import places
from tests.support.forger import TRIGGERS
from tests.support.forging import INFINITY, Time, forged, insert
from tests.support.helpers import event
from tests.support.logins import Logins
from tools import journal

CHECKED = {rule.name for rule in RULES if rule.check is not None}


# ------------------------------------------------------------------------------------------------ the table and its SQL


def words(sql: str) -> str:
    """Without comments, and with one blank wherever there may be any."""
    return " ".join(re.sub(r"([(),])", r" \1 ", re.sub(r"--[^\n]*", "", sql)).split())


def test_each_rule_stands_in_the_schema() -> None:
    schema = words("\n".join(migration.sql for migration in load_migrations()))
    for rule in RULES:
        if rule.name == "entry_format":
            assert words(f"constraint entry_format check ({rule.check})") in schema
        elif rule.check is not None:
            assert words(f"when not ({rule.check}) then '{rule.name}'") in schema, rule.name
    assert schema.count("when not ( ") == len(CHECKED) - 1


def test_each_rule_is_explained() -> None:
    text = (Path(__file__).parents[3] / "docs" / "format.md").read_text(encoding="utf-8")
    section = text.partition("\n## The rules by name\n")[2].partition("\n## ")[0]
    names = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    explained = set(re.findall(r"`(\w+)`", " ".join(names)))
    course = {rule.name for rule in vars(own_entries).values() if isinstance(rule, own_entries.CourseRule)}
    assert explained == {rule.name for rule in RULES} | course | {"body_form"}


def test_the_constraints_are_valid_in_a_new_database(admin: psycopg.Connection) -> None:
    found = admin.execute(
        "select conname, convalidated from pg_constraint"
        " where conrelid = 'ledger.audit_logs'::regclass and contype = 'c' order by 1"
    ).fetchall()
    assert found == [("entry_format", True), ("entry_rules", True)]


# ------------------------------------------------------------------------------------------------------ the four agree


class Said(NamedTuple):
    """Columns of a row that may break rules. times: recorded_at and occurred_at as SQL reads them."""

    columns: dict[str, Any]
    occurred: Time | None


def nested(levels: int, leaf: str = "1") -> str:
    """With brackets in strings, which are none."""
    return '{"[{":' * (levels - 1) + f"[{leaf}]" + "}" * (levels - 1)


def wide(count: int) -> str:
    return "[" + ",".join(["[]"] * count) + "]"


FRAME = len('{"after":null,"before":,"metadata":null,"salt":""}') + 32
TEXTS = st.sampled_from([
    None, "null", "1", '"x"', '{"a":[1,2.5,null]}', '{"b":1,"a":2,"a":3}', " 1 ", "{\t}", '"é\U0001f600\x7f\u2028"',
    "{\n}", "\n1", "1\r", '"\\n\\r"', '["a",\r\n"b"]',
    r'"\u0000"', r'"\\u0000"', r'"\\\u0000"', r'"\\\\u0000"', r'{"\u0000":1}',
    r'"\ud800"', r'"\udc00"', r'"\ud83d\ude00"', r'"\uD83D\uDE00"', r'"\ude00\ud83d"', r'"\\ud800"', r'"\ud800\\udc00"',
    r'"\u00e9\\"', r'"\\\\\\"',
    nested(MAX_DEPTH - 1), nested(MAX_DEPTH), nested(MAX_DEPTH + 1), nested(MAX_DEPTH, "{}"), nested(MAX_DEPTH, "[]"),
    nested(MAX_DEPTH + 1, ""), nested(MAX_DEPTH, ""), "[" * 1200 + "]" * 1200, wide(200), wide(MAX_DEPTH),
    '"' + "[" * 100 + '"', '"\\"' + "{[" * 100 + '"',
    '"' + "x" * (MAX_BODY - FRAME - 2) + '"', '"' + "x" * (MAX_BODY - FRAME - 1) + '"',
    '"' + "é" * ((MAX_BODY - FRAME) // 2) + '"', '"' + "x" * (MAX_BODY // 3) + '"',
])  # fmt: skip
SMALL = st.sampled_from([None, "1", '{"a":1}'])
CHARACTERS = st.sampled_from(["a", "é", "\U0001f600", "\n", "\x01", " ", '"'])
WITH_NUL = st.one_of(CHARACTERS, st.just("\0"))


def strings(column: str, characters: st.SearchStrategy[str] = CHARACTERS) -> st.SearchStrategy[str]:
    limit = LIMITS[column]
    lengths = st.sampled_from([0, 1, 2, limit - 1, limit, limit + 1, 3 * limit])
    return st.builds(lambda character, length: character * length, characters, lengths)


RESOURCES = st.one_of(
    st.just((None, None)),
    st.tuples(strings("resource_type"), strings("resource_id")),
    st.tuples(st.just(None), st.just("inv_7")),
    st.tuples(st.just("invoice"), st.just(None)),
)
OWN_ACTIONS = st.sampled_from([
    "ledger.entry_erased", "ledger.hold_placed", "ledger.hold_released", "ledger.key_rotated", "ledger.entry_skipped",
    "ledger.entry_retried", "ledger.", "ledger.anything", "ledger.entry_erased ", "Ledger.entry_erased", "ledgers.x",
])  # fmt: skip
OWN_RESOURCES = st.sampled_from([
    (None, None), ("ledger.entry", "1"), ("ledger.entry", "01"), ("ledger.entry", "x"), ("ledger.entry", "1\n"),
    ("ledger.entry", "9" * 18), ("ledger.entry", "9" * 19), ("ledger.entry", "-1"), ("invoice", "inv_7"),
    ("ledger.key", "k"), ("ledger.skip", "timeline:1"), ("ledger.skip", "Timeline:1"), ("ledger.skip", "timeline:0"),
    ("ledger.skip", "timeline"), ("ledger.skip", "a:b:1"), ("ledger.skip", "timeline:1\n"), ("invoice", "1"),
])  # fmt: skip
REASONS = st.sampled_from([
    None, '{"reason":"asked for"}', '{"reason":""}', '{"reason":" \\t\\n"}', '{"reason":"\xa0"}', '{"reason":1}',
    '{"reason":null}', '{"reason":["x"]}', '"reason"', "[]", "null", '{"reason":"x","more":[1]}',
    '{"reason":"","reason":"x"}', '{"reason":"x","reason":""}', '{"old":"a","new":"b"}', '{"old":"a"}',
    '{"old":"a","new":""}', '{"old":"a","new":1}', '{"new":"b","old":"a","x":null}', '{"Reason":"x"}',
    '{"reason":"\\u0001"}',
])  # fmt: skip
TIMES = st.sampled_from([
    None,
    Time("infinity", INFINITY),
    Time("-infinity", -INFINITY - 1),
    Time("0001-01-01 00:00:00+00", -63082281600_000000),
    Time("0001-12-31 23:59:59.999999+00 BC", -63082281600_000001),
    Time("9999-12-31 23:59:59.999999+00", 252455615999_999999),
    Time("10000-01-01 00:00:00+00", 252455616000_000000),
    Time("4714-11-24 00:00:00+00 BC", -211813488000_000000),
])  # fmt: skip


def said(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Said]:
    return st.fixed_dictionaries(strategies).map(_said)


def _said(drawn: dict[str, Any]) -> Said:
    time = drawn.pop("time", None)
    columns = drawn
    if "resource" in columns:
        columns["resource_type"], columns["resource_id"] = columns.pop("resource")
    for name in ("before", "after", "metadata"):
        if columns.get(name) is not None:
            columns[name] = columns[name].encode()
    if time is not None:
        columns["occurred"] = time.stored
    return Said(columns, time)


ROWS = st.one_of(
    said(actor=strings("actor"), actor_type=strings("actor_type"), action=strings("action"), resource=RESOURCES),
    said(before=TEXTS),
    said(after=TEXTS, metadata=SMALL),
    said(before=SMALL, after=SMALL, metadata=TEXTS),
    said(before=TEXTS, after=TEXTS, metadata=TEXTS),
    said(action=OWN_ACTIONS, resource=OWN_RESOURCES, before=st.just(None), after=st.just(None), metadata=REASONS),
    said(action=OWN_ACTIONS, resource=OWN_RESOURCES, after=SMALL, metadata=REASONS),
    said(time=TIMES),
    said(salt=st.sampled_from([bytes(15), bytes(16), bytes(17), b""])),
)


class World(NamedTuple):
    """Superusers' connections to two databases without triggers: one with the constraints, one without."""

    strict: psycopg.Connection
    lax: psycopg.Connection
    lax_url: str


@pytest.fixture(scope="module")
def world(servers: testing.TestServers, template: str) -> Iterator[World]:
    with (
        testing.database(servers.database_url, template=template) as strict_url,
        testing.database(servers.database_url, template=template) as lax_url,
        psycopg.connect(strict_url, autocommit=True) as strict,
        psycopg.connect(lax_url, autocommit=True) as lax,
    ):
        for connection in (strict, lax):
            for table, trigger in TRIGGERS:
                connection.execute(f"alter table ledger.{table} disable trigger {trigger}".encode())
        lax.execute("alter table ledger.audit_logs drop constraint entry_format, drop constraint entry_rules")
        yield World(strict, lax, lax_url)


def refusal(connection: psycopg.Connection, row: Columns, time: Time | None) -> str | None:
    """The constraint that refuses this row, or the class of another error; None where it is taken."""
    try:
        with connection.transaction(force_rollback=True):
            insert(connection, row, (None, time))
    except psycopg.Error as error:
        return error.diag.constraint_name or error.sqlstate
    return None


def rules_of(report: Report) -> dict[int, set[str]]:
    """By position, the rules of the table that findings name."""
    names = {rule.name for rule in RULES} | {"body_form"}
    found: dict[int, set[str]] = {}
    for each in report.findings:
        name = each.detail.partition(":")[0]
        for position, kind in places([each]):
            if kind == "rule_broken" and name in names and position is not None:
                found.setdefault(position, set()).add(name)
    return found


@settings(max_examples=30)
@given(st.lists(ROWS, min_size=1, max_size=25))
def test_database_rules_and_verify_agree(world: World, said: list[Said]) -> None:
    """A row is taken by the constraints if and only if it keeps the rules, and if and only if verify names nothing."""
    world.lax.execute("truncate ledger.audit_logs")
    rows, prev = [], bytes(32)
    for position, (columns, time) in enumerate(said, 1):
        row = forged(position, prev, **columns)
        insert(world.lax, row, (None, time))
        rows.append(row)
        prev = row.hash
    world.lax.execute("update ledger.tails set position = %s, hash = %s", (len(rows), prev))

    wanted = {row.position: {rule.name for rule in broken(row)} for row in rows}
    for row, (_, time) in zip(rows, said, strict=True):
        checked = wanted[row.position] & CHECKED
        refused = refusal(world.strict, row, time)
        assert (refused is not None) == bool(checked), (row, refused)
        assert refused is None or refused in checked or refused[:2] == "22", (row, refused)

    report = database.verify(Settings(database_url=world.lax_url))
    timeless = {position for position, names in wanted.items() if "entry_times" in names}
    named = {position: names for position, names in wanted.items() if names and position not in timeless}
    assert rules_of(report) == named
    assert {position for position, kind in places(report.findings) if kind == "hash_mismatch"} == timeless

    # What no bundle can carry is not exported: a time without an envelope, a line break.
    if not timeless and not any(b"\n" in (text or b"") for row in rows for text in row[9:12]):
        with tempfile.TemporaryDirectory() as folder:
            export(Settings(database_url=world.lax_url), Path(folder) / "bundle")
            found = rules_of(verify_bundle(Path(folder) / "bundle"))
        assert found.keys() == named.keys()
        for position, names in found.items():  # a body that cannot be read is not looked at closely
            assert names == named[position] or names - {"body_form"} < named[position]


@given(
    st.one_of(
        ROWS,
        said(
            **{column: strings(column, WITH_NUL) for column in ("actor", "actor_type", "action")},
            resource=st.tuples(strings("resource_type", WITH_NUL), strings("resource_id", WITH_NUL)),
        ),
    )
)
def test_what_is_surely_kept_is_kept(said: Said) -> None:
    """The quick look passes nothing that a close one would not; and not everything is looked at closely."""
    row = Record(*forged(**said.columns))
    body = row.body()
    assert body is not None
    if surely_kept(*row[4:9], body) and len(row.salt or b"") == 16 and row.envelope("main") is not None:
        assert list(broken(row)) == []


def test_an_ordinary_entry_is_surely_sound() -> None:
    row = Record(*forged())
    assert surely_kept(*row[4:9], row.body() or b"")


@given(said(actor=strings("actor"), actor_type=strings("actor_type"), action=strings("action"), resource=RESOURCES))
def test_an_append_refuses_what_breaks_a_rule(said: Said) -> None:
    row = forged(**said.columns)
    event = Event(row.actor, row.action, row.resource_type, row.resource_id, row.actor_type)
    breaks = list(broken(row))
    try:
        draft(event, "main", now=0, entry_id=bytes(16), salt=bytes(16))
    except InvalidEvent:
        assert breaks
    else:
        assert not breaks


@given(TEXTS.filter(bool), st.sampled_from(["before", "after", "metadata"]))
def test_an_append_refuses_a_body_that_breaks_a_rule(text: str, field: str) -> None:
    """Of the text as our own encoder writes it, without other writers' blanks and escapes."""
    try:
        value = json.loads(text)
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    except UnicodeEncodeError:  # a lone surrogate
        written = text.encode()
    columns: dict[str, Any] = {"after": None, field: written}
    breaks = list(broken(forged(**columns)))
    try:
        draft(Event("user:42", "a.b", **{field: value}), "main", now=0, entry_id=bytes(16), salt=bytes(16))
    except InvalidEvent:
        assert breaks
    else:
        assert not breaks


# ------------------------------------------------------------------------------------------------------------- a writer


FORBIDDEN: dict[str, tuple[dict[str, Any], str]] = {
    "an actor too long": ({"actor": "a" * 300}, "actor_length"),
    "an empty actor": ({"actor": ""}, "actor_length"),
    "an empty actor_type": ({"actor_type": ""}, "actor_type_length"),
    "an actor_type too long": ({"actor_type": "a" * 65}, "actor_type_length"),
    "an empty action": ({"action": ""}, "action_length"),
    "an action too long": ({"action": "é" * 129}, "action_length"),
    "an empty resource_type": ({"resource_type": "", "resource_id": "1"}, "resource_type_length"),
    "a resource_type too long": ({"resource_type": "a" * 65, "resource_id": "1"}, "resource_type_length"),
    "an empty resource_id": ({"resource_type": "a", "resource_id": ""}, "resource_id_length"),
    "a resource_id too long": ({"resource_type": "a", "resource_id": "1" * 256}, "resource_id_length"),
    "half a resource": ({"resource_type": "a"}, "entry_format"),
    "a salt too short": ({"salt": bytes(15)}, "entry_format"),
    "a body too large": ({"after": b'"' + b"x" * MAX_BODY + b'"'}, "body_size"),
    "a body of a thousand levels": ({"before": b"[" * 1001 + b"]" * 1001}, "body_depth"),
    "a line break in a body": ({"metadata": b'{\n"a":1}'}, "body_line_breaks"),
    "a carriage return in a body": ({"metadata": b'{\r"a":1}'}, "body_line_breaks"),
    "U+0000 in a body": ({"after": rb'{"a":"\u0000"}'}, "body_characters"),
    "a lone surrogate in a body": ({"after": rb'{"a":"\ud83d"}'}, "body_characters"),
    "an action of the ledger's own": ({"action": "ledger.anything"}, "LE005"),
    "an erasure of no form": ({"action": "ledger.entry_erased"}, "LE005"),
}
TIMELESS = {
    "infinity": Time("infinity", INFINITY),
    "-infinity": Time("-infinity", -INFINITY - 1),
    "before the years": Time("0001-12-31 23:59:59+00 BC", 0),
    "beyond the years": Time("10000-01-01 00:00:00+00", 0),
}


@pytest.fixture
def writer(login: Logins) -> Iterator[psycopg.Connection]:
    """An application's own connection: a login that may append, and does so without our client."""
    with psycopg.connect(login("ledger_writer"), autocommit=True) as connection:
        yield connection


def refused(ledger: Ledger, writer: psycopg.Connection, why: str, row: Columns, *times: Time | None) -> None:
    """By the database, which names the rule; and the next append is recorded."""
    before = ledger.tail()
    with pytest.raises(psycopg.Error) as error:
        insert(writer, row, times)
    assert why in (error.value.sqlstate, error.value.diag.constraint_name), error.value
    assert why == "LE005" or why in str(error.value)
    assert ledger.append(event()).position == before.position + 1


def test_a_writer_is_refused_what_the_format_forbids(ledger: Ledger, writer: psycopg.Connection) -> None:
    for columns, why in FORBIDDEN.values():
        position, prev, _ = ledger.tail()
        refused(ledger, writer, why, forged(position + 1, prev, recorded=now(), **columns))
    position, prev, _ = ledger.tail()
    insert(writer, forged(position + 1, prev, recorded=now()))
    assert ledger.tail().position == position + 1
    assert ledger.verify().ok


@pytest.mark.parametrize("time", TIMELESS)
def test_a_writer_is_refused_a_time_that_is_none(ledger: Ledger, writer: psycopg.Connection, time: str) -> None:
    for times in ((None, TIMELESS[time]), (TIMELESS[time], None), (TIMELESS[time], TIMELESS[time])):
        position, prev, _ = ledger.tail()
        refused(ledger, writer, "entry_times", forged(position + 1, prev, recorded=now()), *times)
    assert ledger.verify().ok


def now() -> int:
    return microseconds(datetime.now(UTC))


# ---------------------------------------------------------------------------------------------------------- migration


@pytest.fixture
def older(database_url: str, tmp_path: Path) -> Iterator[Settings]:
    """A database of before the rules, with two entries that break some, as raw writers could store them."""
    folder = Path(shutil.copytree(schema_folder(), tmp_path / "schema"))
    for file in sorted(folder.glob("*.sql"))[RULES_FILE:]:
        file.unlink()
    (folder / "journal.json").unlink()
    journal.record(folder)
    migrate(Settings(database_url=database_url), folder=folder)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for columns in ({}, {"actor": "a" * 300}, {"after": b"[1,\n2]"}, {}):
            position, prev = connection.execute(
                "select position, hash from ledger.tails where ledger_id = 1"
            ).fetchall()[0]
            insert(connection, forged(position + 1, prev, recorded=now(), **columns))
    yield Settings(database_url=database_url)


RULES_FILE = [migration.file for migration in load_migrations()].index("0008_entry_rules.sql")


def test_a_database_with_entries_that_break_rules_is_migrated(
    older: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """What holds is valid, what does not is named, by verify, doctor and status; new entries keep all."""
    assert migrate(older)[0] == "0008_entry_rules.sql"
    said = [record.getMessage() for record in caplog.records if "is not validated" in record.message]
    assert [message.split()[1] for message in said] == ["entry_rules"]
    with Ledger(older) as ledger:
        ledger.append(event())
        findings = ledger.verify().findings
        assert [(each.position, each.kind, each.detail.partition(":")[0]) for each in findings[:2]] == [
            (2, "rule_broken", "actor_length"),
            (3, "rule_broken", "body_line_breaks"),
        ]
        details = ["constraint entry_rules on ledger.audit_logs is not validated"]
        assert [each.detail for each in findings[2:]] == details
        cli = cli_of(ledger)
        assert [
            check["found"] for check in cli("doctor", "--json").json["checks"] if check["name"] == "protections"
        ] == details
        assert cli("status", "--json").json["unprotected"] == details
    with psycopg.connect(older.database_url or "", autocommit=True) as connection:
        position, prev = connection.execute("select position, hash from ledger.tails where ledger_id = 1").fetchall()[0]
        with pytest.raises(psycopg.errors.CheckViolation):
            insert(connection, forged(position + 1, prev, recorded=now(), actor="a" * 300))


def not_validated(admin: psycopg.Connection) -> None:
    """The constraint as the migration adds it."""
    added = next(migration.sql for migration in load_migrations() if migration.file == "0008_entry_rules.sql")
    admin.execute("alter table ledger.audit_logs drop constraint entry_rules")
    admin.execute(added[added.index("alter table") :].encode())


def test_what_an_interrupted_migration_left_is_validated_by_the_next(ledger: Ledger, admin: psycopg.Connection) -> None:
    not_validated(admin)
    ledger.append(event())
    assert [each.kind for each in ledger.verify().findings] == ["unprotected"]
    assert migrate(ledger.settings) == []
    assert ledger.verify().ok


def test_appends_go_on_while_constraints_are_validated(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Beside a transaction that has appended and is not over, and before the one that validates is."""
    not_validated(admin)
    with psycopg.connect(ledger.settings.database_url or "") as other:
        ledger.append(event(), connection=other)
        with admin.transaction():
            admin.execute("set local lock_timeout = '5s'")
            admin.execute(MIGRATE["validate"].encode())
            other.commit()
            assert ledger.append(event()).position == 2
    assert ledger.verify().ok
