"""Entries that fail verification stop the workers of their ledger, until they are quarantined."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import AsyncLedger, ChainBroken, ErasureRefused, Event, Ledger, QuarantineRefused
from ledger.checkpoints.keys import create_key
from ledger.checkpoints.signer import Checkpointer
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.run import drive
from ledger.errors import LedgerError
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.actions import QUARANTINED
from ledger.format.canonical import body, digest, envelope
from ledger.format.chain import extend
from ledger.format.quarantine_record import digests
from ledger.ops.metrics import _of_ledger
from ledger.ops.status import look
from ledger.projection.rebuild import rebuild
from ledger.store.drafts import prepare
from ledger.store.entry_rows import row_params
from ledger.store.ledgers import SQL, create_ledger
from ledger.store.own_actions import erasing
from ledger.store.quarantine import _stands
from ledger.store.tree import newest_kept
from ledger.stream import wire as stream
from ledger.stream.reader import next_entries
from ledger.verify import entries, ranges
from tests.support.bad_entries import BAD, LAST, NO_RULES, WHO, false_hash, insert, said, workers
from tests.support.cli import AUDITLEDGER, cli_of
from tests.support.helpers import event, events, eventually
from tests.support.logins import Logins
from tests.support.signed_checkpoints import Superuser
from tests.support.views import projector


def false_body(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), after='{"number": 1000000}')


def false_actor(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), actor="user:1")


def other_spelling(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), after='{"number":  5}')


def open_again(ledger: Ledger, name: str = "main") -> Ledger:
    settings = ledger.settings
    return Ledger.open(database_url=settings.database_url, redis_url=settings.redis_url, name=name)


SPOILED = "update ledger.audit_logs set after = '1' where position in (4, 6, 7)"
BY_WRITER = [false_hash, false_body, false_actor, other_spelling]
ROW = f"where ledger_id = 1 and position = {BAD}"
"""First, where the entry breaks a rule that the constraint refuses."""
BY_OWNER = {
    "actor": f"update ledger.audit_logs set actor = 'user:1' {ROW}",
    "body": f"update ledger.audit_logs set after = '1' {ROW}",
    "hash": f"update ledger.audit_logs set hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "prev": f"update ledger.audit_logs set prev_hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "salt": "alter table ledger.audit_logs drop constraint entry_format;"
    f"update ledger.audit_logs set salt = null {ROW}",
    "infinity": NO_RULES + f"update ledger.audit_logs set occurred_at = 'infinity' {ROW}",
    "before Christ": NO_RULES + f"update ledger.audit_logs set occurred_at = '0044-03-15 BC' {ROW}",
    "year 12000": NO_RULES + f"update ledger.audit_logs set recorded_at = '12000-01-01' {ROW}",
    "past": f"update ledger.audit_logs set recorded_at = '2001-01-01' {ROW}",
    "null": f"alter table ledger.audit_logs alter body_hash drop not null;"
    f"update ledger.audit_logs set body_hash = null {ROW}",
    "null actor": f"alter table ledger.audit_logs alter actor drop not null;"
    f"update ledger.audit_logs set actor = null {ROW}",
    "line break": NO_RULES + f"update ledger.audit_logs set after = e'{{\n}}' {ROW}",
    "missing": f"delete from ledger.audit_logs {ROW}",
    "twice": "alter table ledger.audit_logs drop constraint one_entry_per_position;"
    "alter table ledger.audit_logs drop constraint one_entry_per_id;"
    f"update ledger.audit_logs set actor = 'user:1' {ROW};"
    f"insert into ledger.audit_logs select * from ledger.audit_logs {ROW}",
}


@pytest.fixture(params=[*BY_WRITER, *BY_OWNER], ids=lambda kind: getattr(kind, "__name__", kind))
def bad(request: pytest.FixtureRequest, ledger: Ledger, admin: psycopg.Connection, login: Logins) -> Ledger:
    """Ledger main, with one entry that does not hold, and ledger other. No worker has run."""
    drive(create_ledger("other"), admin)
    with open_again(ledger, "other") as other:
        other.append_many(events(LAST))
    if callable(request.param):
        ledger.append_many(events(BAD - 1, 1))
        request.param(ledger, login("ledger_writer"))
        with open_again(ledger) as again:
            again.append_many(events(LAST - BAD, BAD + 1))
    else:
        ledger.append_many(events(LAST, 1))
        Superuser(admin).run(*BY_OWNER[request.param].split(";"))
    return ledger


def streamed(ledger: Ledger, name: str) -> list[int]:
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        return [int(id_.partition(b"-")[2]) for id_, _ in redis.xrange(f"ledger:{{{name}}}:entries")]


def viewed(admin: psycopg.Connection, ledger_id: int = 1) -> list[int]:
    found = admin.execute("select position from ledger_views.timeline where ledger_id = %s order by 1", (ledger_id,))
    return [position for (position,) in found]


def all_but(*missing: int) -> list[int]:
    return [position for position in range(1, LAST + 1 + len(missing)) if position not in missing]


def test_stopped_shown_quarantined_passed(bad: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    with workers(bad) as (servers, relay), projector(bad, [Timeline()]) as projecting:
        relay.publish()
        projecting.catch_up()
        # It stops there, names it, and the other ledger and what is before goes on.
        assert streamed(bad, "main") == viewed(admin) == list(range(1, BAD))
        assert streamed(bad, "other") == viewed(admin, 2) == all_but()
        for [error] in (relay.stopped, projecting.stopped):
            assert isinstance(error, ChainBroken) and (error.position, error.ledger) == (BAD, "main")
            assert f"'auditledger --ledger main quarantine {BAD} --actor WHO --reason WHY'" in str(error)
        key = create_key(tmp_path / "main.key", "example.com/main")
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        with pytest.raises(ChainBroken, match=f"entry {BAD}: .*nothing was signed") as refused:
            signer.checkpoint()
        assert refused.value.position == BAD
        with pytest.raises(ChainBroken, match=f"entry {BAD}: "):
            rebuild(bad.settings, Timeline())
        assert [entry.position for entry in bad.read(limit=BAD - 1)] == list(range(1, BAD))
        followed: list[int] = []
        with pytest.raises(ChainBroken, match=f"entry {BAD}: "):
            followed.extend(entry.position for entry in bad.follow(0, idle=2))
        bad.read(after=BAD)
        assert bad.append(event(99)).position == LAST + 1

        cli = cli_of(bad)
        [main, other] = cli.well("status", "--json").json["ledgers"]
        assert [each["position"] for each in main["stopped"]] == [BAD] and other["stopped"] == []
        assert f"ENTRY {BAD} FAILS VERIFICATION" in cli.well("status").out
        ran = cli("doctor", "--json")
        [check] = [each for each in ran.json["checks"] if each["name"] == "main: entries"]
        assert ran.code == 1 and check["level"] == "danger" and f"quarantine {BAD}" in check["advice"]
        for command in (("relay",), ("project", "timeline"), ("run", "timeline")):
            ran = cli(*command, "--once")
            assert ran.code == 1 and f"entry {BAD}: " in ran.err, ran

        receipt = bad.quarantine(BAD, *WHO)
        assert receipt.position == LAST + 2
        assert bad.quarantine(BAD, *WHO) == receipt
        with pytest.raises(QuarantineRefused, match="already, by user:ops"):
            bad.quarantine(BAD, "user:other", "x")
        assert [each["stopped"] for each in cli.well("status", "--json").json["ledgers"]] == [[], []]
        for command in (("relay",), ("project", "timeline"), ("run", "timeline")):
            cli.well(*command, "--once")
        assert streamed(bad, "main") == list(range(1, LAST + 3))
        kept = [*range(1, BAD), *range(BAD + 1, LAST + 3)]
        assert viewed(admin) == kept
        assert [entry.position for entry in bad.follow(0, idle=1)] == kept
        assert rebuild(bad.settings, Timeline()) > 0
        assert viewed(admin) == kept
        assert [delivery.entry.position for delivery in _acked(bad)] == kept

        eventually(lambda: not relay.publish() and not relay.stopped)
        made = signer.checkpoint()
        assert made.size == LAST + 2
        bad.append(event(100))
        assert signer.checkpoint().size == LAST + 3
        for workers_ in (1, 2):
            report = bad.verify(workers=workers_, keys=[key.vkey])
            assert said(report) == [(BAD, "quarantined")]
            detail = next(each.detail for each in report.findings if each.kind == "quarantined")
            assert detail.startswith("quarantined by user:ops, 20") and f"in entry {LAST + 2}: " in detail
        assert cli("verify").code == 1
        export(bad.settings, tmp_path / "bundle")
        assert said(verify_bundle(tmp_path / "bundle")) == [(BAD, "quarantined")]


def _acked(ledger: Ledger) -> Iterator[Any]:
    for delivery in ledger.subscribe("mailer", after=0, idle=1):
        delivery.ack()
        yield delivery


# ------------------------------------------------------------------------------------------------ workers that go on


def test_run_goes_on_by_itself_after_the_quarantine(ledger: Ledger, login: Logins, tmp_path: Path) -> None:
    """The real process over two ledgers: relaying, projecting and signing; nothing of it ends."""
    writer = login("ledger_writer")
    cli = cli_of(ledger)
    cli.well("create", "other")
    ledger.append_many(events(BAD - 1, 1))
    false_hash(ledger, writer)
    key = create_key(tmp_path / "main.key", "example.com/main")
    create_key(tmp_path / "other.key", "example.com/other")
    keys = ["--key", str(tmp_path / "main.key"), "--key", str(tmp_path / "other.key")]
    command = [AUDITLEDGER, *cli.urls, "run", "timeline", "--checkpoint-every", "1s", *keys]
    with open_again(ledger, "other") as other, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            eventually(lambda: streamed(ledger, "main") == list(range(1, BAD)))
            receipt = other.append(event())
            other.wait_for(receipt, "timeline", timeout=60)
            eventually(lambda: bool(cli.well("status", "--json").json["ledgers"][0]["stopped"]))
            eventually(lambda: kept(other) == 1)
            assert running.poll() is None and kept(ledger) is None
            with open_again(ledger) as again:
                last = again.quarantine(BAD, *WHO)
                again.wait_for(last, "timeline", timeout=60)
                eventually(lambda: streamed(ledger, "main") == list(range(1, BAD + 2)))
                eventually(lambda: kept(ledger) == BAD + 1)
            assert said(ledger.verify(keys=[key.vkey])) == [(BAD, "quarantined")]
        finally:
            running.terminate()
            _, told = running.communicate(timeout=60)
    assert running.returncode == 0, told
    assert f"entry {BAD}: " in told and "Traceback" not in told


def kept(ledger: Ledger) -> int | None:
    """The size of the newest checkpoint."""
    newest = ledger._connector.run(newest_kept(ledger.ref))
    return None if newest is None else newest.size


def test_metrics_count_what_is_stopped_at(ledger: Ledger, login: Logins) -> None:
    ledger.append_many(events(BAD - 1, 1))
    false_hash(ledger, login("ledger_writer"))
    with workers(ledger) as (servers, relay):
        relay.publish()
        found = {name: value for name, value, _ in _of_ledger(look(servers, ["main"]).ledgers[0])}
        assert (found["bad_entries"], found["bad_entry_position"]) == (1, BAD)
        ledger.quarantine(BAD, *WHO)
        found = {name: value for name, value, _ in _of_ledger(look(servers, ["main"]).ledgers[0])}
        assert (found["bad_entries"], found["bad_entry_position"]) == (0, 0)


# ---------------------------------------------------------------------------------- tampered after it was passed


def test_changed_after_everything_had_it(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    """Published, projected and signed: only who reads it anew stops; the signed tree keeps its leaf."""
    ledger.append_many(events(LAST, 1))
    key = create_key(tmp_path / "main.key", "example.com/main")
    with workers(ledger) as (servers, relay), projector(ledger, [Timeline()]) as projecting:
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        note = signer.checkpoint().note
        relay.publish()
        projecting.catch_up()
        Superuser(admin).run(*BY_OWNER["actor"].split(";"))
        ledger.append(event(9))
        relay.publish()
        projecting.catch_up()
        assert not relay.stopped and not projecting.stopped and signer.checkpoint().size == LAST + 1
        with pytest.raises(ChainBroken, match=f"entry {BAD}: "):
            rebuild(ledger.settings, Timeline())
        ledger.quarantine(BAD, *WHO)
        rebuild(ledger.settings, Timeline())
        assert viewed(admin) == [*range(1, BAD), *range(BAD + 1, LAST + 3)]
        assert signer.checkpoint().size == LAST + 2
        (tmp_path / "main.key.state").unlink()
        ledger.append(event(10))
        assert Checkpointer(servers, [tmp_path / "main.key"], new_state=True).checkpoint().size == LAST + 3
        report = ledger.verify(checkpoints=[note], keys=[key.vkey])
        assert said(report) == [(BAD, "quarantined")]
        export(ledger.settings, tmp_path / "bundle")
        assert said(verify_bundle(tmp_path / "bundle")) == [(BAD, "quarantined")]


def test_the_newest_of_the_stream(ledger: Ledger, admin: psycopg.Connection) -> None:
    """The stream has the true one: it is not diverged, and goes on behind it."""
    ledger.append_many(events(BAD, 1))
    with workers(ledger) as (_, relay):
        relay.publish()
        Superuser(admin).run(BY_OWNER["hash"])
        ledger.append_many(events(2, BAD + 1))
        relay.trim()
        relay.publish()
        assert streamed(ledger, "main") == list(range(1, BAD + 3)) and not relay.stopped
    assert cli_of(ledger).well("status", "--json").json["ledgers"][0]["stream"]["diverged"] is False


def test_changed_again_after_the_quarantine(bad_hash: Ledger, admin: psycopg.Connection) -> None:
    """It is not what was quarantined: named, and workers stop again until that is on record too."""
    bad_hash.quarantine(BAD, *WHO)
    Superuser(admin).run(f"update ledger.audit_logs set actor = 'user:evil' {ROW}")
    found = said(bad_hash.verify())
    assert (BAD, "quarantined") in found and (BAD, "hash_mismatch") in found
    with workers(bad_hash) as (_, relay):
        relay.publish()
        assert streamed(bad_hash, "main") == list(range(1, BAD)) and relay.stopped
        again = bad_hash.quarantine(BAD, *WHO)
        eventually(lambda: bool(relay.publish()))
        assert streamed(bad_hash, "main") == list(range(1, again.position + 1))
    assert said(bad_hash.verify()) == [(BAD, "quarantined")]


# ----------------------------------------------------------------------------------------------------- missing ones


@pytest.mark.parametrize("first, last", [(1, 1), (1, 3), (4, 6), (6, 8), (8, 8)])
def test_a_hole_is_passed_entry_by_entry(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, first: int, last: int
) -> None:
    """At the beginning, in the middle, at the end: where the tail is ahead of what is left."""
    ledger.append_many(events(LAST, 1))
    Superuser(admin).run(f"delete from ledger.audit_logs where position between {first} and {last}")
    cli = cli_of(ledger)
    with workers(ledger) as (servers, relay), projector(ledger, [Timeline()]) as projecting:
        relay.publish()
        projecting.catch_up()
        assert streamed(ledger, "main") == viewed(admin) == list(range(1, first))
        create_key(tmp_path / "main.key", "example.com/main")
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        with pytest.raises(ChainBroken, match=f"entry {first}: "):
            signer.checkpoint()
        cli.well("quarantine", str(first), "--through", str(last), "--actor", "user:ops", "--reason", "ticket 7")
        end = ledger.tail().position
        kept_ones = [position for position in range(1, end + 1) if not first <= position <= last]
        eventually(lambda: not relay.publish() and not relay.stopped)
        eventually(lambda: not projecting.catch_up() and not projecting.stopped)
        assert streamed(ledger, "main") == list(range(1, end + 1)) and viewed(admin) == kept_ones
        assert [entry.position for entry in ledger.follow(0, idle=1)] == kept_ones
        rebuild(ledger.settings, Timeline())
        assert signer.checkpoint().size == end
    expected = [(position, "quarantined") for position in range(first, last + 1)]
    for size in (10_000, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranges, "_RANGE", size)
            assert said(ledger.verify()) == expected
    export(ledger.settings, tmp_path / "bundle")
    assert said(verify_bundle(tmp_path / "bundle")) == expected


def test_views_wait_before_two_bad_entries_until_both_are_quarantined(
    ledger: Ledger, admin: psycopg.Connection
) -> None:
    """A view position cannot be at the first one: with only that quarantined, the projection stops at the second."""
    for each in events(LAST):  # one by one, each at its own time
        ledger.append(each)
    Superuser(admin).run("update ledger.audit_logs set after = '1' where position in (4, 5)")
    cli = cli_of(ledger)
    for position, stopped in ((4, 5), (5, None)):
        cli.well("quarantine", str(position), "--actor", "user:ops", "--reason", "ticket 7")
        ran = cli("project", "timeline", "--once")
        assert ran.code == (0 if stopped is None else 1), ran
        assert stopped is None or f"entry {stopped}: body hash mismatch" in ran.err
    assert viewed(admin) == [1, 2, 3, 6, 7, 8, 9, 10]
    rebuild(ledger.settings, Timeline())


def test_a_whole_page_that_is_quarantined(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends with a quarantined entry: a projection reads on to one at which its position can be."""
    for each in events(LAST):  # one by one, each at its own time
        ledger.append(each)
    Superuser(admin).run("delete from ledger.audit_logs where position = 5", SPOILED)
    cli = cli_of(ledger)
    cli.well("quarantine", "4", "--through", "7", "--actor", "user:ops", "--reason", "ticket 7")
    monkeypatch.setattr("ledger.projection.rebuild.BATCH", 2)
    with projector(ledger, [Timeline()]) as projecting:
        monkeypatch.setattr("ledger.projection.worker.next_entries", partial(next_entries, limit=2))
        projecting.catch_up()
    assert viewed(admin) == [1, 2, 3, 8, 9, 10, 11, 12]
    rebuild(ledger.settings, Timeline())
    assert viewed(admin) == [1, 2, 3, 8, 9, 10, 11, 12]


@pytest.mark.parametrize("first, last", [(1, 1), (1, 3), (4, 6), (7, 7), (8, 8)])
def test_quarantined_holes_are_named_however_the_ledger_is_split(
    ledger: Ledger, admin: psycopg.Connection, first: int, last: int
) -> None:
    """Without a tree too, and where a range begins or ends with the hole."""
    ledger.append_many(events(LAST, 1))
    Superuser(admin).run(f"delete from ledger.audit_logs where position between {first} and {last}")
    for position in range(first, last + 1):
        ledger.quarantine(position, *WHO)
    expected = [(position, "quarantined") for position in range(first, last + 1)]
    for size in (10_000, 1, 3, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranges, "_RANGE", size)
            assert said(ledger.verify()) == expected
            assert said(ledger.verify(first=first)) == expected


def test_of_a_long_hole_its_beginning_is_looked_at(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quarantined entries of it are named, the others are missing, however the ledger is split."""
    monkeypatch.setattr(entries, "HOLE", 10)
    monkeypatch.setattr(ranges, "HOLE", 10)
    ledger.append_many(events(2_000, 1))
    Superuser(admin).run("delete from ledger.audit_logs where position between 301 and 1900")
    for position in (*range(301, 314), 500):
        ledger.quarantine(position, *WHO)
    for size in (10_000, 1, 100, 305, 1000):
        monkeypatch.setattr(ranges, "_RANGE", size)
        report = ledger.verify()
        assert [(each.kind, each.position, each.through) for each in report.findings] == [
            *(("quarantined", position, position) for position in range(301, 311)),
            ("missing_entry", 311, 1900),
        ]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def bad_hash(ledger: Ledger, login: Logins) -> Ledger:
    ledger.append_many(events(BAD - 1, 1))
    false_hash(ledger, login("ledger_writer"))
    return open_again(ledger)


def test_a_sound_entry_and_none_at_all_are_refused(ledger: Ledger) -> None:
    ledger.append_many(events(3))
    erased = ledger.erase(2, *WHO)
    for position in (1, 2, erased.position):
        with pytest.raises(QuarantineRefused, match=f"entry {position} of ledger 'main' holds"):
            ledger.quarantine(position, *WHO)
    with pytest.raises(QuarantineRefused, match="there is no entry 9 yet"):
        ledger.quarantine(9, *WHO)
    for position in (0, -1):
        with pytest.raises(LedgerError):
            ledger.quarantine(position, *WHO)
    with pytest.raises(LedgerError, match="reason"):
        ledger.quarantine(1, "user:ops", " ")
    assert ledger.tail().position == erased.position and ledger.verify().ok


def test_a_forged_record_hides_no_sound_entry(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Somebody with the right to record it, and no scruples: workers hand the entry on."""
    ledger.append_many(events(LAST, 1))
    [record] = ledger._connector.run(_stands(ledger.ref, 3, 3))
    metadata = {"found": ["hash_mismatch"], "hash": record.hash.hex(), "reason": "x", **digests([record])._asdict()}
    forged = Event("user:evil", QUARANTINED, "ledger.entry", "3", metadata=metadata)
    ledger._record_own(forged)
    with workers(ledger) as (_, relay), projector(ledger, [Timeline()]) as projecting:
        relay.publish()
        projecting.catch_up()
        assert streamed(ledger, "main") == viewed(admin) == list(range(1, LAST + 2))
        assert [entry.position for entry in ledger.follow(0, idle=1)] == list(range(1, LAST + 2))
        assert [delivery.entry.position for delivery in _acked(ledger)] == list(range(1, LAST + 2))
    assert ledger.verify().ok


def test_the_stream_cannot_hide_a_sound_entry(ledger: Ledger) -> None:
    """Whoever may write to Redis says that one is quarantined: readers ask Postgres."""
    ledger.append_many(events(3, 1))
    entries = list(ledger.read())
    said_ = [stream.Wire(e.position, envelope(e), body(e) or b"", e.hash.hex()) for e in entries]
    said_[1] = stream.marker(2, entries[1].hash, 3)
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        for wire in said_:
            fields = {"envelope": wire.envelope, "body": wire.body, "hash": wire.hash}
            redis.xadd(stream.key("main"), fields, id=f"1-{wire.position}")
    assert [entry.position for entry in ledger.follow(0, idle=1)] == [1, 2, 3]
    assert [delivery.entry.position for delivery in _acked(ledger)] == [1, 2, 3]


def test_it_takes_an_operator_who_may_read(ledger: Ledger, login: Logins) -> None:
    ledger.append_many(events(BAD - 1, 1))
    false_hash(ledger, login("ledger_writer"))
    for roles in (["ledger_admin"], ["ledger_reader", "ledger_writer"], ["ledger_projector"], ["ledger_eraser"]):
        with Ledger.open(database_url=login(*roles)) as other, pytest.raises(LedgerError):
            other.quarantine(BAD, *WHO)
    with Ledger.open(database_url=login("ledger_admin", "ledger_reader")) as operator:
        assert operator.quarantine(BAD, *WHO).position == BAD + 1


def test_nobody_records_it_by_hand(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    ledger.append_many(events(3, 1))
    forged = Event("user:evil", QUARANTINED, "ledger.entry", "2", metadata={"reason": "x"})
    draft = prepare(forged, "main", own=True)
    with psycopg.connect(login("ledger_writer"), autocommit=True) as writer:
        [(now,)] = writer.execute("select clock_timestamp()").fetchall()
        [link] = extend(ledger.tail(), [draft], now)
        with pytest.raises(psycopg.Error, match="only the ledger's own functions"):
            writer.execute(SQL["insert"], [*row_params(1, link), link.position, draft.id, link.hash])
    with pytest.raises(LedgerError, match="what was found, and the digests"):
        ledger._record_own(forged)


def test_async(ledger: Ledger, login: Logins) -> None:
    ledger.append_many(events(BAD - 1, 1))
    false_hash(ledger, login("ledger_writer"))

    async def quarantine_and_follow() -> None:
        settings = ledger.settings
        async with AsyncLedger.open(database_url=settings.database_url, redis_url=settings.redis_url) as other:
            assert (await other.quarantine(BAD, *WHO)).position == BAD + 1
            with pytest.raises(QuarantineRefused):
                await other.quarantine(1, *WHO)
            assert [entry.position async for entry in other.follow(0, idle=1)] == [1, 2, 3, 4, 6]

    asyncio.run(quarantine_and_follow())


# --------------------------------------------------------------------------------------------- erasing what was changed


def test_a_changed_body_is_erased_only_on_the_record(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    ledger.append_many(events(3, 1))
    Superuser(admin).run("update ledger.audit_logs set after = '{\"number\":7}' where position = 2")
    [entry] = ledger.read(1, 1)
    stood = digest(body(entry) or b"").hex()
    with pytest.raises(ErasureRefused, match="--mismatched"):
        ledger.erase(2, *WHO)
    assert cli_of(ledger)("erase", "2", "--actor", "user:ops", "--reason", "x").code == 2
    receipt = ledger.erase(2, *WHO, mismatched=True)
    assert ledger.erase(2, *WHO) == ledger.erase(2, *WHO, mismatched=True) == receipt
    [erasure] = ledger.read(receipt.position - 1)
    assert erasure.metadata == {"mismatched": stood, "reason": WHO[1]}
    for report in (ledger.verify(), ledger.verify(workers=2)):
        assert said(report) == [(2, "body_mismatch")]
        assert "user:ops erased in entry 4" in report.findings[0].detail and stood in report.findings[0].detail
    export(ledger.settings, tmp_path / "bundle")
    assert said(verify_bundle(tmp_path / "bundle")) == [(2, "body_mismatch")]


def test_the_database_itself_refuses_it(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """An eraser, who reads nothing, calls the function by hand: without the digest, with another, for a true body."""
    ledger.append_many(events(3, 1))
    Superuser(admin).run("update ledger.audit_logs set after = '{\"number\":7}' where position = 2")
    with Ledger.open(database_url=login("ledger_eraser")) as eraser:
        for position, mismatched in ((2, None), (2, "ab" * 32), (1, "ab" * 32)):
            with pytest.raises(LedgerError):
                eraser._record_own(erasing(position, *WHO, mismatched=mismatched))
        assert ledger.tail().position == 3
        assert eraser.erase(1, *WHO).position == 4
        assert eraser.erase(2, *WHO, mismatched=True).position == 5


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5000, 8193])
def test_blake3_in_the_database(admin: psycopg.Connection, size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    assert admin.execute("select ledger.blake3(%s)", (data,)).fetchone() == (digest(data),)


def test_quarantined_then_erased(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Work goes on past it, and both are named."""
    ledger.append_many(events(3, 1))
    Superuser(admin).run("update ledger.audit_logs set after = '{\"number\":7}' where position = 2")
    ledger.quarantine(2, *WHO)
    ledger.erase(2, *WHO, mismatched=True)
    assert [entry.position for entry in ledger.follow(0, idle=1)] == [1, 2, 3, 4, 5]
    assert (2, "body_mismatch") in said(ledger.verify())


@pytest.mark.parametrize("first, last", [(254, 258), (257, 257), (256, 256), (510, 515)])
def test_a_hole_over_the_edge_of_a_tile(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, first: int, last: int
) -> None:
    """Deleted before it was signed, or after, with the same outcome: nothing but what is quarantined."""
    ledger.append_many(events(520, 1))
    key = create_key(tmp_path / "main.key", "example.com/main")
    with workers(ledger) as (servers, _):
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        if first % 2:
            signer.checkpoint()
        Superuser(admin).run(f"delete from ledger.audit_logs where position between {first} and {last}")
        cli_of(ledger).well("quarantine", str(first), "--through", str(last), "--actor=user:ops", "--reason=x")
        assert signer.checkpoint().size == ledger.tail().position
    expected = [(position, "quarantined") for position in range(first, last + 1)]
    for size in (10_000, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranges, "_RANGE", size)
            assert said(ledger.verify(keys=[key.vkey])) == expected
    export(ledger.settings, tmp_path / "bundle")
    assert said(verify_bundle(tmp_path / "bundle")) == expected


def test_several_bad_ones_among_sound_ones(ledger: Ledger, admin: psycopg.Connection) -> None:
    """--through takes those that do not hold, and says of the others that they do."""
    ledger.append_many(events(LAST, 1))
    Superuser(admin).run("update ledger.audit_logs set actor = 'user:1' where position in (2, 3, 6)")
    ran = cli_of(ledger).well("quarantine", "1", "--through", str(LAST), "--actor=user:ops", "--reason=x")
    assert len(ran.out.splitlines()) == 3 and ran.err.count("holds") == LAST - 3
    assert [entry.position for entry in ledger.follow(0, idle=1)] == [1, 4, 5, 7, 8, 9, 10, 11]
    assert said(ledger.verify()) == [(2, "quarantined"), (3, "quarantined"), (6, "quarantined")]


def test_a_bundle_that_was_changed_at_what_is_quarantined(bad_hash: Ledger, tmp_path: Path) -> None:
    """The line must be what the row makes, and the row what the record names."""
    bad_hash.quarantine(BAD, *WHO)
    export(bad_hash.settings, tmp_path / "bundle")
    for name, old, new in (
        ("envelopes.jsonl", b'"actor":"user:42"', b'"actor":"user:43"'),
        ("quarantined.jsonl", b'"actor":"user:42"', b'"actor":"user:43"'),
    ):
        path = tmp_path / "bundle" / name
        lines = path.read_bytes().splitlines(keepends=True)
        at = BAD - 1 if name == "envelopes.jsonl" else 0
        path.write_bytes(b"".join([*lines[:at], lines[at].replace(old, new), *lines[at + 1 :]]))
        assert (BAD, "quarantined") not in said(verify_bundle(tmp_path / "bundle"))
        path.write_bytes(b"".join(lines))
    assert said(verify_bundle(tmp_path / "bundle")) == [(BAD, "quarantined")]
