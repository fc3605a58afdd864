"""The stream under whoever can write to Redis: readers get the ledger's entries all the same, or one of our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Ledger, canonical, testing
from ledger.connections import create_redis_connection
from ledger.stream import key, parse
from tests.fuzz import seeds
from tests.fuzz.json_texts import DEEP, strained
from tests.fuzz.mutations import mutated
from tests.fuzz.profile import bounded, fuzz
from tests.fuzz.targets import check_bodies
from tests.support import erase, event, events, receipt_of
from tests.test_cli_main import Cli, cli_of

Fields = dict[bytes, bytes]


def wire(envelope: bytes, body: bytes, hashed: bytes | None = None) -> Fields:
    return {b"envelope": envelope, b"body": body, b"hash": hashed or canonical.digest(envelope).hex().encode()}


@pytest.fixture(scope="module")
def ledger(servers: testing.Servers, template: str, pytestconfig: pytest.Config) -> Iterator[Ledger]:
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
                for entry, delivery in zip(true, ledger.subscribe("fuzz"), strict=False):
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
