"""Commits that wait for a synchronous standby: no receipt before it has the entry; status reports the wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest

from ledger import Ledger
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.cli import Cli
from tests.support.helpers import OwnServers, checked, event, events, eventually

STUCK = "select pid from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'auditledger'"


@pytest.fixture
def settings(own_servers: OwnServers) -> Settings:
    found = Settings(database_url=own_servers.database_url, lock_timeout=1.0)
    migrate(found)
    return found


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection]:
    """Whose own commits wait for nobody."""
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        connection.execute("set synchronous_commit = local")
        yield connection


@contextmanager
def without_standby(admin: psycopg.Connection) -> Iterator[None]:
    """Commits wait for a standby that is not there."""
    _demand(admin, "nobody")
    try:
        yield
    finally:
        _demand(admin, "")


def _demand(admin: psycopg.Connection, standbys: str) -> None:
    admin.execute(f"alter system set synchronous_standby_names = '{standbys}'".encode())
    admin.execute("select pg_reload_conf()")
    eventually(lambda: admin.execute("show synchronous_standby_names").fetchall() == [(standbys,)])


@pytest.mark.parametrize("way", ["quick", "locked"])
def test_no_receipt_without_the_standby_whatever_is_terminated(
    settings: Settings, admin: psycopg.Connection, way: str
) -> None:
    """A terminated backend leaves its entry recorded here alone. That it is there is not enough for a receipt."""
    said = event(2, id=UUID(int=2))
    with Ledger(settings) as ledger, Ledger(settings) as other, ThreadPoolExecutor(1) as executor:
        ledger.append(event(0))
        (other if way == "locked" else ledger).append(event(1))
        with without_standby(admin):
            under_way = executor.submit(ledger.append, said)
            for _ in range(2):
                eventually(lambda: admin.execute(STUCK).rowcount == 1)
                [(pid,)] = admin.execute(STUCK).fetchall()
                admin.execute("select pg_terminate_backend(%s)", (pid,))
                eventually(lambda: admin.execute(STUCK).fetchall() not in ([], [(pid,)]) or under_way.done())  # noqa: B023
                assert not under_way.done(), under_way.result()
            [found] = Cli("--database-url", settings.database_url or "").well("status", "--json").json["ledgers"]
            assert found["position"] == 3, "it is recorded here, and seen"
        receipt = under_way.result(20)
        assert receipt.position == 3
        with without_standby(admin):  # nor for one who says it again
            under_way = executor.submit(other.append, said)
            eventually(lambda: admin.execute(STUCK).rowcount == 1 or under_way.done())
            assert not under_way.done()
        assert under_way.result(20) == receipt
        assert len(checked(ledger)) == 3


def test_to_cancel_what_waits_acknowledges_it(settings: Settings, admin: psycopg.Connection) -> None:
    """That is Postgres' own; docs/operations.md says not to do it. A statement's timeout does not do it."""
    admin.execute("alter role ledger set statement_timeout = '200ms'")
    with Ledger(settings) as ledger, ThreadPoolExecutor(1) as executor:
        ledger.append(event(0))
        with without_standby(admin):
            under_way = executor.submit(ledger.append, event(1))
            eventually(lambda: admin.execute(STUCK + " and clock_timestamp() - xact_start > '1 s'").rowcount == 1)
            assert not under_way.done()
            admin.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
            assert under_way.result(20).position == 2


def test_doctor_says_what_is_waited_for(settings: Settings, admin: psycopg.Connection) -> None:
    cli = Cli("--database-url", settings.database_url or "")
    with Ledger(settings) as ledger, ThreadPoolExecutor(1) as executor:
        ledger.append(event(0))
        with without_standby(admin):
            under_way = executor.submit(ledger.append, event(1))
            eventually(lambda: admin.execute(STUCK + " and clock_timestamp() - xact_start > '1.1 s'").rowcount == 1)
            checks = {check["name"]: check for check in cli.well("doctor", "--json").json["checks"]}
            assert "waits for a synchronous standby" in cli.well("status").out
        under_way.result(20)
    for name in ("main: tail", "standbys"):
        found = checks[name]
        assert found["level"] == "warning" and "synchronous standby" in found["found"]
        assert "synchronous_standby_names" in found["advice"] and "pg_terminate_backend" not in found["advice"]


@dataclass
class Opened:
    """settings: without a Redis. other: who appends besides."""

    settings: Settings
    other: Ledger


def appended_behind(opened: Opened) -> object:
    return opened.other.append(event(5, id=UUID(int=9)))


def read_on(opened: Opened) -> object:
    with Ledger(opened.settings) as ledger:
        return [entry.position for entry in ledger.read()]


def asked_for_the_tail(opened: Opened) -> object:
    with Ledger(opened.settings) as ledger:
        return ledger.tail()


def followed(opened: Opened) -> object:
    with Ledger(opened.settings) as ledger:
        return next(ledger.follow(after=0))


def verified(opened: Opened) -> object:
    with Ledger(opened.settings) as ledger:
        return ledger.verify().ok


SHOW = (appended_behind, read_on, asked_for_the_tail, followed, verified)


@pytest.mark.parametrize("show", SHOW)
def test_nothing_is_shown_that_the_standby_does_not_have(
    settings: Settings, admin: psycopg.Connection, show: Callable[[Opened], object]
) -> None:
    """What an append has committed and not flushed yet, because it had to wait for the tail, is shown to nobody."""
    with Ledger(settings) as ledger, Ledger(settings) as other, ThreadPoolExecutor(2) as executor:
        ledger.append(event(0))
        other.append(event(1))
        with without_standby(admin):
            under_way = executor.submit(ledger.append, event(2))
            eventually(lambda: admin.execute(STUCK).rowcount == 1)
            assert admin.execute("select position from ledger.tails").fetchall() == [(3,)], "others see it"
            shown = executor.submit(show, Opened(settings, other))
            eventually(lambda: admin.execute(STUCK).rowcount == 2 or shown.done())
            assert not shown.done(), shown.result()
            assert not under_way.done()
        assert under_way.result(20).position == 3
        assert shown.result(20)


def test_what_is_known_to_be_durable_is_read_without_the_standby(settings: Settings, admin: psycopg.Connection) -> None:
    with Ledger(settings) as ledger:
        ledger.append_many(events(3))
        newest = ledger.tail()
        with without_standby(admin):
            assert ledger.tail() == newest
            assert [entry.position for entry in ledger.read()] == [1, 2, 3]
            assert [entry.position for entry in ledger.read(limit=1)] == [1]
