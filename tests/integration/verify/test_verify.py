"""Whole-ledger verification: sound ledgers, its arguments, its snapshot, and failing servers."""

from __future__ import annotations

import threading
from dataclasses import replace

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import InvalidSetting, SchemaMismatch, Unavailable, UnknownLedger
from ledger.events import GENESIS
from ledger.format.findings import Findings
from ledger.settings import Settings
from ledger.verify import database, ranges
from tests.support.helpers import event, events
from tests.support.logins import Logins


def test_an_empty_ledger(ledger: Ledger, admin: psycopg.Connection) -> None:
    report = database.verify(ledger.settings)
    assert (report.ok, report.first, report.last, report.entries) == (True, 1, 0, 0)
    assert (report.head, report.findings, report.ledger) == (GENESIS, [], "main")
    assert admin.execute("select first, last, head, findings from ledger.verifications").fetchall() == [
        (1, 0, GENESIS, 0)
    ]


def test_processes_and_progress(ledger: Ledger) -> None:
    ledger.append_many(events(50))
    seen: list[tuple[int, int]] = []
    report = database.verify(ledger.settings, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, report.findings) == (True, [])
    assert (report.first, report.last, report.entries) == (1, 50, 50)
    assert report.head == ledger.tail().hash
    assert seen == [(25, 50), (50, 50)]
    assert report.seconds > 0


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_from_a_position(ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(ranges, "_RANGE", size)
    ledger.append_many(events(20))
    tamper(admin, "update ledger.audit_logs set actor = 'user:43' where position in (5, 12)")

    def found(first: int) -> list[tuple[int | None, str]]:
        report = database.verify(ledger.settings, first=first)
        assert (report.first, report.last, report.entries) == (first, 20, 21 - first)
        return [(each.position, each.kind) for each in report.findings]

    assert found(1) == [(5, "hash_mismatch"), (12, "hash_mismatch")]
    assert found(5) == [(5, "hash_mismatch"), (12, "hash_mismatch")]
    assert found(6) == [(12, "hash_mismatch")]
    assert found(13) == found(20) == found(21) == []
    tamper(admin, "update ledger.audit_logs set hash = prev_hash, actor = 'user:42' where position = 5")
    assert found(6) == [(12, "hash_mismatch")], "entry 6 continues what entry 5 should be"
    tamper(admin, "update ledger.audit_logs set actor = 'user:43' where position = 5")
    assert found(6) == [(6, "broken_link"), (12, "hash_mismatch")]
    tamper(admin, "delete from ledger.audit_logs where position between 3 and 5")
    assert found(6) == [(12, "hash_mismatch")], "with entry 5 gone its link cannot be judged"


@pytest.mark.parametrize("first", [-1, 0, 5, 1000])
def test_from_a_position_that_is_not_there(ledger: Ledger, first: int) -> None:
    ledger.append_many(events(3))
    with pytest.raises(InvalidSetting):
        database.verify(ledger.settings, first=first)


def test_an_unknown_ledger_a_missing_schema_a_dead_server(ledger: Ledger, database_url: str) -> None:
    with pytest.raises(UnknownLedger):
        database.verify(replace(ledger.settings, name="nowhere"))
    with pytest.raises(SchemaMismatch):
        database.verify(Settings(database_url=database_url))
    with pytest.raises(Unavailable):
        database.verify(Settings(database_url="postgresql://127.0.0.1:1/ledger"))
    with pytest.raises(InvalidSetting):
        database.verify(Settings())


def test_by_a_user_who_may_only_read(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """The report is what counts: it is noted where that is allowed, in a database that is read-only by default too."""
    ledger.append_many(events(3))
    for url in (
        login("ledger_reader"),
        f"{ledger.settings.database_url}?options=-c%20default_transaction_read_only%3Don",
    ):
        assert database.verify(replace(ledger.settings, database_url=url)).findings == []
    assert admin.execute("select last, findings from ledger.verifications").fetchall() == [(3, 0)]


def test_while_entries_are_appended(ledger: Ledger) -> None:
    """One snapshot for tail and entries: a ledger that grows meanwhile is sound at every moment."""
    done = threading.Event()

    def append() -> None:
        while not done.is_set():
            ledger.append_many(events(20))

    appender = threading.Thread(target=append)
    appender.start()
    try:
        for workers in (1, 1, 1, 2):
            report = database.verify(ledger.settings, workers=workers)
            assert report.findings == []
            assert report.last == report.entries
    finally:
        done.set()
        appender.join()


def test_the_view_and_the_search_path_are_not_believed(ledger: Ledger, admin: psycopg.Connection) -> None:
    """A superuser may put functions of the same names before Postgres' own."""
    ledger.append_many(events(3))
    tamper(admin, "update ledger.audit_logs set actor = 'user:43' where position = 2")
    admin.execute("create schema evil")
    admin.execute("create table evil.pg_trigger as select * from pg_trigger")
    admin.execute("create function evil.int8eq(bigint, bigint) returns boolean language sql as 'select false'")
    admin.execute("create operator evil.>= (leftarg = bigint, rightarg = bigint, function = evil.int8eq)")
    admin.execute("create or replace view ledger.envelopes as select 1 as ledger_id, 2::bigint as position,"
                  " ''::text as envelope, ''::bytea as hash")  # fmt: skip
    admin.execute(f'alter database "{admin.info.dbname}" set search_path = evil, pg_catalog')
    report = database.verify(ledger.settings)
    assert [(each.position, each.kind) for each in report.findings] == [
        (2, "hash_mismatch"),
        *[(None, "unprotected")] * 2,
    ]
    assert report.findings[1].detail.startswith("search_path=evil, pg_catalog is set for database ")
    assert report.findings[2].detail.startswith("view ledger.envelopes is not the one of the schema: definition is ")


def test_more_findings_than_are_kept(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "Findings", lambda: Findings(5))
    ledger.append_many(events(20))
    change = "update ledger.audit_logs set actor = 'user:43' where position % 2 = 0"
    tamper(admin, change, "update ledger.tails set position = 19")
    findings = database.verify(ledger.settings).findings
    assert [each.position for each in findings] == [2, 4, 6, 8, 10, 20, None]
    assert "5 more findings" in findings[-1].detail
    assert admin.execute("select findings from ledger.verifications").fetchall() == [(11,)]


def test_bodies_of_every_kind(ledger: Ledger) -> None:
    texts = ['"', "\\", "\n", "\x7f", "\u2028", "é", "𝄞", "a/b", " ", "\x01"]
    for text in texts:
        ledger.append(event(actor=text, before={text: [text, None, 1.5, -0.0, 1e300]}, after=text, metadata=[]))
    assert database.verify(ledger.settings).findings == []


def tamper(admin: psycopg.Connection, *statements: str) -> None:
    """As a superuser with the triggers off, and on again."""
    tables = {"audit_logs": "append_only", "tails": "moved_by_entries"}
    for table, trigger in tables.items():
        admin.execute(f"alter table ledger.{table} disable trigger {trigger}")
    for statement in statements:
        admin.execute(statement)
    for table, trigger in tables.items():
        admin.execute(f"alter table ledger.{table} enable always trigger {trigger}")
