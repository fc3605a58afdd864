"""A hostile writer of the stream: readers get the ledger's entries, or one of our errors."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import AsyncLedger, Entry, Ledger, testing
from ledger.drivers.connections import create_redis_connection
from ledger.format import canonical
from ledger.stream.wire import key, parse
from tests.fuzz import seeds
from tests.fuzz.json_texts import DEEP, strained
from tests.fuzz.mutations import mutated
from tests.fuzz.profile import bounded, fuzz
from tests.fuzz.targets import check_bodies
from tests.support.cli import Cli, cli_of
from tests.support.helpers import erase, event, events, receipt_of

Fields = dict[bytes, bytes]


def wire(envelope: bytes, body: bytes, hashed: bytes | None = None) -> Fields:
    return {b"envelope": envelope, b"body": body, b"hash": hashed or canonical.digest(envelope).hex().encode()}


@pytest.fixture(scope="module")
def ledger(servers: testing.TestServers, template: str, pytestconfig: pytest.Config) -> Iterator[Ledger]:
    """Five entries, published; the second is erased."""
    worker = getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0")
    redis_url = testing.redis_database(servers.redis_url, int(worker.removeprefix("gw")))
    with create_redis_connection(redis_url) as client:
        client.flushdb()
    with (
        testing.database(servers.database_url, template=template) as url,
        Ledger.open(database_url=url, redis_url=redis_url) as opened,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        opened.append_many(events(3))
        opened.append(event(4, before={"a": [1, 2.5, None]}, resource_type="invoice", resource_id="inv_7"))
        cli_of(opened).well("relay", "--once")
        erase(connection, 2)
        yield opened


@pytest.fixture(scope="module")
def published(ledger: Ledger) -> list[tuple[bytes, Fields]]:
    cli = cli_of(ledger)
    cli.well("relay", "--once")
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        found: Any = client.xrange(key("main"))
    assert len(found) == 4
    return [(id_, fields) for id_, fields in found]


def test_no_reader_believes_or_stumbles(ledger: Ledger, published: list[tuple[bytes, Fields]]) -> None:
    """A false entry in the place of a published one, linked and hashed as well as can be."""
    true = list(ledger.read())
    places = [int(id_.split(b"-")[1]) - 1 for id_, _ in published]
    envelopes = [canonical.envelope(entry) for entry in true]
    bodies = [canonical.body(entry) or b"" for entry in true]
    cli = cli_of(ledger)
    first = envelopes[places[0]]

    @fuzz(20)
    @given(
        place=st.integers(0, 3),
        envelope=st.none() | strained(envelopes) | mutated(envelopes),
        body=st.none() | strained([body for body in bodies if body]) | mutated(bodies),
        hashed=st.none() | mutated([canonical.digest(envelope).hex().encode() for envelope in envelopes], 2),
        more=st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=9), max_size=2),
        left_out=st.sampled_from([b"", b"", b"", b"envelope", b"body", b"hash"]),
    )
    @example(0, None, b'{"after":%b,"before":null,"metadata":null,"salt":""}' % DEEP[0].encode(), None, {}, b"")
    @example(0, first.replace(b'Z","resource', b'","resource'), None, None, {}, b"")
    @example(0, first.replace(b'Z","position', b'","position'), None, None, {}, b"")
    @example(0, _with(first, recorded_at="9999-12-31T23:59:59.999999-01:00"), None, None, {}, b"")
    @example(0, _with(first, occurred_at="0001-01-01T00:00:00.000000+01:00"), None, None, {}, b"")
    def check(
        place: int, envelope: bytes | None, body: bytes | None, hashed: bytes | None, more: Fields, left_out: bytes
    ) -> None:
        at = places[place]
        forged = wire(envelope or envelopes[at], bodies[at] if body is None else body, hashed) | more
        forged.pop(left_out, None)
        fields: Any = forged or {b"x": b""}
        parsed = parse([each for pair in fields.items() for each in pair])
        if parsed is not None:
            check_bodies(parsed)
        with create_redis_connection(ledger.settings.redis_url or "") as client:
            client.delete(key("main"))
            for number, (id_, sound) in enumerate(published):
                client.xadd(key("main"), fields if number == place else dict(sound), id=id_)
            with bounded():
                assert list(islice(ledger.follow(after=0), len(true))) == true
                for entry, delivery in zip(true, ledger.subscribe("fuzz", after=0), strict=False):
                    assert receipt_of(delivery.entry) == receipt_of(entry)
                    delivery.ack()
                _no_fault(cli)
            client.delete(key("main"))
        ledger.run(_forget_group())

    check()


def _with(envelope: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(envelope) | changes, separators=(",", ":"), sort_keys=True).encode()


def _forget_group() -> Any:
    from ledger import Query

    yield Query("delete from ledger.subscriptions")


def _no_fault(cli: Cli) -> None:
    """What looks at the stream's end says what it sees."""
    assert cli("status").code == 0
    ran = cli("relay", "--once")
    assert ran.code in (0, 1), ran


def test_the_golden_entries_come_through() -> None:
    for envelope, body, hashed in seeds.wires():
        entry = parse([b"envelope", envelope, b"body", body, b"hash", hashed])
        assert entry is not None and canonical.envelope(entry) == envelope and (canonical.body(entry) or b"") == body


def test_a_false_entry_that_hides_well(ledger: Ledger, published: list[tuple[bytes, Fields]]) -> None:
    """The stream's newest, hashed and linked anew; and one more than there are. Only Postgres tells."""
    true = list(ledger.read())
    newest = true[-1]
    forged = _with(canonical.envelope(newest), actor="user:43")
    added = _with(canonical.envelope(newest), actor="user:43", position=newest.position + 1, prev=newest.hash.hex())
    body = canonical.body(newest) or b""
    assert int(published[-1][0].split(b"-")[1]) == newest.position
    for entries in (
        [*published[:-1], (published[-1][0], wire(forged, body))],
        [*published, (b"1-%d" % (newest.position + 1), wire(added, body))],
    ):
        with create_redis_connection(ledger.settings.redis_url or "") as client:
            client.delete(key("main"))
            for id_, fields in entries:
                sound: Any = fields
                client.xadd(key("main"), sound, id=id_)
        assert list(ledger.follow(after=newest.position - 1, idle=0.2)) == [newest]
        assert asyncio.run(_followed(ledger, newest.position - 1)) == [newest]
        handed_out = []
        for delivery in ledger.subscribe("fuzz-forged", after=0, idle=2.5):
            handed_out.append(receipt_of(delivery.entry))
            delivery.ack()
        assert handed_out == [receipt_of(entry) for entry in true]
        ledger.run(_forget_group())
        cli_of(ledger).well("project", "--once")
        assert cli_of(ledger).well("query", "--actor", "user:43", "--json").jsons == []
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))


async def _followed(ledger: Ledger, after: int) -> list[Entry]:
    async with AsyncLedger(ledger.settings) as opened:
        return [entry async for entry in opened.follow(after=after, idle=0.2)]


FOREIGN_IDS = ["1-5", f"1-{2**63}", f"{2**64 - 1}-{2**64 - 1}", f"{2**63}-1"]


@pytest.mark.parametrize("id_", [*FOREIGN_IDS, f"1-{2**62}"])
def test_a_group_waits_before_ids_that_no_ledger_has(
    ledger: Ledger, published: list[tuple[bytes, Fields]], id_: str
) -> None:
    """It hands out what comes before, once; and goes on with it when the stream is what it was."""
    true = list(ledger.read())
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))
        for each, fields in [*published, (id_.encode(), {b"envelope": b"{}", b"body": b"", b"hash": b"00"})]:
            sound: Any = fields
            if int(each.split(b"-")[1]) != len(true):
                client.xadd(key("main"), sound, id=each)
    handed_out = []
    for delivery in ledger.subscribe("fuzz-waits", after=0, idle=2.5):
        handed_out.append(delivery.entry.position)
        delivery.ack()
    assert handed_out[: len(true) - 1] == [entry.position for entry in true[:-1]]
    assert set(handed_out) <= {entry.position for entry in true}
    assert len(set(handed_out)) == len(handed_out) or not id_.startswith("1-"), "of another epoch it may come again"
    ledger.run(_forget_group())
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))


@pytest.mark.parametrize("id_", FOREIGN_IDS)
def test_ids_that_no_ledger_has(ledger: Ledger, tmp_path: Path, id_: str) -> None:
    """Whoever may write to Redis can end a stream where nothing comes after it."""
    cli = cli_of(ledger)
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))
        client.xadd(key("main"), {"envelope": "{}", "body": "", "hash": "00"}, id=id_)
    lines = ["status", "relay --once", "tail --from 1 -n 5 --follow", "project --once timeline", "doctor", "salvage {}"]
    for number, line in enumerate([*lines, "parked fuzz", "relay --once --new-epoch", "relay --once", "status"]):
        for options in ([], ["--json"]):
            ran = cli(*options, *line.format(tmp_path / f"{number}{len(options)}").split())
            assert ran.code in (0, 1, 2, 3) and "an internal error" not in ran.err, (line, ran)
    if cli("relay", "--once").code == 0:
        assert receipts_of_a_new_group(ledger) == [receipt_of(entry) for entry in ledger.read()]
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))


def receipts_of_a_new_group(ledger: Ledger) -> list[Any]:
    count = ledger.tail().position
    try:
        deliveries = islice(ledger.subscribe("fuzz-ids", after=0, idle=0.5), count)
        found = []
        for delivery in deliveries:
            found.append(receipt_of(delivery.entry))
            delivery.ack()
        return found
    finally:
        ledger.run(_forget_group())


OWN = {"action": "ledger.hold_placed", "resource_type": "invoice", "resource_id": "inv_7", "actor": "user:42"}
HOSTILE = "x\n$(touch /tmp/owned)\n'; `id` \"\\ --database-url=postgresql://evil/x"


@fuzz(20)
@given(said=strained([json.dumps(OWN).encode()]), metadata=strained([b'{"reason":"asked for"}']))
@example(json.dumps(OWN | {"resource_type": "ledger.entry", "resource_id": "9" * 5000}).encode(), b"{}")
@example(json.dumps(OWN | {"resource_type": "ledger.entry", "resource_id": "\u0663"}).encode(), b"{}")
@example(json.dumps(OWN | {"action": "ledger.unknown", "resource_id": HOSTILE, "actor": HOSTILE}).encode(), b"{}")
@example(json.dumps(OWN | {"action": "ledger.x\nid", "resource_id": "--json", "actor": "-x"}).encode(), b"[]")
@example(json.dumps(OWN | {"resource_type": "--ledger=other", "actor": HOSTILE}).encode(), b'{"reason":1}')
@example(json.dumps(OWN).encode(), b'{"reason":1e400}')
@example(json.dumps(OWN).encode(), b'"reason"')
@example(json.dumps(OWN).encode(), json.dumps({"reason": HOSTILE}).encode())
def test_what_salvage_prints_is_what_it_says(
    ledger: Ledger, tmp_path_factory: pytest.TempPathFactory, said: bytes, metadata: bytes
) -> None:
    """Its commands are for a shell: nothing in an entry may be more than an argument of ours."""
    envelope = canonical.envelope(next(iter(ledger.read())))
    try:
        body = b'{"after":null,"before":null,"metadata":%b,"salt":"%b"}' % (metadata, b"0" * 32)
        changes = {"body": canonical.digest(body).hex()} | json.loads(said)
        envelope = _with(envelope, **changes, position=9)
    except (ValueError, RecursionError, TypeError):
        return
    cli = cli_of(ledger)
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        client.delete(key("main"))
        fields: Any = wire(envelope, body)
        client.xadd(key("main"), fields, id="1-9")
    folder = tmp_path_factory.mktemp("salvage")
    ran = cli("--json", "salvage", str(folder / "json"))
    assert ran.code in (0, 1, 2), ran
    for command in ran.json["commands"] if ran.code == 0 else ():
        words = shlex.split(command, comments=True)
        assert "\n" not in command or words, "a comment that goes on as a command"
        if words:
            assert words[:3] == ["auditledger", "--ledger", "main"] and words[3] in ("import", "hold")
            if words[3] == "hold":
                assert words[-2] == "--" and all(word.startswith("--") for word in words[4:-2]), words
    assert cli("salvage", str(folder / "text")).code == ran.code
