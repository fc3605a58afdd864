"""Entries that do not hold: each worker of that ledger stops before it, all else goes on; quarantine is the way on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import ChainBroken, Event, Ledger, QuarantineRefused
from ledger.bundle import verify_bundle
from ledger.chain import extend
from ledger.checkpointing import Checkpointer
from ledger.connections import create_redis_connection
from ledger.drive import drive
from ledger.events import Tail
from ledger.export import export
from ledger.findings import Report
from ledger.relay import Relay
from ledger.replay import rebuild
from ledger.rows import insert_params
from ledger.servers import Servers
from ledger.signing import create_key
from ledger.store import SQL, create_ledger
from ledger.writer import prepare
from tests.checkpoints import Superuser
from tests.roles import Logins
from tests.support import event, events, eventually
from tests.test_cli_main import cli_of
from tests.views import projector

BAD, LAST = 5, 8
WHO = ("user:ops", "ticket 7")
COLUMNS = ("id", "occurred_at", "actor", "actor_type", "action", "resource_type", "resource_id", "before", "after",
           "metadata", "salt", "body_hash", "ledger_id", "position", "recorded_at", "prev_hash", "hash")  # fmt: skip


def insert(url: str, tail: Tail, said: Event, **changes: Any) -> None:
    """A writer's own INSERT of an entry that the trigger lets pass, with columns other than its hashes say."""
    draft = prepare(said, "main")
    with psycopg.connect(url, autocommit=True) as connection:
        [(now,)] = connection.execute("select clock_timestamp()").fetchall()
        [link] = extend(tail, [draft], now)
        values = dict(zip(COLUMNS, insert_params(1, link), strict=True)) | changes
        connection.execute(SQL["insert"], list(values.values()))


def false_hash(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), hash=bytes(31) + b"\1")


def false_body(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), after='{"number": 1000000}')


def false_actor(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), actor="user:1")


def other_spelling(ledger: Ledger, writer: str) -> None:
    insert(writer, ledger.tail(), event(BAD), after='{"number":  5}')


def open_again(ledger: Ledger, name: str = "main") -> Ledger:
    settings = ledger.settings
    return Ledger.open(database_url=settings.database_url, redis_url=settings.redis_url, name=name)


BY_WRITER = [false_hash, false_body, false_actor, other_spelling]
ROW = f"where ledger_id = 1 and position = {BAD}"
BY_OWNER = {
    "actor": f"update ledger.audit_logs set actor = 'user:1' {ROW}",
    "body": f"update ledger.audit_logs set after = '1' {ROW}",
    "hash": f"update ledger.audit_logs set hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "prev": f"update ledger.audit_logs set prev_hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "salt": "alter table ledger.audit_logs drop constraint entry_format;"
    f"update ledger.audit_logs set salt = null {ROW}",
    "infinity": f"update ledger.audit_logs set occurred_at = 'infinity' {ROW}",
    "before Christ": f"update ledger.audit_logs set occurred_at = '0044-03-15 BC' {ROW}",
    "year 12000": f"update ledger.audit_logs set recorded_at = '12000-01-01' {ROW}",
    "past": f"update ledger.audit_logs set recorded_at = '2001-01-01' {ROW}",
    "null": f"alter table ledger.audit_logs alter body_hash drop not null;"
    f"update ledger.audit_logs set body_hash = null {ROW}",
    "null actor": f"alter table ledger.audit_logs alter actor drop not null;"
    f"update ledger.audit_logs set actor = null {ROW}",
    "line break": f"update ledger.audit_logs set after = e'{{\n}}' {ROW}",
    "missing": f"delete from ledger.audit_logs {ROW}",
    "twice": "alter table ledger.audit_logs drop constraint one_entry_per_position;"
    "alter table ledger.audit_logs drop constraint one_entry_per_id;"
    f"update ledger.audit_logs set actor = 'user:1' {ROW};"
    f"insert into ledger.audit_logs select * from ledger.audit_logs {ROW}",
}


@pytest.fixture(params=[*BY_WRITER, *BY_OWNER], ids=lambda kind: getattr(kind, "__name__", kind))
def bad(request: pytest.FixtureRequest, ledger: Ledger, admin: psycopg.Connection, login: Logins) -> Ledger:
    """Ledger main, with one entry that does not hold, and ledger other. No worker has run."""
    drive(create_ledger("other"), lambda: admin)
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


@contextmanager
def workers(ledger: Ledger) -> Iterator[tuple[Servers, Relay]]:
    servers = Servers(ledger.settings)
    try:
        yield servers, Relay(servers)
    finally:
        servers.close()


def said(report: Report) -> list[tuple[int | None, str]]:
    return [(each.position, each.kind) for each in report.findings if each.kind != "unprotected"]


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
            assert f"'auditledger --ledger main quarantine {BAD}'" in str(error)
        key = create_key(tmp_path / "main.key", "example.com/main")
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        with pytest.raises(ChainBroken, match=f"entry {BAD}: .*nothing was signed") as refused:
            signer.checkpoint()
        assert refused.value.position == BAD
        with pytest.raises(ChainBroken, match=f"entry {BAD}: "):
            rebuild(bad.settings, Timeline())
        assert [entry.position for entry in bad.read(limit=BAD - 1)] == list(range(1, BAD))
        followed = []
        with pytest.raises(ChainBroken, match=f"entry {BAD}: "):
            followed.extend(entry.position for entry in bad.follow(0, idle=2))
        bad.read(after=BAD)
        assert bad.append(event(99)).position == LAST + 1

        cli = cli_of(bad)
        [main, other] = cli.well("status", "--json").json["ledgers"]
        assert [each["position"] for each in main["stopped"]] == [BAD] and other["stopped"] == []
        assert f"ENTRY {BAD} DOES NOT HOLD" in cli.well("status").out
        ran = cli("doctor", "--json")
        [check] = [each for each in ran.json["checks"] if each["name"] == f"main: entry {BAD}"]
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
    for delivery in ledger.subscribe("mailer", idle=1):
        delivery.ack()
        yield delivery
