"""verify reports every change of a superuser who disabled the triggers: position and kind.

Each case works on its own copy of a ledger of 30 entries; entry 12 is erased, and entry 20 is the erasure that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import psycopg
import pytest

from ledger import Ledger, testing
from ledger.drivers.run import drive
from ledger.format.canonical import digest, envelope
from ledger.store.ledgers import create_ledger
from ledger.verify import ranges
from ledger.verify.report import Report
from tests.support.findings import places
from tests.support.forger import ERASED, ERASURE, LAST, Forger, statements
from tests.support.helpers import erase, event

Said = list[tuple[int | None, str]]


def said(report: Report, *, protections: bool = False) -> Said:
    """Positions and kinds, those about protections only if asked for."""
    return places([each for each in report.findings if protections or each.kind != "unprotected"])


@pytest.fixture(scope="module")
def healthy(servers: testing.TestServers, pattern: str) -> Iterator[Forger]:
    """One for all tests that leave it as it was."""
    with testing.database(servers.database_url, template=pattern) as url, Forger(url) as forger:
        forger.done()
        yield forger


def check(forger: Forger, monkeypatch: pytest.MonkeyPatch, expected: Said, name: str = "main") -> Report:
    """verify says exactly this, wherever the ranges that it reads begin."""
    report = forger.verify(name)
    assert said(report) == sorted(expected, key=lambda each: (each[0] or 0, each[1]))
    assert not report.ok
    monkeypatch.setattr(ranges, "_RANGE", 3)
    assert forger.verify(name).findings == report.findings
    return report


COLUMNS = {
    "id": "gen_random_uuid()",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "occurred_at": "occurred_at - interval '1 microsecond'",
    "actor": "'user:43'",
    "actor_type": "'service'",
    "action": "'invoice.deleted'",
    "resource_type": "'order'",
    "resource_id": "'inv_9'",
    "before": """'{"number": 0}'""",
    "after": """'{"number":0}'""",
    "metadata": "null",
    "salt": "decode(repeat('ab', 16), 'hex')",
    "body_hash": "decode(repeat('ab', 32), 'hex')",
    "prev_hash": "decode(repeat('ab', 32), 'hex')",
    "hash": "decode(repeat('ab', 32), 'hex')",
}
"""Each column of an entry and a forged value; `position` and `ledger_id` have tests of their own."""


@pytest.mark.parametrize("position", [1, 15, LAST])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_column(forger: Forger, monkeypatch: pytest.MonkeyPatch, column: str, position: int) -> None:
    forger.run(f"update ledger.audit_logs set {column} = {COLUMNS[column]} where position = {position}")
    forger.done()
    kinds = {
        "before": ["body_mismatch"],
        "after": ["body_mismatch"],
        "metadata": ["body_mismatch"],
        "salt": ["body_mismatch"],
        "body_hash": ["body_mismatch", "hash_mismatch"],
        "prev_hash": ["broken_link", "hash_mismatch"],
        "recorded_at": ["hash_mismatch", "tail_mismatch"] if position == LAST else ["hash_mismatch"],
    }.get(column, ["hash_mismatch"])
    report = check(forger, monkeypatch, [(position, kind) for kind in kinds])
    assert said(report, protections=True) == said(report)


@pytest.mark.parametrize("position", [1, 15, LAST])
def test_a_changed_position(forger: Forger, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    forger.run(f"update ledger.audit_logs set position = 33 where position = {position}")
    forger.done()
    missing: Said = [(each, "missing_entry") for each in {position, 31, 32}]
    regression: Said = [] if position == LAST else [(33, "time_regression")]
    check(forger, monkeypatch, [*missing, (33, "hash_mismatch"), (33, "tail_mismatch"), *regression])


@pytest.mark.parametrize("position", [1, 15, LAST])
def test_an_entry_moved_to_another_ledger(forger: Forger, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    forger.run(f"update ledger.audit_logs set ledger_id = 2 where position = {position}")
    forger.done()
    tail: Said = [(LAST, "tail_mismatch")] if position == LAST else []
    check(forger, monkeypatch, [(position, "missing_entry"), *tail])
    gap: Said = [(each, "missing_entry") for each in range(1, position)]
    check(forger, monkeypatch, [*gap, (position, "hash_mismatch"), (position, "tail_mismatch")], "other")


def test_an_entry_moved_to_no_ledger(forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    forger.run("update ledger.audit_logs set ledger_id = 99 where position = 15")
    forger.done()
    report = check(forger, monkeypatch, [(15, "broken_link"), (15, "missing_entry")])
    assert "ledger_id 99, which no ledger has" in report.findings[0].detail
    check(forger, monkeypatch, [(15, "broken_link")], "other")


def insert_at_the_end(forger: Forger) -> None:
    [newest] = forger.entries(LAST)
    forged = msgspec.structs.replace(newest, position=LAST + 1, id=UUID(int=7), prev_hash=newest.hash)
    forger.write(msgspec.structs.replace(forged, hash=digest(envelope(forged))))


def insert_in_the_middle(forger: Forger) -> None:
    forger.run(
        "update ledger.audit_logs set position = position + 1000 where position >= 15",
        "update ledger.audit_logs set position = position - 999 where position >= 15",
    )
    [before] = forger.entries(14)[:1]
    forged = msgspec.structs.replace(before, position=15, id=UUID(int=7), prev_hash=before.hash)
    forger.write(msgspec.structs.replace(forged, hash=digest(envelope(forged))))


def swap(forger: Forger) -> None:
    forger.run(
        "update ledger.audit_logs set position = 1000 where position = 10",
        "update ledger.audit_logs set position = 10 where position = 14",
        "update ledger.audit_logs set position = 14 where position = 1000",
    )


def rehash_with_tail(forger: Forger) -> None:
    """What a lone chain cannot see, but for the time that it gives away."""
    newest = forger.rehash(15, recorded_at=datetime(2020, 1, 1, tzinfo=UTC))
    forger.connection.execute("update ledger.tails set hash = %s where ledger_id = 1", (newest.hash,))


def repeat_an_entry(forger: Forger) -> None:
    forger.run(
        "alter table ledger.audit_logs drop constraint one_entry_per_position, drop constraint one_entry_per_id",
        "insert into ledger.audit_logs select * from ledger.audit_logs where position = 15",
    )


def delete(position: int) -> Callable[[Forger], None]:
    return statements(f"delete from ledger.audit_logs where position = {position}")


def blank(position: int) -> Callable[[Forger], None]:
    return statements(
        "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null"
        f" where position = {position}"
    )


def tail(change: str) -> Callable[[Forger], None]:
    return statements(f"update ledger.tails set {change} where ledger_id = 1")


CASES: dict[str, tuple[Callable[[Forger], object], Said]] = {
    "the first deleted": (delete(1), [(1, "missing_entry")]),
    "one deleted": (delete(15), [(15, "missing_entry")]),
    "the last deleted": (delete(LAST), [(LAST, "missing_entry"), (LAST, "tail_mismatch")]),
    "all deleted": (
        statements("delete from ledger.audit_logs"),
        [*((each, "missing_entry") for each in range(1, LAST + 1)), (LAST, "tail_mismatch")],
    ),
    "two swapped": (
        swap,
        [
            *((each, "broken_link") for each in (10, 11, 14, 15)),
            *((each, "hash_mismatch") for each in (10, 14)),
            *((each, "time_regression") for each in (11, 14)),
        ],
    ),
    "one inserted at the end": (insert_at_the_end, [(31, "tail_mismatch")]),
    "one inserted in the middle": (
        insert_in_the_middle,
        [(16, "broken_link"), *((each, "hash_mismatch") for each in range(16, 32)), (31, "tail_mismatch")],
    ),
    "one at position 0": (
        statements(
            "alter table ledger.audit_logs drop constraint entry_format",
            "update ledger.audit_logs set position = 0 where position = 1",
        ),
        [(0, "tail_mismatch"), (1, "missing_entry")],
    ),
    "one repeated": (repeat_an_entry, [(15, "broken_link")]),
    "the tail moved back": (tail("position = 25"), [(LAST, "tail_mismatch")]),
    "the tail moved back well": (
        statements(
            "update ledger.tails as tail set position = 25, hash = entry.hash, recorded_at = entry.recorded_at"
            " from ledger.audit_logs as entry where tail.ledger_id = 1 and entry.position = 25"
        ),
        [(LAST, "tail_mismatch")],
    ),
    "the tail moved forth": (
        tail("position = 33"),
        [*((each, "missing_entry") for each in (31, 32, 33)), (33, "tail_mismatch")],
    ),
    "the tail's hash": (tail("hash = decode(repeat('ab', 32), 'hex')"), [(LAST, "tail_mismatch")]),
    "the tail's time": (tail("recorded_at = 'infinity'"), [(LAST, "tail_mismatch")]),
    "the tail deleted": (statements("delete from ledger.tails"), [(LAST, "tail_mismatch")]),
    "a body blanked": (blank(15), [(15, "body_missing")]),
    "an erasure's own body blanked": (blank(ERASURE), [(ERASURE, "body_missing")]),
    "a body blanked, its erasure before it": (
        statements(
            "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null"
            " where position = 25",
            f"update ledger.audit_logs set resource_id = '25' where position = {ERASURE}",
        ),
        [(ERASED, "body_missing"), (ERASURE, "hash_mismatch"), (25, "body_missing")],
    ),
    "an erasure deleted": (delete(ERASURE), [(ERASED, "body_missing"), (ERASURE, "missing_entry")]),
    "a salt removed": (
        statements(
            "alter table ledger.audit_logs drop constraint entry_format",
            "update ledger.audit_logs set salt = null where position = 15",
        ),
        [(15, "body_mismatch")],
    ),
    "an erased body filled in": (
        statements(
            "alter table ledger.audit_logs drop constraint entry_format",
            f"update ledger.audit_logs set after = '{{}}' where position = {ERASED}",
        ),
        [(ERASED, "body_mismatch")],
    ),
    "one re-hashed": (lambda forger: forger.rehash(15, 15, actor="user:43"), [(16, "broken_link")]),
    "the last re-hashed": (lambda forger: forger.rehash(LAST, actor="user:43"), [(LAST, "tail_mismatch")]),
    "a suffix re-hashed": (lambda forger: forger.rehash(15, actor="user:43"), [(LAST, "tail_mismatch")]),
    "time run back": (rehash_with_tail, [(15, "time_regression")]),
    "a time that is none": (
        statements(
            "alter table ledger.audit_logs drop constraint entry_rules",
            "update ledger.audit_logs set recorded_at = 'infinity' where position = 15",
        ),
        [(15, "hash_mismatch"), (16, "time_regression")],
    ),
    "a time before the years": (
        statements(
            "alter table ledger.audit_logs drop constraint entry_rules",
            "update ledger.audit_logs set occurred_at = '4000-01-01 BC' where position = 15",
        ),
        [(15, "hash_mismatch")],
    ),
    "columns emptied": (
        statements(
            "alter table ledger.audit_logs alter hash drop not null, alter prev_hash drop not null,"
            " alter body_hash drop not null, alter recorded_at drop not null, alter actor drop not null",
            "update ledger.audit_logs set hash = null where position = 3",
            "update ledger.audit_logs set hash = null, prev_hash = null where position = 6",
            "update ledger.audit_logs set body_hash = null where position = 9",
            "update ledger.audit_logs set recorded_at = null where position = 15",
            "update ledger.audit_logs set actor = null where position = 18",
        ),
        [
            (3, "hash_mismatch"),
            (6, "broken_link"),
            (6, "hash_mismatch"),
            (9, "body_mismatch"),
            *((each, "hash_mismatch") for each in (9, 15, 18)),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tampering(forger: Forger, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    forge, expected = CASES[case]
    forge(forger)
    forger.done()
    check(forger, monkeypatch, expected)


@pytest.mark.parametrize("index", ["one_entry_per_position", "one_entry_per_id", "audit_logs_by_resource"])
def test_a_row_that_an_index_does_not_show(forger: Forger, index: str) -> None:
    """Put in while the index took nothing, or only taken out of it; the catalog is then as it was."""
    lame = (
        "update pg_index set indisready = {0}, indislive = {0}"
        " where indrelid = 'ledger.audit_logs'::regclass and (indisunique or indexrelid = '{1}'::regclass)"
    )
    forger.run(
        "set allow_system_table_mods = on",
        lame.format("false", f"ledger.{index}"),
        "insert into ledger.audit_logs select * from ledger.audit_logs where position = 15",
        lame.format("true", f"ledger.{index}"),
    )
    forger.done()
    report = forger.verify()
    assert not report.ok
    shown = f"index ledger.{index} shows {LAST} rows, and its table ledger.audit_logs has {LAST + 1}"
    assert any(each.kind == "unprotected" and each.detail.startswith(shown) for each in report.findings)
    assert forger.verify("other").findings, "whichever ledger the row is of"


def test_many_at_once(forger: Forger) -> None:
    """All named in one run, by one process and by three."""
    forger.rehash(6, 6, action="invoice.deleted")
    forger.run(
        "update ledger.audit_logs set actor = 'user:43' where position = 2",
        "delete from ledger.audit_logs where position in (4, 24)",
        """update ledger.audit_logs set after = '{"number":0}' where position = 9""",
        "update ledger.audit_logs set ledger_id = 2 where position = 14",
        f"delete from ledger.audit_logs where position = {ERASURE}",
        "update ledger.audit_logs set recorded_at = recorded_at - interval '1 day' where position = 27",
        "update ledger.tails set position = 31, recorded_at = now() where ledger_id = 1",
        "alter table ledger.audit_logs drop constraint entry_format",
    )
    forger.done()
    forger.run("alter table ledger.tails disable trigger append_only", "drop trigger append_only on ledger.audit_logs")
    report = forger.verify()
    assert said(report, protections=True) == [
        (2, "hash_mismatch"),
        (4, "missing_entry"),
        (7, "broken_link"),
        (9, "body_mismatch"),
        (ERASED, "body_missing"),
        (14, "missing_entry"),
        (ERASURE, "missing_entry"),
        (24, "missing_entry"),
        (27, "hash_mismatch"),
        (27, "time_regression"),
        (31, "missing_entry"),
        (31, "tail_mismatch"),
        *[(None, "unprotected")] * 3,
    ]
    assert not report.ok
    assert forger.verify(workers=3).findings == report.findings


def test_a_healthy_ledger_has_no_findings(healthy: Forger) -> None:
    """Entry 12 is erased and entry 20 says so; the triggers were off and are on again."""
    for name, entries in (("main", LAST), ("other", 0)):
        report = healthy.verify(name)
        assert (report.ok, report.findings, report.first, report.last) == (True, [], 1, entries)
        assert report.entries == entries


@pytest.fixture(scope="module")
def pattern(servers: testing.TestServers, template: str) -> Iterator[str]:
    """The name of a database with the ledger that every case copies."""
    with testing.database(servers.database_url, template=template) as url:
        with Ledger.open(database_url=url) as ledger:
            for number in range(1, LAST + 1):
                if number == ERASURE:
                    with psycopg.connect(url, autocommit=True) as connection:
                        erase(connection, ERASED)
                else:
                    resource = {"resource_type": "invoice", "resource_id": f"inv_{number % 5}"}
                    ledger.append(event(number, before={"number": -number}, metadata={"ip": "192.0.2.7"}, **resource))
        with psycopg.connect(url, autocommit=True) as connection:
            drive(create_ledger("other"), connection)
        yield url.rpartition("/")[2]


@pytest.fixture
def forger(servers: testing.TestServers, pattern: str) -> Iterator[Forger]:
    with testing.database(servers.database_url, template=pattern) as url, Forger(url) as forger:
        yield forger
