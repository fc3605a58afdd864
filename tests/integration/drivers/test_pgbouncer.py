"""Everything works behind PgBouncer with its default settings, in transaction and session mode."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from ledger_projections.timeline import search
from psycopg.conninfo import conninfo_to_dict

from ledger import AsyncLedger, Ledger, Receipt, Unchanged
from ledger.checkpoints.keys import create_key
from ledger.drivers.connections import connect
from ledger.drivers.postgres import Transaction
from ledger.drivers.run import drive
from ledger.effects import Plan, Query
from ledger.errors import ConditionFailed, InvalidSetting, LedgerError, Unavailable
from ledger.migrate.migrate import load_migrations, migrate
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from tests.support.cli import Cli, process, run
from tests.support.helpers import checked, event, events, numbers, race, receipt_of
from tests.support.logins import Logins, user_of
from tests.support.pgbouncer import pgbouncer
from tests.support.views import project, some_events

ADVISORY = """
    select count(*) from pg_locks where locktype = 'advisory'
    and database = (select oid from pg_database where datname = current_database())
"""


class Way(NamedTuple):
    """A way to the test's database. mode: PgBouncer's, or "direct"."""

    mode: str
    url: str
    redis_url: str

    @property
    def settings(self) -> Settings:
        return Settings(database_url=self.url, redis_url=self.redis_url)

    def cli(self, *command: str) -> Any:
        return Cli("--database-url", self.url, "--redis-url", self.redis_url)(*command)


@pytest.fixture(params=["transaction", "session", "direct"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def way_by(mode: str, url: str, redis_url: str) -> Iterator[Way]:
    if mode == "direct":
        yield Way(mode, url, redis_url)
        return
    # In session mode each client needs a connection of its own; in transaction mode two serve all.
    with pgbouncer(url, pool_mode=mode, pool_size=2 if mode == "transaction" else 30) as pooler:
        yield Way(mode, pooler.url(url), redis_url)


@pytest.fixture
def way(mode: str, migrated_url: str, redis_url: str) -> Iterator[Way]:
    yield from way_by(mode, migrated_url, redis_url)


@pytest.fixture
def empty(mode: str, database_url: str, redis_url: str) -> Iterator[Way]:
    yield from way_by(mode, database_url, redis_url)


def test_appends_of_several_clients(way: Way) -> None:
    """The names of prepared statements collided: an append was told a position at which nothing was recorded."""
    one, two = Ledger(way.settings), Ledger(way.settings)
    connection = psycopg.connect(way.url)
    receipts = []
    for turn in range(12):
        receipts += [one.append(event(3 * turn)), two.append(event(3 * turn + 1))]
        receipts.append(one.append(event(3 * turn + 2), connection=connection))
        connection.commit()
    assert [receipt_of(entry) for entry in checked(one)] == receipts
    for client in (one, two, connection):
        client.close()


def test_all_kinds_of_appends_at_once(way: Way) -> None:
    def work(number: int) -> list[Any]:
        receipts: list[Any] = []
        with Ledger(way.settings) as ledger, psycopg.connect(way.url, autocommit=True) as connection:
            for turn in range(15):
                said = event(turn, id=UUID(int=1000 * number + turn), resource_type="a", resource_id=str(number))
                receipts.append(ledger.append(said))
                assert ledger.append(said) == receipts[-1]
                with connection.transaction():
                    receipts.append(ledger.append(event(turn), connection=connection))
                    receipts.append(ledger.append_many(events(3), connection=connection).last)
                receipts.append(ledger.append_many(events(200)).last)
                with pytest.raises(ConditionFailed):
                    ledger.append(event(turn), expect=Unchanged("a", str(number), since=0))
                receipts.append(
                    ledger.append(event(turn), expect=Unchanged("a", str(number), since=receipts[-1].position))
                )
        return receipts

    receipts = [receipt for some in race(*(lambda n=n: work(n) for n in range(1, 4))) for receipt in some]
    with Ledger(way.settings) as ledger:
        there = {(entry.position, entry.id, entry.hash, entry.recorded_at) for entry in checked(ledger)}
        assert {(each.position, each.id, each.hash, each.recorded_at) for each in receipts} <= there
        assert len(there) == 3 * 15 * (1 + 1 + 3 + 200 + 1)


def test_async(way: Way) -> None:
    async def work() -> None:
        async with AsyncLedger(way.settings) as ledger, await psycopg.AsyncConnection.connect(way.url) as connection:
            for turn in range(10):
                await asyncio.gather(*(ledger.append(event(turn)) for _ in range(5)))
                async with connection.transaction():
                    await ledger.append(event(turn), connection=connection)
                await ledger.append_many(events(50))
            assert [entry.position async for entry in ledger.read(after=550)] == list(range(551, 561))
            assert (await asyncio.to_thread(Ledger(way.settings).verify)).ok

    asyncio.run(work())


def test_the_python_api(way: Way, tmp_path: Path) -> None:
    key = tmp_path / "main.key"
    create_key(key, "example.org/main")
    with Ledger(way.settings) as ledger:
        ledger.append_many(some_events(50))
        project(ledger)
        for view in find_projections():
            rebuild(way.settings, view)
        assert len(ledger.run(search(ledger.ref, limit=10)).entries) == 10
        assert [entry.position for entry in ledger.follow(after=45, idle=0.5)] == [46, 47, 48, 49, 50]
        for delivery in ledger.subscribe("mailer", idle=0.5):
            delivery.ack()
        assert ledger.hold(("invoice", "x"), "user:1", "case 7").position == 51
        assert ledger.release(("invoice", "x"), "user:1", "case 7").position == 52
        first = ledger.erase(1, "user:1", "asked")
        assert ledger.erase(1, "user:1", "asked") == first
        ledger.checkpoint(str(key))
        assert ledger.prove(5).encode()
        assert ledger.verify(workers=2).ok
        assert ledger.tail().position == 53
        project(ledger)
        ledger.wait_for(first, "timeline")


def test_every_command(way: Way, tmp_path: Path, login: Logins) -> None:
    pooled_user = user_of(login())
    key, bundle = str(tmp_path / "main.key"), str(tmp_path / "bundle")
    (tmp_path / "events").write_text(
        "".join(json.dumps({"actor": "a", "action": "b.c", "id": str(UUID(int=n))}) + "\n" for n in range(1, 400))
    )
    given = ("--actor", "user:1", "--reason", "asked")
    commands: list[tuple[str, ...]] = [
        ("migrate",), ("migrate",), ("create", "second"), ("create", "second"),
        *[("append", "--actor", "é", "--action", "x.y", "--resource", "a:1")] * 7,
        ("import", str(tmp_path / "events")), ("import", str(tmp_path / "events")),
        ("relay", "--once"), ("project", "--once"), ("run", "--once"),
        ("tail", "-n", "3"), ("query", "--limit", "3"), ("query", "--text", "x"), ("history", "a:1"), ("state", "a:1"),
        ("activity",), ("replay", "--all"), ("erase", "3", *given), ("hold", "a:1", *given), ("release", "a:1", *given),
        ("grant", "ledger_reader", pooled_user, "--all-ledgers"), ("grant", "ledger_writer", pooled_user),
        ("revoke", "ledger_reader", pooled_user), ("revoke", "ledger_writer", pooled_user),
        ("keygen", key), ("checkpoint", "--key", key), ("checkpoint", "--key", key),
        ("prove", "5", "-o", str(tmp_path / "proof")), ("export", bundle), ("verify", "--bundle", bundle),
        ("verify", "--workers", "2"), ("status",), ("doctor",), ("run", "--once"),
    ]  # fmt: skip
    ran = [(command, way.cli(*command)) for command in commands]
    failed = [(command, each) for command, each in ran if each.code != 0]
    wrong = [
        each for each in failed if "No such" in each[1].error or "Usage" in each[1].error or each[0][0] != "doctor"
    ]
    assert wrong == []
    with Ledger(way.settings) as ledger:
        assert ledger.verify().ok


def test_migrating_twice_and_at_once(empty: Way) -> None:
    """The lock of the first migrator stayed on the pooler's connection, and the second waited for ever."""
    files = [migration.file for migration in load_migrations()]
    done = race(lambda: migrate(empty.settings), lambda: migrate(empty.settings))
    assert sorted(done) == [[], files]
    assert migrate(empty.settings) == []
    with Ledger(empty.settings) as ledger:
        assert ledger.append(event(0)).position == 1


def test_a_migrator_that_was_killed_keeps_nobody_out(empty: Way) -> None:
    with process("--database-url", empty.url, "migrate") as popen:
        time.sleep(0.7)
        popen.kill()
        popen.wait()
    began = time.monotonic()
    migrate(empty.settings)
    assert time.monotonic() - began < 40
    assert migrate(empty.settings) == []


def test_settings_and_sessions_are_left_as_they_were(way: Way, migrated_url: str) -> None:
    """Whoever is lent a session after us."""
    with Ledger(way.settings) as ledger:
        ledger.append_many(events(20))
        for number in range(8):
            ledger.append(event(number))
        ledger.append_many(some_events(30))
        project(ledger)
        rebuild(way.settings, find_projections(["timeline"])[0])
        assert ledger.verify().ok
        with psycopg.connect(migrated_url, autocommit=True) as admin:
            assert admin.execute(ADVISORY).fetchall() == [(0,)]
    if way.mode == "transaction":
        with psycopg.connect(way.url, autocommit=True, prepare_threshold=None) as other:
            assert other.execute("select name from pg_prepared_statements").fetchall() == []
            names = ["application_name", "client_encoding", "DateStyle", "TimeZone", "IntervalStyle"]
            changed = "select name from pg_settings where source = 'session' and name <> all (%s)"
            assert other.execute(changed, [names]).fetchall() == []


def test_a_server_connection_that_dies(migrated_url: str) -> None:
    """At any moment of appends: the pooler says so with SQLSTATE 08P01. Each receipt is true, each entry there once."""
    stop = threading.Event()

    def kill() -> None:
        with psycopg.connect(migrated_url, autocommit=True) as admin:
            while not stop.wait(0.15):
                admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                    " and pid <> pg_backend_pid() order by random() limit 1"
                )

    def append(ledger: Ledger, number: int) -> Receipt:
        while True:
            try:
                return ledger.append(event(number, id=UUID(int=number + 1)))
            except LedgerError:
                continue

    killer = threading.Thread(target=kill)
    killer.start()
    receipts: list[Receipt | None] = []
    try:
        with pgbouncer(migrated_url) as pooler, Ledger(Settings(database_url=pooler.url(migrated_url))) as ledger:
            for number in range(200):
                receipts.append(append(ledger, number))
                if number % 20 == 0:
                    with suppress(LedgerError):
                        receipts.append(ledger.append_many(events(500)).last)
    finally:
        stop.set()
        killer.join()
    with Ledger(Settings(database_url=migrated_url)) as ledger:
        there = {entry.position: receipt_of(entry) for entry in checked(ledger)}
        assert [there[receipt.position] for receipt in receipts if receipt] == [each for each in receipts if each]
        assert ledger.verify().ok


def test_statement_mode_is_refused_before_anything_is_done(migrated_url: str, database_url: str) -> None:
    with pgbouncer(migrated_url, pool_mode="statement") as pooler:
        for plan in (lambda: Ledger(Settings(database_url=pooler.url(migrated_url))).append(event(0)),
                     lambda: migrate(Settings(database_url=pooler.url(database_url)))):  # fmt: skip
            with pytest.raises(InvalidSetting, match=r"^the pooler before Postgres is in statement mode"):
                plan()

        async def append() -> None:
            async with AsyncLedger(Settings(database_url=pooler.url(migrated_url))) as ledger:
                await ledger.append(event(0))

        with pytest.raises(InvalidSetting, match=r"^the pooler before Postgres is in statement mode"):
            asyncio.run(append())
        assert run("--database-url", pooler.url(migrated_url), "append", "--actor", "a", "--action", "b").code == 2
    with Ledger(Settings(database_url=migrated_url)) as ledger:
        assert checked(ledger) == []


def test_a_pool_of_one_connection(migrated_url: str, redis_url: str) -> None:
    """What one connection can do is done; what needs two at once says so before it does anything, and does not hang."""
    with pgbouncer(migrated_url, pool_size=1) as pooler:
        settings = Settings(
            database_url=pooler.url(migrated_url),
            redis_url=redis_url,
            connect_timeout=2,
            lock_timeout=1,
            answer_timeout=1,
        )
        with Ledger(settings) as ledger:
            race(*(lambda: [ledger.append(event(number)) for number in range(10)] for _ in range(3)))
            ledger.append_many(events(30))
            project(ledger)
            assert ledger.verify().ok
            for work in (lambda: migrate(settings), lambda: rebuild(settings, find_projections(["timeline"])[0])):
                with pytest.raises(
                    Unavailable, match=r"^the pooler before Postgres had no second connection within 2 s"
                ):
                    work()
            with pytest.raises(
                Unavailable, match=r"no answer for 2 s after the login\. If a pooler .* default_pool_size"
            ):
                ledger.verify(workers=2)
            assert ledger.append(event(0)).position == 61
    assert migrate(Settings(database_url=migrated_url)) == []


def test_a_pool_of_one_connection_and_nothing_set(migrated_url: str) -> None:
    """Postgres ended the transaction that holds the lock before anybody had waited for long enough."""
    with pgbouncer(migrated_url, pool_size=1) as pooler:
        settings = Settings(database_url=pooler.url(migrated_url))
        for work in (lambda: migrate(settings), lambda: rebuild(settings, find_projections(["timeline"])[0])):
            with pytest.raises(Unavailable, match=r"^the pooler before Postgres had no second connection within 5 s"):
                work()


def test_fewer_clients_than_wanted(migrated_url: str, redis_url: str) -> None:
    """A Ledger makes do with the connections that it gets; who gets none is told why, and what to do."""
    with pgbouncer(migrated_url, max_client_conn=3) as pooler:
        settings = Settings(database_url=pooler.url(migrated_url), redis_url=redis_url, connect_timeout=3)
        with Ledger(settings) as ledger:
            race(*(lambda: [ledger.append(event(number)) for number in range(10)] for _ in range(8)))
            project(ledger)
            assert ledger.tail().position == 80
        with psycopg.connect(settings.database_url or ""), psycopg.connect(settings.database_url or ""):
            for command in ("replay timeline", "migrate", "verify --workers 3"):
                ran = Cli("--database-url", str(settings.database_url))(*command.split())
                assert ran.code == 3 and "max_client_conn" in ran.error and "LEDGER_POOL_MAX_SIZE" in ran.error, ran


def test_options_that_the_pooler_refuses(migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a service's: they are sent, because its owner said so."""
    with pgbouncer(migrated_url) as pooler:
        said = conninfo_to_dict(pooler.url(migrated_url))
        lines = "".join(f"{name}={value}\n" for name, value in said.items())
        (tmp_path / "services").write_text(f"[pooled]\n{lines}[other]\n{lines}options=-c statement_timeout=5s\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        with Ledger(Settings(database_url="service=pooled")) as ledger:
            assert ledger.append(event(1)).position == 1
        monkeypatch.setenv("PGSERVICE", "other")
        refused = pytest.raises(Unavailable, match=r"parameter: options.* PGOPTIONS .*ignore_startup_parameters")
        with Ledger(Settings(database_url="postgresql://")) as ledger, refused:
            ledger.append(event(2))


def test_two_rebuilds_that_wait_for_each_others_connection(migrated_url: str) -> None:
    """Each holds one of the pool's two; neither would ever get a second one."""
    with pgbouncer(migrated_url, pool_size=2) as pooler, psycopg.connect(pooler.url(migrated_url)) as other:
        other.execute("select 1")
        settings = Settings(database_url=pooler.url(migrated_url), lock_timeout=1, answer_timeout=1)
        with pytest.raises(Unavailable, match=r"^the pooler before Postgres had no second connection"):
            rebuild(settings, find_projections(["timeline"])[0])
        other.rollback()
        assert rebuild(settings, find_projections(["timeline"])[0]) == 0


def test_commands_of_its_console(migrated_url: str, redis_url: str) -> None:
    """RECONNECT and PAUSE are waited out; a client that was cut off by KILL is settled."""
    with pgbouncer(migrated_url) as pooler, Ledger(Settings(database_url=pooler.url(migrated_url))) as ledger:
        name = migrated_url.rpartition("/")[2]
        assert ledger.append(event(0)).position == 1
        pooler.tell("RECONNECT")
        assert ledger.append(event(1)).position == 2
        pooler.tell("PAUSE")
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(ledger.append, event(2))
            time.sleep(1)
            pooler.tell("RESUME")
            assert waiting.result(30).position == 3
        pooler.tell(f"KILL {name}")
        pooler.tell(f"RESUME {name}")
        while True:
            try:
                ledger.append(event(3, id=UUID(int=3)))
                break
            except LedgerError:
                time.sleep(0.2)
        assert numbers(checked(ledger)) == [0, 1, 2, 3]


def test_what_the_pooler_is_asked_for(way: Way) -> None:
    connection = connect(way.settings)
    assert connection.direct is (way.mode == "direct")
    for _ in range(10):
        drive(_select(), connection)
    with connection.transaction():
        Transaction(connection).execute("create temp table things (id int) on commit drop")
        Transaction(connection).execute_many("insert into things values (%s)", [(1,), (2,), (3,)])
    drive(_select(), connection)
    names = connection.execute("select count(*) > 0 from pg_prepared_statements").fetchall()
    assert names == [(way.mode == "direct",)]
    connection.close()


def _select() -> Plan[Any]:
    return (yield Query("select %s::int", (1,)))
