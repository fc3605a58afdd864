"""A network cut silently, and a server that hangs: detected within seconds, reported, recovered from.

stalled: whatever is sent is acknowledged and never answered, as by a stopped server. unplugged: no packet is.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ledger import Ledger, OutcomeUnknown, Plan, Query, Unavailable
from ledger.drivers.connections import connect
from ledger.drivers.run import drive
from ledger.errors import ConnectionLost
from ledger.migrate.migrate import SQL, migrate
from ledger.settings import Settings
from ledger.store.ledgers import BEGIN
from ledger.store.locks import take
from tests.support.api import Api, Opener
from tests.support.cli import ended, process
from tests.support.helpers import LOCK, OwnServers, checked, event, events, numbers
from tests.support.outcome import LIMIT, Note, check_all
from tests.support.proxy import Proxy
from tests.support.worker import projected, published, seconds_until


def fast(settings: Settings) -> Settings:
    """Seconds instead of 10, 5 and 5."""
    return replace(settings, lock_timeout=1.0, answer_timeout=1.0, connect_timeout=2.0)


def through(settings: Settings, *, postgres: Proxy | None = None, redis: Proxy | None = None) -> Settings:
    """By way of proxies."""
    database_url, redis_url = settings.database_url or "", settings.redis_url or ""
    return replace(
        settings,
        database_url=postgres.url(database_url) if postgres else database_url,
        redis_url=redis.url(redis_url) if redis else redis_url,
    )


@pytest.fixture
def postgres(migrated_url: str) -> Iterator[Proxy]:
    with Proxy.to(migrated_url) as proxy:
        yield proxy


@pytest.fixture
def redis(redis_url: str) -> Iterator[Proxy]:
    with Proxy.to(redis_url) as proxy:
        yield proxy


@pytest.fixture(params=["stalled", "unplugged"])
def cut(request: pytest.FixtureRequest) -> Callable[[Proxy], object]:
    return Proxy.stall if request.param == "stalled" else Proxy.unplug


# ------------------------------------------------------------------------------------------------------------ appends


@pytest.fixture
def far(opener: Opener, postgres: Proxy) -> Api:
    """Reaches Postgres by way of the proxy."""
    opener.settings = fast(opener.settings)
    return opener(database_url=through(opener.settings, postgres=postgres).database_url)


def test_an_append(
    far: Api, opener: Opener, postgres: Proxy, cut: Callable[[Proxy], object], record_property: Note
) -> None:
    """It ends in time, says whether it may have been recorded, and can be said again once the network is back."""
    assert far.append(event(0)).position == 1
    cut(postgres)
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match=f"while recording {UUID(int=1)}, and whether") as failed:
        far.append(event(1, id=UUID(int=1)))
    record_property("append failed after seconds", round(time.monotonic() - began, 1))
    assert isinstance(failed.value.__cause__, ConnectionLost) or isinstance(failed.value.__context__, ConnectionLost)
    with pytest.raises(Unavailable, match="cannot be reached") as failed_at_once:
        far.append_many(events(3, 2))
    assert not isinstance(failed_at_once.value, OutcomeUnknown)
    record_property("two appends failed after seconds", round(time.monotonic() - began, 1))
    assert time.monotonic() - began < LIMIT
    postgres.heal()
    assert far.append(event(1, id=UUID(int=1))).position == 2
    assert far.append_many(events(3, 2)).count == 3
    assert numbers(checked(opener())) == [0, 1, 2, 3, 4]


def test_a_backend_that_hangs(own_servers: OwnServers, record_property: Note) -> None:
    """Others work, so the append is settled: its receipt comes late, and is true. Woken, it records nothing."""
    settings = fast(Settings(database_url=own_servers.database_url))
    migrate(settings)
    with Ledger(settings) as ledger, psycopg.connect(own_servers.database_url, autocommit=True) as admin:
        ledger.append(event(0))
        [(pid,)] = admin.execute("select pid from pg_stat_activity where application_name = 'auditledger'").fetchall()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert ledger.append(event(1)).position == 2
            record_property("settled after seconds", round(time.monotonic() - began, 1))
        finally:
            os.kill(pid, signal.SIGCONT)
        seconds_until(lambda: not admin.execute("select from pg_stat_activity where pid = %s", [pid]).rowcount)
        assert ledger.append(event(2)).position == 3
        assert numbers(checked(ledger)) == [0, 1, 2]


@pytest.mark.parametrize("unlimited", [False, True])
def test_a_query_of_the_callers_own(ledger: Ledger, postgres: Proxy, unlimited: bool, record_property: Note) -> None:
    """It may take any time, so only the kernel can end it, once nothing is acknowledged any more."""
    settings = fast(through(ledger.settings, postgres=postgres))
    with Ledger(settings) as far, ThreadPoolExecutor(1) as executor:
        assert far.run(_asking("select 1")) == [(1,)]
        assert far.run(_asking("select 1 from pg_sleep(4)")) == [(1,)]  # longer than lock and answer may take
        under_way = executor.submit(far.run, _asking("select pg_sleep(60)" if unlimited else "select 1"))
        if unlimited:
            time.sleep(1)  # it is acknowledged: the kernel has to ask whether the other side is still there
            postgres.unplug()
        else:
            under_way.result(LIMIT)
            postgres.unplug()
            under_way = executor.submit(far.run, _asking("select 1"))
        began = time.monotonic()
        with pytest.raises(ConnectionLost):
            under_way.result(LIMIT)
        record_property("the kernel noticed after seconds", round(time.monotonic() - began, 1))
        postgres.heal()
        assert far.run(_asking("select 1")) == [(1,)]


def _asking(query: str, begin: bool = False) -> Plan[list[Any]]:
    if begin:
        yield BEGIN
    rows: list[Any] = yield Query(query)
    return rows


# --------------------------------------------------------------------------------------------------- those who wait


@pytest.mark.parametrize("where", ["between two statements", "in a COPY", "with a lock"])
def test_a_host_that_is_gone_with_what_it_holds(
    ledger: Ledger, postgres: Proxy, where: str, record_property: Note
) -> None:
    """Postgres gives up what the other side does not acknowledge: the lock of the tail, or of a migration."""
    settings = through(ledger.settings, postgres=postgres)
    ledger.append(event(0))
    connection = connect(settings)
    if where == "with a lock":
        assert drive(take(Query(SQL["lock"])), connection)
    else:
        drive(_asking(LOCK, begin=True), connection)
    copy = connection.cursor().copy("copy ledger.subscriptions from stdin")
    if where == "in a COPY":
        copy.__enter__()
    postgres.unplug()
    began = time.monotonic()
    if where == "with a lock":
        with process("--database-url", ledger.settings.database_url or "", "migrate") as popen:
            assert ended(popen, 2 * LIMIT).code == 0
    else:
        seconds_until(lambda: _appends(ledger, event(1)))
    record_property("freed after seconds", round(time.monotonic() - began, 1))
    connection.pgconn.finish()


def _appends(ledger: Ledger, said: Any) -> bool:
    try:
        return ledger.append(said).position == 2
    except Unavailable:
        return False


# ------------------------------------------------------------------------------------------------------------ workers


@contextmanager
def running(settings: Settings) -> Iterator[Callable[[], str]]:
    """`run` as a process; what it has said so far."""
    urls = ("--database-url", settings.database_url or "", "--redis-url", settings.redis_url or "")
    with process(*urls, "run") as popen:
        said: list[str] = []
        assert popen.stderr is not None
        reader = threading.Thread(target=lambda: said.extend(iter(popen.stderr.readline, "")))  # type: ignore[union-attr]
        reader.start()
        seconds_until(lambda: any("stops" in line for line in said))
        yield lambda: "".join(said)
        popen.kill()
        reader.join()


@pytest.mark.parametrize("which", ["postgres", "redis"])
def test_run(
    ledger: Ledger,
    admin: psycopg.Connection,
    postgres: Proxy,
    redis: Proxy,
    cut: Callable[[Proxy], object],
    which: str,
    record_property: Note,
) -> None:
    """Relay and projections say that a server is away, and go on when it is back; without Redis the views go on."""
    proxy = postgres if which == "postgres" else redis
    with running(through(ledger.settings, postgres=postgres, redis=redis)) as said:
        ledger.append_many(events(50))
        seconds_until(lambda: published(ledger) == projected(admin) == 50)
        cut(proxy)
        slowest = 0.0
        for number in range(50, 60):
            began = time.monotonic()
            ledger.append(event(number))
            slowest = max(slowest, time.monotonic() - began)
        record_property("slowest append meanwhile, seconds", round(slowest, 3))
        if which == "redis":
            record_property("projected without Redis after seconds", seconds_until(lambda: projected(admin) == 60))
        record_property("noticed after seconds", seconds_until(lambda: "trying again" in said()))
        assert published(ledger) == 50
        time.sleep(3)  # long enough for attempts to connect that find nobody
        proxy.heal()
        record_property("taken up again after seconds", seconds_until(lambda: published(ledger) == 60))
        seconds_until(lambda: projected(admin) == 60)
    check_all(ledger)


def test_following_and_subscribing(ledger: Ledger, redis: Proxy, cut: Callable[[Proxy], object]) -> None:
    """A follower goes on with Postgres; a consumer waits for Redis, and nothing is lost to it."""
    settings = fast(through(ledger.settings, redis=redis))
    ledger.append_many(events(10))
    with running(ledger.settings), Ledger(settings) as far:
        followed = far.follow(after=0)
        assert [next(followed).position for _ in range(10)] == list(range(1, 11))
        subscribed = far.subscribe("mailer", after=0, claim_after=2.0)
        for position in range(1, 6):
            delivery = next(subscribed)
            assert delivery.entry.position == position
            delivery.ack()
        cut(redis)
        ledger.append_many(events(10, 10))
        began = time.monotonic()
        assert [next(followed).position for _ in range(10)] == list(range(11, 21))
        assert time.monotonic() - began < LIMIT
        threading.Timer(5.0, redis.heal).start()
        handed: set[int] = set()
        while len(handed) < 15:
            delivery = next(subscribed)
            handed.add(delivery.entry.position)
            _acknowledge(delivery)
        assert handed == set(range(6, 21))


def _acknowledge(delivery: Any) -> None:
    try:
        delivery.ack()
    except Unavailable:
        return  # it comes again


# ----------------------------------------------------------------------------------------------------------- settings


def shown(settings: Settings) -> tuple[tuple[str, ...], int]:
    """Of a transaction: what Postgres was asked for; and after how many milliseconds our kernel gives up."""
    with closing(connect(settings)) as connection:
        names = ("lock_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout", "TimeZone")
        showing = ", ".join(f"current_setting('{name}')" for name in names)
        [row] = drive(_asking(f"select {showing}", begin=True), connection)
        with socket.socket(fileno=os.dup(connection.fileno())) as link:
            return row, link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_settings_of_a_transaction(migrated_url: str) -> None:
    """How long it may be silent is for the URL to say; how long it waits for a lock, and the time zone, are not."""
    assert shown(Settings(database_url=migrated_url)) == (("10s", "8s", "10000", "UTC"), 10_000)
    theirs = "?tcp_user_timeout=7000&options=-c%20idle_in_transaction_session_timeout%3D77s%20-c%20TimeZone%3DCET"
    assert shown(Settings(database_url=migrated_url + theirs)) == (("10s", "77s", "10000", "UTC"), 7_000)


def test_no_setting_outlasts_its_transaction(migrated_url: str) -> None:
    """Whoever a pooler lends the session next must find it as it was."""
    with closing(connect(Settings(database_url=migrated_url))) as connection:
        changed = "select name from pg_settings where source = 'session' order by name"
        before = drive(_asking(changed), connection)
        drive(_asking("commit", begin=True), connection)
        assert drive(_asking(changed), connection) == before == []
