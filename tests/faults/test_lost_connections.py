"""Lost connections, held tail locks, full pools, wrong clocks: receipts are true, nothing is recorded twice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest

from ledger import Receipt
from ledger.drivers.connections import create_redis_connection
from ledger.effects import Plan, Query
from ledger.errors import LedgerError, OutcomeUnknown, TailBusy, Unavailable
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.store import drafts
from tests.support.api import Api, AsyncApi, Opener, SyncApi
from tests.support.clusters import Cluster
from tests.support.helpers import LOCK, OwnServers, checked, event, events, numbers, race, receipt_of

TERMINATE = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where datname = current_database() and application_name = 'auditledger'"
)


def waiting_for_a_lock(admin: psycopg.Connection) -> None:
    """Returns once a backend of the ledger waits for a lock."""
    deadline = time.monotonic() + 10
    query = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not admin.execute(query).rowcount:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_connection_killed_between_appends_is_replaced(api: Api, admin: psycopg.Connection) -> None:
    receipts = [api.append(event(0))]
    for number in range(1, 4):
        assert admin.execute(TERMINATE).rowcount >= 1
        receipts.append(api.append(event(number)))
    assert receipts == [receipt_of(entry) for entry in checked(api)]
    assert numbers(checked(api)) == [0, 1, 2, 3]


def test_a_connection_killed_while_it_waits_for_the_tail_is_settled(
    api: Api, admin: psycopg.Connection, migrated_url: str
) -> None:
    api.append(event(0))
    with ThreadPoolExecutor(1) as executor, psycopg.connect(migrated_url, application_name="holder") as holder:
        holder.execute(LOCK)
        under_way = executor.submit(api.append, event(1))
        waiting_for_a_lock(admin)
        admin.execute(TERMINATE)
        waiting_for_a_lock(admin)
        holder.rollback()
        assert under_way.result(10).position == 2
    assert numbers(checked(api)) == [0, 1]


@pytest.mark.parametrize("how", ["one by one", "in batches"])
def test_no_entry_is_lost_or_doubled_whenever_connections_are_killed(
    opener: Opener, admin: psycopg.Connection, how: str
) -> None:
    """All connections are killed after every eighth receipt, whatever they are doing then."""
    apis = [opener() for _ in range(2)]
    progress = threading.Semaphore(0)

    def killer() -> int:
        killed = 0
        for _ in range(160 // 8 - 1):
            assert all(progress.acquire(timeout=20) for _ in range(8))
            killed += admin.execute(TERMINATE).rowcount
        return killed

    def caller(number: int) -> list[tuple[int, Receipt]]:
        said = []
        for step in range(40):
            it = event(number * 1000 + step, id=UUID(int=number * 1000 + step + 1))
            for _ in range(50):
                try:
                    if how == "one by one":
                        receipt = apis[number % 2].append(it)
                    else:
                        last = apis[number % 2].append_many([it] * 2).last
                        assert last is not None
                        receipt = last
                except Unavailable:  # OutcomeUnknown, or no connection lived long enough: the same id again
                    continue
                said.append((it.after["number"], receipt))
                progress.release()
                break
        return said

    with ThreadPoolExecutor(1) as executor:
        killing = executor.submit(killer)
        pairs = race(*(lambda number=number: caller(number) for number in range(4)))
        assert killing.result() >= 19
    said = [pair for each in pairs for pair in each]
    entries = checked(opener())
    assert len(said) == 160
    assert sorted(said) == sorted((entry.after["number"], receipt_of(entry)) for entry in entries)


def test_what_could_not_be_settled_names_its_ids(own_servers: OwnServers) -> None:
    """The server dies while an append waits for the tail, and stays away."""
    settings = Settings(database_url=own_servers.database_url, connect_timeout=2)
    migrate(settings)
    with Opener(SyncApi, settings) as opener, ThreadPoolExecutor(1) as executor:
        api = opener()
        api.append(event(0))
        with psycopg.connect(own_servers.database_url) as holder:
            holder.execute(LOCK)
            under_way = executor.submit(api.append, event(1, id=UUID(int=7)))
            with psycopg.connect(own_servers.database_url, autocommit=True) as admin:
                waiting_for_a_lock(admin)
            own_servers.kill_postgres()
            with pytest.raises(
                OutcomeUnknown, match=f"^the connection was lost while recording {UUID(int=7)}, and whether"
            ):
                under_way.result()
            holder.close()
        own_servers.start()
        assert api.append(event(1, id=UUID(int=7))).position == 2
        assert numbers(checked(api)) == [0, 1]


def test_a_server_that_is_away_is_said_at_once_and_nothing_was_sent(own_servers: OwnServers) -> None:
    settings = Settings(database_url=own_servers.database_url, connect_timeout=2)
    migrate(settings)
    with Opener(SyncApi, settings) as opener:
        api = opener()
        api.append(event(0))
        own_servers.stop()
        for call in (lambda: api.append(event(1)), api.read):
            with pytest.raises(Unavailable, match=r"^Postgres cannot be reached: ") as away:
                call()
            assert not isinstance(away.value, OutcomeUnknown)
        own_servers.start()
        assert numbers(checked(api)) == [0]


def test_a_standby_is_named_in_our_words_alone(primary: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """psycopg said of its own that an error was ignored while it ended a pipeline."""
    primary.stop()
    (primary.folder / "standby.signal").touch()
    primary.start()
    for kind in (SyncApi, AsyncApi):
        with Opener(kind, Settings(database_url=primary.url())) as opener:
            api = opener()
            for append in (
                lambda: api.append(event(0)),  # noqa: B023
                lambda: api.append(event(0), expect=0),  # noqa: B023
                lambda: api.append_many(events(3)),  # noqa: B023
            ):
                with pytest.raises(Unavailable, match=r"^this Postgres takes no writes .*: it is a standby"):
                    append()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("psycopg")] == []


def test_a_held_tail_is_reported_and_nothing_is_recorded(opener: Opener, migrated_url: str) -> None:
    api = opener(lock_timeout=0.2)
    api.append(event(0))
    with psycopg.connect(migrated_url) as holder:
        holder.execute(LOCK)
        for call in (
            lambda: api.append(event(1)),
            lambda: api.append_many(events(3)),
            lambda: api.append(event(1), expect=1),
        ):
            with pytest.raises(TailBusy, match=r"^another transaction holds the .*: nothing was recorded"):
                call()
        assert len(api.read()) == 1
    assert api.append(event(1)).position == 2
    assert numbers(checked(api)) == [0, 1]


def test_a_full_pool_is_reported_as_such(migrated_url: str, opener: Opener) -> None:
    if opener.kind is not SyncApi:
        pytest.skip("one pool is like the other")
    api = opener(pool_max_size=1, connect_timeout=1)
    assert isinstance(api, SyncApi)
    api.append(event(0))
    with ThreadPoolExecutor(1) as executor:
        busy = executor.submit(api.ledger.run, _nap(1.5))
        time.sleep(0.2)
        with pytest.raises(Unavailable, match=r"^all 1 connections of the pool were busy for 1 s$"):
            api.append(event(1))
        busy.result()
    assert api.append(event(1)).position == 2


def _nap(seconds: float) -> Plan[None]:
    yield Query("select pg_sleep(%s)", (seconds,))


def test_after_close_every_call_says_that_it_is_closed(opener: Opener) -> None:
    api = opener()
    api.append(event(0))
    if isinstance(api, SyncApi):
        api.close()
        for call in (lambda: api.append(event(1)), api.read, lambda: api.append_many(events(2))):
            with pytest.raises(LedgerError, match="closed"):
                call()


def test_recorded_at_follows_the_database_clock_not_ours(
    opener: Opener, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our wall clock is a day slow: only occurred_at, which is ours to say, follows it."""

    day = 86_400 * 10**9
    slow = SimpleNamespace(time_ns=lambda: time.time_ns() - day, monotonic=time.monotonic)
    monkeypatch.setattr(drafts, "time", slow)
    api = opener()
    for number in range(3):
        [(before,)] = admin.execute("select clock_timestamp()").fetchall()
        receipt = api.append(event(number))
        [(after,)] = admin.execute("select clock_timestamp()").fetchall()
        slack = timedelta(milliseconds=50)
        assert before - slack <= receipt.recorded_at <= after + slack
    assert all(entry.recorded_at - entry.occurred_at > timedelta(hours=23) for entry in checked(api))


@pytest.mark.parametrize("seconds", [-3, 3])
def test_recorded_at_follows_the_database_clock_where_it_differs(
    opener: Opener, admin: psycopg.Connection, seconds: int
) -> None:
    """To the ledger's statements the database's clock is seconds off. The trigger, which allows five, sees the true."""
    [(name,)] = admin.execute("select current_database()").fetchall()
    admin.execute("create schema off; grant usage on schema off to public")
    admin.execute(
        "create function off.clock_timestamp() returns timestamptz language sql volatile as"
        f" $$ select pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$"
    )
    admin.execute(f'alter database "{name}" set search_path = off, pg_catalog')
    if seconds < 0:  # the tail was made at the true time, and time never runs back
        admin.execute("set session_replication_role = replica")
        admin.execute("alter table ledger.tails disable trigger moved_by_entries")
        admin.execute("update ledger.tails set recorded_at = '2020-01-01Z'")
        admin.execute("alter table ledger.tails enable always trigger moved_by_entries")
    api = opener()
    for number in range(3):
        receipt = api.append(event(number))
        off = receipt.recorded_at - datetime.now(UTC)
        assert abs(off - timedelta(seconds=seconds)) < timedelta(seconds=0.5)
    assert numbers(checked(api)) == [0, 1, 2]


def test_recorded_at_never_runs_back_where_the_tail_is_ahead(opener: Opener, admin: psycopg.Connection) -> None:
    """As after the database's clock was set back by an hour."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    admin.execute("alter table ledger.tails disable trigger moved_by_entries")
    admin.execute("update ledger.tails set recorded_at = %s", [ahead])
    admin.execute("alter table ledger.tails enable always trigger moved_by_entries")
    api = opener()
    api.append(event(0))
    api.append_many(events(3, 1))
    assert {entry.recorded_at for entry in checked(api)} == {ahead}


def test_redis_away_never_fails_an_append(opener: Opener, redis_url: str) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    with create_redis_connection(nowhere) as client, pytest.raises(Exception, match=r"Connection refused|Error"):
        client.ping()
    api = opener(redis_url=nowhere)
    assert [api.append(event(number)).position for number in range(3)] == [1, 2, 3]
