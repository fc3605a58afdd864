"""Broken rules are reported in the database and in a bundle, by one process and by several.

Each case forges entries from position 9 on, with true hashes and links, in a copy of a ledger that is sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Ledger, testing
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.export.manifest import BODIES
from ledger.format.canonical import digest
from ledger.settings import Settings
from ledger.verify import database, ranges
from ledger.verify.report import Report
from tests.support.findings import places
from tests.support.forger import Forger
from tests.support.forging import chain
from tests.support.helpers import erase, event
from tests.support.logins import logins

LAST = 8
Said = dict[str, Any]
Broken = list[tuple[int | None, str]]


@pytest.fixture(scope="module")
def pattern(servers: testing.TestServers, template: str) -> Iterator[str]:
    """The name of a database with the ledger that every case copies."""
    with testing.database(servers.database_url, template=template) as url:
        with Ledger.open(database_url=url) as ledger, psycopg.connect(url, autocommit=True) as connection:
            ledger.append(event(1, resource_type="invoice", resource_id="inv_1"))
            ledger.append(event(2, resource_type="invoice", resource_id="inv_2"))
            ledger.append(event(3))
            ledger.hold(("invoice", "inv_1"), "user:counsel", "case 12")  # 4, which stands
            erase(connection, 2)  # 5
            ledger.hold(3, "user:counsel", "case 13")  # 6
            ledger.release(3, "user:counsel", "over")  # 7
            ledger.append(event(8))
            assert ledger.verify().ok and ledger.tail().position == LAST
        yield url.rpartition("/")[2]


@pytest.fixture
def forger(servers: testing.TestServers, pattern: str) -> Iterator[Forger]:
    with testing.database(servers.database_url, template=pattern) as url, Forger(url) as forger:
        yield forger


@pytest.fixture(scope="module")
def _shared(servers: testing.TestServers, pattern: str) -> Iterator[Forger]:
    with testing.database(servers.database_url, template=pattern) as url, Forger(url) as forger:
        yield forger


@pytest.fixture
def shared(_shared: Forger) -> Iterator[Forger]:
    """One for all tests that only put entries behind those that are there; its triggers stay off."""
    yield _shared
    _shared.run(
        f"delete from ledger.audit_logs where position > {LAST}",
        "update ledger.tails as tail set position = entry.position, hash = entry.hash, recorded_at = entry.recorded_at"
        f" from ledger.audit_logs as entry where tail.ledger_id = 1 and entry.position = {LAST}",
    )


def own(action: str, kind: str | None, name: str | None, **columns: Any) -> Said:
    """An entry of the ledger's own, sound but for what is given."""
    about = {"action": f"ledger.{action}", "resource_type": kind, "resource_id": name}
    return about | {"after": None, "metadata": b'{"reason":"asked for"}'} | columns


def erased(position: int | str, **columns: Any) -> Said:
    return own("entry_erased", "ledger.entry", str(position), **columns)


def held(kind: str, name: str, **columns: Any) -> Said:
    return own("hold_placed", kind, name, **columns)


def released(kind: str, name: str, **columns: Any) -> Said:
    return own("hold_released", kind, name, **columns)


def skipped(name: str, **columns: Any) -> Said:
    return own("entry_skipped", "ledger.skip", name, **columns)


def retried(name: str, **columns: Any) -> Said:
    return own("entry_retried", "ledger.skip", name, **columns)


def rotated(**columns: Any) -> Said:
    return own("key_rotated", "ledger.key", "0a1b2c3d", **{"metadata": b'{"new":"b","old":"a"}'} | columns)


ENTRIES: dict[str, tuple[Said, list[str]]] = {
    "an actor too long": ({"actor": "a" * 300}, ["actor_length"]),
    "an actor one too long": ({"actor": "é" * 256}, ["actor_length"]),
    "an actor as long as may be": ({"actor": "é" * 255}, []),
    "an actor far too long": ({"actor": "a" * 1000}, ["actor_length"]),
    "no actor": ({"actor": ""}, ["actor_length"]),
    "no actor_type": ({"actor_type": ""}, ["actor_type_length"]),
    "an actor_type too long": ({"actor_type": "a" * 65}, ["actor_type_length"]),
    "an empty action": ({"action": ""}, ["action_length"]),
    "an action too long": ({"action": "a" * 129}, ["action_length"]),
    "an empty resource_type": ({"resource_type": "", "resource_id": "1"}, ["resource_type_length"]),
    "a resource_type too long": ({"resource_type": "a" * 65, "resource_id": "1"}, ["resource_type_length"]),
    "an empty resource_id": ({"resource_type": "a", "resource_id": ""}, ["resource_id_length"]),
    "a resource_id too long": ({"resource_type": "a", "resource_id": "1" * 256}, ["resource_id_length"]),
    "half a resource": ({"resource_type": "a"}, ["entry_format"]),
    "the other half": ({"resource_id": "1"}, ["entry_format"]),
    "three at once": ({"actor": "", "action": "", "resource_id": ""}, [
        "entry_format", "actor_length", "action_length", "resource_id_length",
    ]),
    "a body too large": ({"after": b'"' + b"x" * 262_144 + b'"'}, ["body_size"]),
    "U+0000 in a body": ({"after": rb'"\u0000"'}, ["body_characters"]),
    "a body too deep": ({"metadata": b"[" * 65 + b"]" * 65}, ["body_depth"]),
    "a carriage return in a body": ({"metadata": b"[1,\r2]"}, ["body_line_breaks"]),
    "an unknown action": (own("anything", None, None), ["known_own_action"]),
    "an action of the ledger's own, almost": (own("entry_erased.", "ledger.entry", "1"), ["known_own_action"]),
    "an action of the ledger": (own("", "ledger.entry", "1"), ["known_own_action"]),
    "an erasure without a reason": (erased(8, metadata=None), ["own_entry_form"]),
    "an erasure with an empty reason": (erased(8, metadata=b'{"reason":" "}'), ["own_entry_form"]),
    "an erasure with a reason that is none": (erased(8, metadata=b'{"reason":7}'), ["own_entry_form"]),
    "an erasure with a before": (erased(8, before=b"1"), ["own_entry_form"]),
    "an erasure of a resource": (own("entry_erased", "invoice", "inv_1"), ["own_entry_form"]),
    "an erasure of nothing": (own("entry_erased", None, None), ["own_entry_form"]),
    "an erasure of no position": (erased("08"), ["own_entry_form"]),
    "an erasure of position 0": (erased(0), ["own_entry_form"]),
    "an erasure far off": (erased("9" * 19), ["own_entry_form"]),
    "a hold on nothing": (own("hold_placed", None, None), ["own_entry_form"]),
    "a hold on no position": (held("ledger.entry", "x"), ["own_entry_form"]),
    "a hold without a reason": (held("a", "1", metadata=b"{}"), ["own_entry_form"]),
    "a release without a reason": (released("invoice", "inv_1", metadata=b"{}"), ["own_entry_form"]),
    "a rotation of no key": (rotated(resource_type="ledger.entry", resource_id="1"), ["own_entry_form"]),
    "a rotation without the old key": (rotated(metadata=b'{"new":"b"}'), ["own_entry_form"]),
    "a rotation without a body": (rotated(metadata=None), ["own_entry_form"]),
    "a sound rotation": (rotated(), []),
    "a skip of no projection": (skipped("1"), ["own_entry_form"]),
    "a skip of no position": (skipped("timeline:"), ["own_entry_form"]),
    "a skip without a reason": (skipped("timeline:1", metadata=None), ["own_entry_form"]),
    "a retry of nothing": (own("entry_retried", "invoice", "inv_1"), ["own_entry_form", "retries_skipped"]),
}  # fmt: skip

COURSES: dict[str, tuple[list[Said], Broken]] = {
    "an erasure of an erasure": ([erased(5)], [(9, "erases_not_own")]),
    "an erasure of a hold": ([erased(4)], [(9, "erases_not_own")]),
    "an erasure of a rotation": ([rotated(), erased(9)], [(10, "erases_not_own")]),
    "an erasure of itself": ([erased(9)], [(9, "erases_earlier")]),
    "an erasure beyond the tail": ([erased(99)], [(9, "erases_earlier")]),
    "an erasure of an entry to come": ([erased(10), {}], [(9, "erases_earlier")]),
    "an erasure under a hold": ([erased(1)], [(9, "respects_holds"), (1, "stays_erased")]),
    "an erasure under a hold on the entry": (
        [held("ledger.entry", "8"), erased(8)], [(10, "respects_holds"), (8, "stays_erased")]
    ),
    "an erasure under two holds": (
        [held("ledger.entry", "1"), erased(1)],
        [(10, "respects_holds"), (10, "respects_holds"), (1, "stays_erased")],
    ),
    "an erasure after a release": (
        [released("invoice", "inv_1"), erased(1)], [(1, "stays_erased")]
    ),
    "an erasure under a hold placed again": (
        [released("invoice", "inv_1"), held("invoice", "inv_1"), erased(1)],
        [(11, "respects_holds"), (1, "stays_erased")],
    ),
    "a hold after the erasure": ([erased(8), held("ledger.entry", "8")], [(8, "stays_erased")]),
    "a hold on another entry": ([held("ledger.entry", "3"), erased(8)], [(8, "stays_erased")]),
    "two erasures of one entry": ([erased(2)], [(9, "erases_once")]),
    "three erasures of one entry": ([erased(2), erased(2)], [(9, "erases_once"), (10, "erases_once")]),
    "a hold twice": ([held("invoice", "inv_1")], [(9, "holds_once")]),
    "a hold on an entry to come": ([held("ledger.entry", "9")], [(9, "holds_earlier")]),
    "a hold beyond the tail": ([held("ledger.entry", "99")], [(9, "holds_earlier")]),
    "a release without a hold": ([released("invoice", "inv_9")], [(9, "releases_held")]),
    "a release twice": ([released("ledger.entry", "3")], [(9, "releases_held")]),
    "a skip of an erasure": ([skipped("timeline:5")], [(9, "skips_no_erasure")]),
    "a skip of an entry to come": ([skipped("timeline:9")], [(9, "skips_earlier")]),
    "a skip twice": ([skipped("timeline:1"), skipped("timeline:1")], [(10, "skips_once")]),
    "a skip by two views": ([skipped("timeline:1"), skipped("other:1")], []),
    "a retry without a skip": ([retried("timeline:1")], [(9, "retries_skipped")]),
    "a retry and another skip": (
        [skipped("timeline:1"), retried("timeline:1"), skipped("timeline:1"), retried("timeline:1")], []
    ),
}  # fmt: skip


def rules_of(report: Report) -> Broken:
    """Positions and names of the broken rules. The tables of holds and skips lack what is forged: `unprotected`."""
    assert {each.kind for each in report.findings} <= {"rule_broken", "unprotected"}, report.findings
    broken = [each for each in report.findings if each.kind == "rule_broken"]
    return in_order([(position, each.detail.partition(":")[0]) for each in broken for position, _ in places([each])])


def in_order(broken: Broken) -> Broken:
    return sorted(broken, key=lambda each: (each[0] or 0, each[1]))


def check(forger: Forger, monkeypatch: pytest.MonkeyPatch, folder: Path, expected: Broken) -> None:
    """Named by verify, wherever its ranges begin, and in a bundle."""
    report = forger.verify()
    assert rules_of(report) == in_order(expected)
    monkeypatch.setattr(ranges, "_RANGE", 2)
    assert forger.verify().findings == report.findings
    bundle = folder / "bundle"
    export(forger.settings, bundle)
    found = verify_bundle(bundle)
    assert rules_of(found) == in_order(expected)
    assert found.ok == (not expected)


def without_constraints(forger: Forger) -> None:
    """As they are where they could not be validated: for what stands there already."""
    rows = forger.connection.execute(
        "select conname from pg_constraint where conrelid = 'ledger.audit_logs'::regclass and contype = 'c'"
    ).fetchall()
    for (name,) in rows:
        forger.run(f"alter table ledger.audit_logs drop constraint {name}")


def test_entries_that_break_rules(forger: Forger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All in one ledger: what one of them says is no matter of the others, but that several erase entry 8."""
    without_constraints(forger)
    blank(forger, 8)
    rows = chain(forger.connection, erased(8), *(said for said, _ in ENTRIES.values()))
    forger.done()
    broken = [
        (row.position, name) for row, (_, names) in zip(rows[1:], ENTRIES.values(), strict=True) for name in names
    ]
    again = [
        (row.position, "erases_once")
        for row in rows[1:]
        if row.action == "ledger.entry_erased" and (row.resource_type, row.resource_id) == ("ledger.entry", "8")
    ]
    check(forger, monkeypatch, tmp_path, [*broken, *again])


@pytest.mark.parametrize("case", COURSES)
def test_what_an_own_entry_says_of_others(
    shared: Forger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    said, expected = COURSES[case]
    chain(shared.connection, *said)
    check(shared, monkeypatch, tmp_path, expected)


def blank(forger: Forger, position: int) -> None:
    forger.run(
        "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null"
        f" where position = {position}"
    )


def test_a_line_break_in_a_body(forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bundle can carry one: a line of bodies.jsonl ends there."""
    without_constraints(forger)
    chain(forger.connection, {"after": b"[1,\n2]"}, {"before": b"\n1", "after": b"2"}, {"after": b'"\\n"'})
    forger.done()
    assert rules_of(forger.verify()) == [(9, "body_line_breaks"), (10, "body_line_breaks")]


def test_an_erased_body_that_is_back(forger: Forger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its own salt, so that it has the hash that its envelope names."""
    [old] = forger.connection.execute("select body_hash from ledger.audit_logs where position = 2").fetchall()
    assert old[0] != bytes(32)
    [row] = chain(forger.connection, {})
    blank(forger, 9)
    chain(forger.connection, erased(9))
    forger.connection.execute(
        "update ledger.audit_logs set after = %s, salt = %s where position = 9", ((row.after or b"").decode(), row.salt)
    )
    forger.done()
    check(forger, monkeypatch, tmp_path, [(9, "stays_erased")])


def test_several_processes_find_the_same(forger: Forger) -> None:
    """Holds and erasures of different ranges."""
    without_constraints(forger)
    chain(
        forger.connection,
        *[{} for _ in range(40)],
        held("ledger.entry", "20"),
        *[{} for _ in range(40)],
        erased(20),
        {"actor": ""},
        erased(2),
        released("ledger.entry", "20"),
        released("ledger.entry", "20"),
    )
    forger.done()
    report = forger.verify()
    assert rules_of(report) == [
        (20, "stays_erased"), (90, "respects_holds"), (91, "actor_length"), (92, "erases_once"),
        (94, "releases_held"),
    ]  # fmt: skip
    assert forger.verify(workers=3).findings == report.findings


def test_a_reader_finds_the_same(shared: Forger) -> None:
    """Who reads the view in place of the table."""
    chain(shared.connection, held("ledger.entry", "8"), erased(8), skipped("timeline:5"), erased(2), erased(99))
    report = shared.verify()
    assert len(rules_of(report)) == 5
    with logins(shared.settings.database_url or "") as login:
        for first in (1, 9):
            found = database.verify(Settings(database_url=login("ledger_reader")), first=first)
            assert rules_of(found) == rules_of(report)


def test_from_a_position_on(forger: Forger, tmp_path: Path) -> None:
    """The database tells what was held there; a bundle does not, and so says nothing of what may have been."""
    chain(forger.connection, erased(1), released("invoice", "inv_1"), released("invoice", "inv_1"), erased(2))
    forger.done()
    for first in (5, 6, 9):
        found = database.verify(forger.settings, first=first)
        assert rules_of(found) == [
            (1, "stays_erased"),
            (9, "respects_holds"),
            (11, "releases_held"),
            (12, "erases_once"),
        ]
        export(forger.settings, tmp_path / f"{first}", first=first)
        assert rules_of(verify_bundle(tmp_path / f"{first}")) == []


SALT = b"000102030405060708090a0b0c0d0e0f"
BODY_FORMS = {
    "no JSON": b"hello",
    "an object of other members": b'{"after":1}',
    "one member too many": b'{"after":1,"before":null,"metadata":null,"more":1,"salt":"%b"}' % SALT,
    "a salt too short": b'{"after":1,"before":null,"metadata":null,"salt":"00"}',
    "a salt in capitals": b'{"after":1,"before":null,"metadata":null,"salt":"%b"}' % SALT.upper(),
    "members in another order": b'{"before":null,"after":1,"metadata":null,"salt":"%b"}' % SALT,
    "not UTF-8": b'{"after":"\xff","before":null,"metadata":null,"salt":"%b"}' % SALT,
    "no number": b'{"after":NaN,"before":null,"metadata":null,"salt":"%b"}' % SALT,
    "no word": b'{"after":nul,"before":null,"metadata":null,"salt":"%b"}' % SALT,
    "a raw control character": b'{"after":"\x01","before":null,"metadata":null,"salt":"%b"}' % SALT,
    "half of an object": b'{"after":{,"before":null,"metadata":null,"salt":"%b"}' % SALT,
}


@pytest.mark.parametrize("case", BODY_FORMS)
def test_a_body_of_another_form(shared: Forger, tmp_path: Path, case: str) -> None:
    """Only in a bundle: what the database stores has the form."""
    body = BODY_FORMS[case]
    chain(shared.connection, {"body_hash": digest(body)})
    export(shared.settings, tmp_path / "bundle")
    lines = (tmp_path / "bundle" / BODIES).read_bytes().splitlines(keepends=True)
    (tmp_path / "bundle" / BODIES).write_bytes(b"".join([*lines[:-1], body + b"\n"]))
    assert rules_of(verify_bundle(tmp_path / "bundle")) == [(9, "body_form")]


NULLS = ("actor", "actor_type", "action")


@pytest.mark.parametrize("column", NULLS)
def test_a_column_without_a_value(forger: Forger, column: str) -> None:
    """NOT NULL taken away, and the envelope hashed with null."""
    forger.run(f"alter table ledger.audit_logs alter {column} drop not null")
    chain(forger.connection, {column: None})
    forger.done()
    assert (9, f"{column}_length") in rules_of(forger.verify())


def test_a_hash_of_an_erased_body_that_is_none(forger: Forger, tmp_path: Path) -> None:
    without_constraints(forger)
    chain(forger.connection, {"body_hash": bytes(31), "salt": None, "after": None}, erased(9))
    forger.done()
    assert rules_of(forger.verify()) == [(9, "entry_format")]


def test_what_is_forged_here_is_sound_otherwise(
    shared: Forger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chain(shared.connection, {}, {"resource_type": "invoice", "resource_id": "inv_2"}, released("invoice", "inv_1"), {})
    check(shared, monkeypatch, tmp_path, [])
