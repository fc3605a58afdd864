"""Nothing leaves the database before it is durable: what was handed out is there after a crash, whatever it was.

Postgres' own writer of WAL is stopped, so that a kill loses what was committed and not flushed, as a crash of the host
does.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from ledger import Ledger, create_redis_connection, testing
from ledger.checkpoints.keys import create_key
from ledger.drivers.connections import connect
from ledger.drivers.cursors import Connection
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.effects import LuaScript, Plan, Query
from ledger.errors import ConditionFailed, IdempotencyConflict, Unavailable, UnderLegalHold, UsageError
from ledger.export.bundle import export
from ledger.settings import Settings
from ledger.store import ledgers, quarantine
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.durability import SQL, Durable
from ledger.store.own_actions import holding, record_own
from ledger.stream import consumer_group, wire
from ledger.stream.consumer_group import Subscription
from ledger.stream.relay import Relay
from tests.simulation.world import family, send
from tests.support.backup import Backup
from tests.support.clusters import Cluster, Clusters
from tests.support.helpers import event, events, eventually
from tests.support.logins import Logins, user_of
from tests.support.unflushed import commit_unflushed, without_flush

T = TypeVar("T")
ID = UUID(int=1)


class Fragile:
    """A Postgres that writes WAL for nobody but those who flush. Three entries are durable."""

    def __init__(self, cluster: Cluster, redis_url: str, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.settings = Settings(database_url=cluster.url(), redis_url=redis_url)
        with Ledger(self.settings) as ledger:
            ledger.append_many(events(3))
        with psycopg.connect(cluster.url(), autocommit=True) as admin:
            admin.execute("create role auditor login password 'secret'")
            admin.execute("select ledger.grant_role('ledger_reader', 'auditor', null)")
            writer = admin.execute("select pid from pg_stat_activity where backend_type = 'walwriter'")
            [(self.writer,)] = writer.fetchall()
        send([self.writer], signal.SIGSTOP)

    def commit_unflushed(self) -> None:
        """Entry 4, which everybody sees."""
        commit_unflushed(self.settings, event(4, id=ID))
        assert self.positions() == [1, 2, 3, 4]

    def crash(self) -> None:
        """Ends all processes of Postgres at once, so that none writes anything more."""
        postmaster, *others = family(self.cluster.pid())
        send([postmaster], signal.SIGSTOP)
        send(others, signal.SIGKILL)
        send([postmaster], signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in (postmaster, *others)))
        (self.cluster.folder / "postmaster.pid").unlink()  # it names a zombie until somebody reaps that
        self.cluster.start()

    def positions(self) -> list[int]:
        with psycopg.connect(self.cluster.url()) as connection:
            rows = connection.execute("select position from ledger.audit_logs order by position").fetchall()
        return [position for (position,) in rows]


@pytest.fixture
def fragile(primary: Cluster, redis_url: str, tmp_path: Path) -> Iterator[Fragile]:
    made = Fragile(primary, redis_url, tmp_path)
    yield made
    send([made.writer], signal.SIGCONT)


# What may show entry 4 to somebody outside. Each returns once it has, and a crash comes right then.


def appended_after_it(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger:
        assert ledger.append(event(5)).position == 5


def said_again(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger:
        assert ledger.append(event(4, id=ID)).position == 4


def contradicted(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger, pytest.raises(IdempotencyConflict, match="at position 4"):
        ledger.append(event(5, id=ID))


def expected_elsewhere(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger, pytest.raises(ConditionFailed, match="stands at position 4"):
        ledger.append(event(5), expect=3)


def held(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger:
        assert ledger.hold(4, "officer", "a case").position == 5


def tail(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger:
        assert ledger.tail().position == 4


def read(fragile: Fragile) -> None:
    with Ledger(fragile.settings) as ledger:
        assert [entry.position for entry in ledger.read()] == [1, 2, 3, 4]


def followed(fragile: Fragile) -> None:
    without_redis = Settings(database_url=fragile.settings.database_url)
    with Ledger(without_redis) as ledger:
        assert [entry.position for entry in islice(ledger.follow(after=3), 1)] == [4]


def followed_from_the_end(fragile: Fragile) -> None:
    without_redis = Settings(database_url=fragile.settings.database_url)
    with Ledger(without_redis) as ledger:
        assert list(ledger.follow(idle=0)) == []


def published(fragile: Fragile) -> None:
    connector = Connector(fragile.settings)
    Relay(connector).publish()
    connector.close()
    with create_redis_connection(fragile.settings.redis_url or "") as client:
        assert client.xlen(wire.key("main")) == 4


def verified(fragile: Fragile) -> None:
    """By a user who cannot record that."""
    with Ledger.open(database_url=fragile.cluster.url(user="auditor:secret")) as ledger:
        assert ledger.verify().last == 4


def exported(fragile: Fragile) -> None:
    assert export(fragile.settings, fragile.folder / "bundle").last == 4


def signed(fragile: Fragile) -> None:
    create_key(fragile.folder / "main.key", "example.org/main")
    with Ledger(fragile.settings) as ledger:
        assert ledger.checkpoint(fragile.folder / "main.key", new_state=True).size == 4


SHOW = (
    appended_after_it, said_again, contradicted, expected_elsewhere, held, tail, read, followed,
    followed_from_the_end, published, verified, exported, signed,
)  # fmt: skip


def test_what_nobody_flushed_is_lost(fragile: Fragile) -> None:
    """Else the tests below would show nothing."""
    fragile.commit_unflushed()
    fragile.crash()
    assert fragile.positions() == [1, 2, 3]


@pytest.mark.parametrize("show", SHOW)
def test_what_was_shown_is_there_after_a_crash(fragile: Fragile, show: Callable[[Fragile], None]) -> None:
    fragile.commit_unflushed()
    show(fragile)
    fragile.crash()
    assert fragile.positions()[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize("show", [appended_after_it, said_again, held, tail, read, exported])
def test_whatever_the_role_says_of_its_commits(fragile: Fragile, show: Callable[[Fragile], None]) -> None:
    with psycopg.connect(fragile.cluster.url(), autocommit=True) as admin:
        admin.execute("alter role postgres set synchronous_commit = off")
        admin.execute("set synchronous_commit = on")
        admin.execute("create table something ()")
    fragile.commit_unflushed()
    show(fragile)
    fragile.crash()
    assert fragile.positions()[:4] == [1, 2, 3, 4]


def test_what_a_consumer_was_delivered_is_there_after_a_crash(fragile: Fragile) -> None:
    """From Postgres, because the stream ends before it."""
    connector = Connector(fragile.settings)
    Relay(connector).publish()
    connector.close()
    with Ledger(fragile.settings) as ledger:
        deliveries = ledger.subscribe("mailer", after=2, claim_after=60)
        assert next(deliveries).entry.position == 3
        fragile.commit_unflushed()
        assert next(deliveries).entry.position == 4
        fragile.crash()
        assert fragile.positions() == [1, 2, 3, 4]


def test_the_hold_that_an_erasure_was_refused_for_is_there_after_a_crash(fragile: Fragile) -> None:
    draft = prepare(holding(3, "officer", "a case", "user"), "main", own=True)
    with Ledger(fragile.settings) as ledger:
        with closing(connect(ledger.settings)) as connection:
            assert drive(without_flush(record_own(Appender(ledger.ref), draft)), connection)
        with pytest.raises(UnderLegalHold, match="entry 3 is under the legal hold of entry 4"):
            ledger.erase(3, "user:dpo", "asked for")
    fragile.crash()
    assert fragile.positions() == [1, 2, 3, 4]


class Died(Exception):
    pass


def dying_at(plan: Plan[T], lua: str) -> Plan[T]:
    """The plan, until it has run this script: nobody hears of that."""
    effect = next(plan)
    while not (isinstance(effect, LuaScript) and effect.lua == lua):
        effect = plan.send((yield effect))
    yield effect
    raise Died


def test_what_redis_was_told_of_a_group_is_there_after_a_crash(fragile: Fragile) -> None:
    """Else another entry would come to a position that Redis has a consumer and delivery attempts of."""
    with closing(Connector(fragile.settings)) as connector, Ledger(fragile.settings) as ledger:
        Relay(connector).publish()
        options = {"after": 2, "batch_size": 10, "actions": None, "claim_after": 60, "max_tries": 5}
        subscription = Subscription(ledger.ref, Durable(), "mailer", None, **options)  # type: ignore[arg-type]
        connector.run(subscription.begin())
        [pending] = connector.run(subscription.next_pending(0.1))
        connector.run(subscription.acknowledge(pending))
        fragile.commit_unflushed()
        with pytest.raises(Died):
            connector.run(dying_at(subscription.next_pending(0.1), consumer_group._NEXT))
        fragile.crash()
        assert fragile.positions() == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------ what is known to be durable


def asked(plan: Plan[T], connection: Connection) -> tuple[list[str], T]:
    """Runs a plan of queries. The statements that it asked, by their names, and its result."""
    names = {
        SQL["flush_tails"]: "flush",
        SQL["hash_at"]: "hash_at",
        ledgers.SQL["tail"]: "tail",
        quarantine.SQL["is_chained"]: "is_chained",
    }
    noted: list[str] = []

    def noting() -> Plan[T]:
        try:
            effect = next(plan)
            while True:
                assert isinstance(effect, Query)
                noted.append(names[effect.sql])
                effect = plan.send((yield effect))
        except StopIteration as stop:
            return cast(T, stop.value)

    return noted, drive(noting(), connection)


def test_what_is_known_is_not_flushed_again(ledger: Ledger) -> None:
    ledger.append_many(events(3))
    first, _, last = ledger.read()
    durable = Durable()
    with closing(connect(ledger.settings)) as connection:
        assert asked(durable.up_to(ledger.ref, first.position, first.hash), connection)[0] == ["flush", "hash_at"]
        assert asked(durable.up_to(ledger.ref, last.position, last.hash), connection)[0] == []
        assert asked(durable.up_to(ledger.ref, first.position, first.hash), connection)[0] == ["hash_at"]
        assert asked(durable.tail(ledger.ref), connection) == (["tail"], last.tail)
        ledger.append(event(4))
        asked_of, tail = asked(durable.tail(ledger.ref), connection)
        assert (asked_of, tail.position) == (["tail", "flush"], 4)
        assert asked(durable.up_to(ledger.ref, 4, tail.hash), connection)[0] == []


def test_what_is_known_of_another_history_does_not_count(ledger: Ledger, servers: testing.TestServers) -> None:
    """The database was rolled back, and other entries came to the same positions."""
    ledger.append_many(events(2))
    backup = Backup(ledger, servers)
    ledger.append_many(events(3, 2))
    durable, ref = Durable(), ledger.ref
    with closing(connect(ledger.settings)) as connection:
        drive(durable.tail(ref), connection)
    backup.restore()
    backup.admin.close()
    with Ledger(ledger.settings) as restored, closing(connect(ledger.settings)) as connection:
        restored.append_many(events(9, 10))
        third = next(restored.read(after=2))
        asked_of, _ = asked(durable.up_to(ref, 3, third.hash), connection)
        assert asked_of == ["hash_at", "is_chained", "flush", "hash_at"]


def test_an_entry_that_is_gone_is_not_handed_out(ledger: Ledger) -> None:
    """Behind a pooler a plan may see an entry before a crash, and flush after it."""
    ledger.append_many(events(3))
    durable = Durable()
    with closing(connect(ledger.settings)) as connection:
        for position in (2, 3, 4):
            with pytest.raises(Unavailable, match=f"entry {position} .* took it back: read again"):
                drive(durable.up_to(ledger.ref, position, bytes(32)), connection)


def test_what_a_standby_does_not_have_is_not_handed_out(primary: Cluster, clusters: Clusters) -> None:
    """Behind a pooler a plan may see an entry on the primary, and ask a standby, which flushes nothing, whether it is
    durable.
    """
    with Ledger(Settings(database_url=primary.url())) as ledger:
        ledger.append_many(events(3))
    standby = clusters.known("standby")
    primary.stop()
    subprocess.run(["cp", "-a", primary.folder, standby.folder], check=True)
    (standby.folder / "standby.signal").touch()
    primary.start()
    standby.start()
    with Ledger(Settings(database_url=primary.url())) as ledger, ExitStack() as stack:
        ledger.append(event(4))
        ref = ledger.ref
        servers = [
            stack.enter_context(closing(connect(Settings(database_url=each.url())))) for each in (primary, standby)
        ]
        first, durable = iter(servers[:1]), Durable()
        assert drive(durable.tail(ref), lambda: next(first, servers[1])).position == 3
        for entry in drive(ledgers.read(ref, 0), servers[1]):
            drive(durable.up_to(ref, entry.position, entry.hash), servers[1])
        [newest] = drive(ledgers.read(ref, 3), servers[0])
        with pytest.raises(Unavailable, match=r"entry 4 .* took it back: read again"):
            drive(durable.up_to(ref, newest.position, newest.hash), servers[1])


def test_a_lone_writer_flushes_as_it_commits(ledger: Ledger) -> None:
    """It would keep nobody waiting. One who sees that others append, or does not know, frees the tail first."""
    with closing(connect(ledger.settings)) as connection:
        appender = Appender(ledger.ref)

        def flushes(number: int) -> bool:
            return drive(without_flush(appender.append_if(prepare(event(number), "main"), number)), connection)

        drive(appender.append_if(prepare(event(0), "main"), 0), connection)
        assert not flushes(1)
        assert not flushes(2)
        ledger.append(event(3))
        assert flushes(4)
        assert ledger.tail().position == 5


def test_users_without_the_right_to_flush(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """A writer's entry is committed when the flush is refused: it is looked up, and its receipt comes behind a commit.

    A reader is told what is missing.
    """
    writer, reader = login("ledger_writer"), login("ledger_reader")
    revoke_flush(admin)
    said = event(1, id=ID)
    with Ledger.open(database_url=writer) as writing:
        receipt = writing.append(said)
        assert receipt == writing.append(said)
        assert writing.append(event(2)).position == 2
    with Ledger.open(database_url=reader) as reading, pytest.raises(UsageError, match="pg_logical_emit_message"):
        list(reading.read())
    assert ledger.tail().position == 2


def revoke_flush(admin: psycopg.Connection) -> None:
    """Everybody has that right, unless an administrator takes it."""
    functions = "select oid::regprocedure::text from pg_proc where proname = 'pg_logical_emit_message'"
    for (function,) in admin.execute(functions).fetchall():
        admin.execute(f"revoke execute on function {function} from public".encode())


def test_a_read_only_user(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """A reader whose transactions are read-only by default flushes all the same."""
    reader = login("ledger_reader")
    ledger.append(event(1))
    admin.execute(
        sql.SQL("alter role {} set default_transaction_read_only = on").format(sql.Identifier(user_of(reader)))
    )
    with Ledger.open(database_url=reader) as reading:
        assert [entry.position for entry in reading.read()] == [1]
        assert reading.tail().position == 1
        assert reading.verify().last == 1
