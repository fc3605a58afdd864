"""The copies that an erasure reaches: the stream, its readers, every view, exports."""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from ledger_projections import ResourceState, Timeline, history, search, state

from ledger import AsyncLedger, Entry, Event, Ledger, Projection, Writes
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.canonical import body
from ledger.migrate.migrate import migrate
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from ledger.stream import commands, wire
from ledger.stream.relay import Relay, open_epoch
from tests.support.helpers import OwnServers, checked, event, events
from tests.support.views import BUILT_IN, project, projector, rows, some_events

KEY = wire.key("main")


@pytest.fixture
def relay(ledger: Ledger) -> Iterator[Relay]:
    servers = Connector(ledger.settings)
    yield Relay(servers)
    servers.close()


@contextmanager
def redis(ledger: Ledger) -> Iterator[Any]:
    with create_redis_connection(ledger.settings.redis_url or "") as client:
        yield client


def published(ledger: Ledger) -> dict[int, bytes]:
    """The bodies in the stream by position."""
    with redis(ledger) as client:
        found = client.xrange(KEY)
    return {int(id_.partition(b"-")[2]): fields[b"body"] for id_, fields in found}


# ----------------------------------------------------------------------------------------------------------- the stream


def test_the_streams_copy_goes_with_the_erasure(ledger: Ledger, relay: Relay) -> None:
    ledger.append_many(events(5))
    relay.publish()
    ledger.erase(2, "user:dpo", "asked for")
    assert sorted(published(ledger)) == [1, 2, 3, 4, 5]
    relay.publish()
    assert sorted(published(ledger)) == [1, 3, 4, 5, 6]
    ledger.append_many(events(2))
    assert relay.publish() == 2


def test_an_erasure_and_what_it_erases_in_one_batch(ledger: Ledger, relay: Relay) -> None:
    """Never published with its body, it stays without one: no hole."""
    ledger.append_many(events(2))
    ledger.erase(1, "user:dpo", "asked for")
    relay.publish()
    bodies = published(ledger)
    assert (sorted(bodies), bodies[1]) == ([1, 2, 3], b"")


def test_a_body_read_before_the_erasure_and_published_after_it(ledger: Ledger, relay: Relay) -> None:
    """A relay that was slow: its batch still has the body. The erasure comes later in the stream and takes it away."""
    ledger.append_many(events(3))
    [first, second, third] = [
        wire.Wire(entry.position, b"{}", body(entry) or b"", entry.hash.hex()) for entry in ledger.read()
    ]
    ledger.erase(2, "user:dpo", "asked for")
    ledger.run(commands.publish("main", wire.NO_ID, 1, [first, second, third]))
    assert published(ledger)[2] == second.body
    relay.publish()
    assert sorted(published(ledger)) == [1, 3, 4]


def test_what_claims_to_erase_and_does_not(ledger: Ledger) -> None:
    """Only an earlier entry, and only one whose action is an erasure, whatever a resource is called."""
    with redis(ledger) as client:
        client.delete(KEY)
    wires = [wire.Wire(n, b"{}", b"body", "00", erases) for n, erases in ((1, ""), (2, ""), (3, "9"), (4, "1"))]
    ledger.run(commands.publish("main", wire.NO_ID, 1, wires))
    assert sorted(published(ledger)) == [2, 3, 4]


def test_a_lost_stream_is_filled_again_without_the_body(ledger: Ledger, relay: Relay) -> None:
    ledger.append_many(events(3))
    relay.publish()
    ledger.erase(2, "user:dpo", "asked for")
    relay.publish()
    with redis(ledger) as client:
        client.delete(KEY)
    relay.trim()
    relay.publish()
    bodies = published(ledger)
    assert (sorted(bodies), bodies[2]) == ([1, 2, 3, 4], b"")
    ledger.run(open_epoch(ledger.ref))
    relay.trim()
    relay.publish()
    assert published(ledger)[2] == b""


def everything_in(ledger: Ledger) -> list[tuple[str, bytes]]:
    """Every entry of the stream, of whatever epoch: its id and its body."""
    with redis(ledger) as client:
        return [(id_.decode(), fields[b"body"]) for id_, fields in client.xrange(KEY)]


@pytest.mark.parametrize("when", ["before the epoch", "before it is published", "after it is published"])
@pytest.mark.parametrize("again", [1, 2])
def test_copies_of_an_epoch_that_is_over_go_too(ledger: Ledger, relay: Relay, when: str, again: int) -> None:
    """`relay --once --new-epoch`, which never looks back: nothing of a former epoch stays, erased or not."""
    secret = "the erased secret"
    ledger.append_many(events(3))
    ledger.append(event(3, after={"secret": secret}))
    relay.publish()
    if when == "before the epoch":
        ledger.erase(4, "user:dpo", "asked for")
    for _ in range(again):
        ledger.run(open_epoch(ledger.ref))
        relay.publish()
    if when == "before it is published":
        ledger.run(open_epoch(ledger.ref))
        ledger.erase(4, "user:dpo", "asked for")
    relay.publish()
    if when == "after it is published":
        ledger.erase(4, "user:dpo", "asked for")
        relay.publish()
    kept = everything_in(ledger)
    assert len({id_.partition("-")[0] for id_, _ in kept}) == 1, kept
    assert not any(secret.encode() in body for _, body in kept)
    assert checked(ledger)[3].erased


def test_an_epoch_that_is_over_goes_though_the_new_one_has_nothing(ledger: Ledger, relay: Relay) -> None:
    ledger.append_many(events(250))
    relay.publish()
    with redis(ledger) as client:
        client.delete(KEY)
        client.xadd(KEY, {b"envelope": b"{}", b"body": b"of a database that was restored", b"hash": b""}, id="1-900")
    ledger.run(open_epoch(ledger.ref))
    relay.trim()
    assert everything_in(ledger) == []
    assert relay.publish() == 250


def test_a_relay_that_dies_before_or_after_publishing_an_erasure(ledger: Ledger, relay: Relay) -> None:
    """The deletion is in the script that publishes the erasure: there is no between."""
    ledger.append_many(events(3))
    relay.publish()
    ledger.erase(2, "user:dpo", "asked for")
    Relay(Connector(ledger.settings)).publish()
    assert sorted(published(ledger)) == [1, 3, 4]
    assert relay.publish() == 0


# ---------------------------------------------------------------------------------------------------------- its readers


def holed(ledger: Ledger, relay: Relay, *erased: int, count: int = 12) -> None:
    """A stream with holes where these entries were erased after they had been published."""
    ledger.append_many(events(count))
    relay.publish()
    for position in erased:
        ledger.erase(position, "user:dpo", "asked for")
    relay.publish()
    assert not set(erased) & set(published(ledger))


@pytest.mark.parametrize("erased", [(1,), (5,), (12,), (1, 2, 3), (4, 5, 9), tuple(range(1, 13))])
def test_followers_take_erased_entries_from_postgres(ledger: Ledger, relay: Relay, erased: tuple[int, ...]) -> None:
    holed(ledger, relay, *erased)
    entries = checked(ledger)
    assert list(ledger.follow(after=0, idle=0.2)) == entries
    assert list(ledger.follow(after=4, idle=0.2)) == entries[4:]
    assert [entry.position for entry in entries if entry.erased] == list(erased)


def test_an_async_follower_too(ledger: Ledger, relay: Relay) -> None:
    holed(ledger, relay, 5)

    async def follow() -> list[Entry]:
        async with AsyncLedger(ledger.settings) as opened:
            return [entry async for entry in opened.follow(after=0, idle=0.2)]

    assert asyncio.run(follow()) == checked(ledger)


def taken(ledger: Ledger, group: str, **options: Any) -> list[Entry]:
    found = []
    for delivery in ledger.subscribe(group, **({"after": 0, "idle": 0.3} | options)):
        found.append(delivery.entry)
        delivery.ack()
    return found


@pytest.mark.parametrize("erased", [(1,), (5,), (12,), (1, 2, 3), (4, 5, 9), tuple(range(1, 13))])
def test_a_new_group_is_handed_out_erased_entries_too(ledger: Ledger, relay: Relay, erased: tuple[int, ...]) -> None:
    holed(ledger, relay, *erased)
    entries = checked(ledger)
    assert taken(ledger, "all") == entries
    assert taken(ledger, "later", after=4) == entries[4:]
    assert taken(ledger, "all") == []


def test_what_was_acknowledged_is_not_handed_out_again_when_it_is_erased(ledger: Ledger, relay: Relay) -> None:
    ledger.append_many(events(5))
    relay.publish()
    assert len(taken(ledger, "mailer")) == 5
    ledger.erase(5, "user:dpo", "asked for")
    relay.publish()
    assert [entry.position for entry in taken(ledger, "mailer")] == [6]


def test_erased_while_a_consumer_holds_it(ledger: Ledger, relay: Relay) -> None:
    """The consumer died over entries 1 to 5, of which 2 is erased meanwhile: another one gets all of them."""
    ledger.append_many(events(5))
    relay.publish()
    assert next(iter(ledger.subscribe("mailer", after=0, consumer="one", idle=1))).entry.position == 1
    ledger.erase(2, "user:dpo", "asked for")
    relay.publish()
    time.sleep(0.1)
    found = taken(ledger, "mailer", consumer="two", claim_after=0.05)
    assert sorted({entry.position for entry in found}) == [1, 2, 3, 4, 5, 6]
    assert all(entry.erased for entry in found if entry.position == 2)


def test_consumers_of_one_group_share_what_was_erased(ledger: Ledger, relay: Relay) -> None:
    """Each erased entry is handed out by one of them."""
    holed(ledger, relay, *range(3, 150, 7), count=150)
    found: list[int] = []

    def consume() -> None:
        with Ledger(ledger.settings) as opened:
            found.extend(entry.position for entry in taken(opened, "mailer"))

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 150 + len(range(3, 150, 7)) + 1))


def test_a_group_cannot_begin_where_the_stream_was_trimmed(ledger: Ledger, relay: Relay) -> None:
    """A hole of erased entries is no such place, one entry more is."""
    holed(ledger, relay, 1, 2)
    with redis(ledger) as client:
        client.xtrim(KEY, minid="1-4", approximate=False)
    with pytest.raises(Exception, match="the stream begins at position 4"):
        taken(ledger, "mailer")
    assert taken(ledger, "mailer", after=3)[0].position == 4


# ------------------------------------------------------------------------------------------------------------ the views


def live_is_a_replay(ledger: Ledger, admin: psycopg.Connection, views: Iterable[type[Projection]] = BUILT_IN) -> None:
    for view in views:
        live = rows(admin, view.name)
        rebuild(ledger.settings, view())
        assert rows(admin, view.name) == live, view.name
        assert live


@pytest.mark.parametrize("seed", range(4))
def test_views_are_as_if_replayed(ledger: Ledger, admin: psycopg.Connection, seed: int) -> None:
    """Entries and erasures in any order, applied in batches of any size, one of them in the midst of a rebuild's."""
    fate = random.Random(seed)
    with projector(ledger) as running:
        number = 0
        for _ in range(12):
            more = fate.randrange(1, 30)
            ledger.append_many(some_events(more, number))
            number += more
            if fate.random() < 0.7:
                running.catch_up()
            for _ in range(fate.randrange(4)):
                position = fate.randrange(1, ledger.tail().position + 1)
                [entry] = ledger.read(position - 1, 1)
                if not entry.action.startswith("ledger.") and not entry.erased:
                    ledger.erase(position, "user:dpo", "asked for")
                if fate.random() < 0.3:
                    running.catch_up()
        running.catch_up()
        assert not running.failed
    live_is_a_replay(ledger, admin)
    assert ledger.verify().ok


def test_what_the_views_say_after_an_erasure(ledger: Ledger) -> None:
    about: dict[str, Any] = {"resource_type": "customer", "resource_id": "c_1"}
    ledger.append(Event("user:1", "customer.created", after={"name": "Quillfeather", "plan": "free"}, **about))
    ledger.append(Event("user:1", "customer.changed", before={"plan": "free"}, after={"plan": "pro"}, **about))
    ledger.append(Event("user:1", "customer.changed", after={"phone": "555-0199"}, **about))
    project(ledger)
    assert len(ledger.run(search(ledger.ref, text="quillfeather")).entries) == 1
    ledger.erase(1, "user:dpo", "asked for")
    project(ledger)
    found = ledger.run(state(ledger.ref, "customer", "c_1"))
    assert found is not None
    assert (found.state, found.deleted, found.entries) == ({"plan": "pro", "phone": "555-0199"}, False, 3)
    [first, *others] = ledger.run(history(ledger.ref, "customer", "c_1"))
    assert (first.changes_json, [len(each.changes) for each in others]) == (None, [1, 1])
    assert ledger.run(search(ledger.ref, text="quillfeather")).entries == []
    assert [entry.position for entry in ledger.run(search(ledger.ref, text="customer created")).entries] == [1]
    # The entry that made the deletion known is erased: nothing says any more that it was deleted.
    ledger.append(Event("user:1", "customer.deleted", before={"plan": "pro"}, **about))
    project(ledger)
    ledger.erase(5, "user:dpo", "asked for")
    project(ledger)
    found = ledger.run(state(ledger.ref, "customer", "c_1"))
    assert found is not None
    assert (found.state, found.deleted) == ({"plan": "pro", "phone": "555-0199"}, False)


class Names(Projection):
    """A user's own: what each resource was called, and how often its hook was asked."""

    name = "names"
    version = 1
    tables: ClassVar[tuple[str, ...]] = ("names", "calls")
    schema = """
        create table names (ledger_id int, position bigint, name text, primary key (ledger_id, position));
        create table calls (ledger_id int, position bigint, others bigint[], primary key (ledger_id, position))
    """

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        for entry in entries:
            if entry.after is not None:
                tx.execute("insert into names values (%s, %s, %s)", (ledger_id, entry.position, entry.after["name"]))

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        tx.execute("delete from names where ledger_id = %s and position = %s", (ledger_id, entry.position))
        others = [each.position for each in about]
        tx.execute("insert into calls values (%s, %s, %s)", (ledger_id, entry.position, others))
        assert entry.erased
        assert entry.action != "poison"


def test_a_projection_of_ones_own(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Its hook gets the entry as it is now and all about its resource, up to the erasure."""
    for number in range(1, 5):
        resource = None if number == 3 else "person"
        ledger.append(Event("user:1", "x", resource, resource and "p", after={"name": f"name {number}"}))
    project(ledger, [Names()])
    ledger.erase(2, "user:dpo", "asked for")  # 5
    ledger.append(Event("user:1", "x", "person", "p", after={"name": "name 6"}))
    ledger.erase(3, "user:dpo", "asked for")  # 7
    project(ledger, [Names()])
    assert rows(admin, "names") == [f'(1,{n},"name {n}")' for n in (1, 4, 6)]
    assert rows(admin, "calls") == ['(1,2,"{1,2,4}")', "(1,3,{})"]
    live_is_a_replay(ledger, admin, [Names])


def test_a_hook_that_fails_stops_its_view_before_the_erasure(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(Event("user:1", "poison", after={"name": "a"}))
    project(ledger, [Names()])
    ledger.erase(1, "user:dpo", "asked for")
    with projector(ledger, [Names(), Timeline()]) as running:
        running.catch_up()
        [failed] = running.failed
        assert (failed.name, failed.position) == ("names", 2)
    positions = admin.execute("select name, position from ledger.projections order by 1").fetchall()
    assert positions == [("names", 1), ("timeline", 2)]
    assert rows(admin, "names") == ["(1,1,a)"]


def test_a_state_of_many_pages(ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.projection.apply.ABOUT", 7)
    ledger.append_many(
        Event("user:1", "x", "counter", "c", after={f"field {number % 13}": number}) for number in range(40)
    )
    project(ledger, [ResourceState()])
    for position in (40, 1, 33):
        ledger.erase(position, "user:dpo", "asked for")
    project(ledger, [ResourceState()])
    found = ledger.run(state(ledger.ref, "counter", "c"))
    assert found is not None
    expected: dict[str, int] = {}
    for number in range(40):
        if number + 1 not in (40, 1, 33):
            expected[f"field {number % 13}"] = number
    assert found.state == expected
    live_is_a_replay(ledger, admin, [ResourceState])


# ----------------------------------------------------------------------------------------------------------- end to end

SECRETS = (b"quillfeather", b"zoraya", b"7f3a91e0c4")
"""In small letters, as the raw data is searched: some views split a text into words."""


def personal(number: int) -> Event:
    return Event(
        "user:1",
        "customer.changed",
        "customer",
        f"c_{number % 3}",
        before={"name": "Zoraya 7f3a91e0c4"},
        after={"name": "Quillfeather", "zoraya": "key", "plan": number},
        metadata={"from": "7f3a91e0c4"},
    )


def tables_with(admin: psycopg.Connection, text: bytes) -> list[str]:
    """Every table of the database, the catalogs with their statistics too, that holds the text in any column."""
    tables = admin.execute(
        "select format('%I.%I', nspname, relname) from pg_class join pg_namespace as n on n.oid = relnamespace"
        " where relkind in ('r', 'm', 'p', 't') and relpersistence <> 't'"
    ).fetchall()
    found = []
    for (table,) in tables:
        if table.startswith("pg_toast."):
            query = f"select exists (select from {table} where position(%s in chunk_data) > 0)".encode()
            [(there,)] = admin.execute(query, (text,)).fetchall()
        else:
            query = f"select exists (select from {table} as t where position(%s in lower(t::text)) > 0)".encode()
            [(there,)] = admin.execute(query, (text.decode(),)).fetchall()
        if there:
            found.append(table)
    return found


def keys_with(client: Any, text: bytes) -> list[bytes]:
    """Every key of the Redis whose content, as clients can read it, holds the text."""
    readers = {
        b"stream": client.xrange,
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return [key for key in client.scan_iter() if text in repr(readers[client.type(key)](key)).lower().encode()]


def files_with(folder: Path, text: bytes) -> list[str]:
    # -a: binary files too. grep ends with 1 where it finds nothing.
    done = subprocess.run(["grep", "-rlai", text, folder], capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.decode().splitlines()


def test_no_byte_is_left_where_an_erasure_reaches(own_servers: OwnServers, tmp_path: Path) -> None:
    """Searched for in the raw data: tables, views, the stream, exports; and on the disk, after what rewrites it."""
    settings = Settings(database_url=own_servers.database_url, redis_url=own_servers.redis_url)
    migrate(settings)
    servers = Connector(settings)
    with (
        Ledger(settings) as ledger,
        psycopg.connect(own_servers.database_url, autocommit=True) as admin,
        create_redis_connection(own_servers.redis_url) as client,
    ):
        relay = Relay(servers)
        for number in range(6):
            ledger.append(event(number, resource_type="customer", resource_id=f"c_{number % 3}"))
            ledger.append(personal(number))
        relay.publish()
        project(ledger)
        assert len(list(ledger.subscribe("mailer", after=0, idle=1))) == 12  # none is acknowledged
        admin.execute("analyze")
        data = own_servers.home / "postgres" / "base"
        for secret in SECRETS:  # the search would find it
            assert "ledger.audit_logs" in tables_with(admin, secret)
            assert "ledger_views.timeline" in tables_with(admin, secret)
            assert keys_with(client, secret) == [KEY.encode()]

        for position in range(2, 13, 2):
            ledger.erase(position, "user:dpo", "asked for")
        relay.publish()
        project(ledger)
        admin.execute("analyze")
        export(settings, tmp_path / "bundle")
        for secret in SECRETS:
            assert tables_with(admin, secret) == []
            assert keys_with(client, secret) == []
            assert files_with(tmp_path / "bundle", secret) == []

        # What remains until it is rewritten: dead rows in Postgres, marked entries in Redis' memory.
        admin.execute("vacuum full")
        admin.execute("checkpoint")
        client.delete(KEY)
        relay.trim()
        relay.publish()
        for secret in SECRETS:
            assert files_with(data, secret) == []
            assert [key for key in client.scan_iter() if secret in client.dump(key).lower()] == []
        assert ledger.verify().findings == []
        assert verify_bundle(tmp_path / "bundle").ok
        assert list(ledger.follow(after=0, idle=0.2)) == checked(ledger)
    servers.close()
