"""connection= of another kind is refused with advice; TailBusy names the caller's own open transaction."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine, orm

from ledger import AsyncLedger, Event, Ledger
from ledger.errors import TailBusy, UsageError
from tests.support.api import Api, Opener
from tests.support.helpers import checked, event

SECRET = "s3cr3t"
NOWHERE = f"127.0.0.1:1/nothing?password={SECRET}"


def refusal(ledger: Ledger, handed: Any) -> str:
    with pytest.raises(UsageError) as refused:
        ledger.append(event(), connection=handed)
    text = str(refused.value)
    assert "psycopg 3" in text and SECRET not in text
    return text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda url: f"postgresql://u:{SECRET}@h/d", r"not a text: connect with it first"),
        (lambda url: psycopg.Connection, r"not the class psycopg\.Connection"),
        (lambda url: psycopg.connect(url).cursor(), r"not psycopg\.Cursor: give cursor\.connection$"),
        (lambda url: ConnectionPool(url, open=False), r"ConnectionPool: give the connection of `with pool\.conn"),
        (
            lambda url: AsyncConnectionPool(url, open=False),
            r"async with pool\.connection\(\).*, to an AsyncLedger",
        ),
        (lambda url: ConnectionPool(url, open=False).connection(), r"give what `with` or `async with` makes of it"),
        (
            lambda url: sqlite3.connect(":memory:"),
            r"not sqlite3\.Connection: sqlite3 cannot carry the append\. Use p",
        ),
        (lambda url: 7, r"not int$"),
    ],
)
def test_what_is_no_connection(ledger: Ledger, make: Callable[[str], Any], said: str) -> None:
    handed = make(ledger.settings.database_url or "")
    try:
        assert re.search(said, refusal(ledger, handed))
    finally:
        if isinstance(connection := getattr(handed, "connection", handed), psycopg.Connection | sqlite3.Connection):
            connection.close()
    assert checked(ledger) == []


def test_sqlalchemy(ledger: Ledger) -> None:
    """What the error says works."""
    url = (ledger.settings.database_url or "").replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    session_text = r"give session\.connection\(\)\.connection\.driver_connection$"
    try:
        assert re.search("Engine: give connection.connection.driver_connection of what", refusal(ledger, engine))
        with engine.begin() as connection:
            assert re.search(r"give connection\.connection\.driver_connection$", refusal(ledger, connection))
            assert re.search(r"give connection\.driver_connection$", refusal(ledger, connection.connection))
            ledger.append(event(0), connection=connection.connection.driver_connection)
        maker = orm.sessionmaker(engine)
        assert re.search(session_text, refusal(ledger, orm.scoped_session(maker)))
        assert "driver_connection of a session" in refusal(ledger, maker)
        with maker.begin() as session:
            assert re.search(session_text, refusal(ledger, session))
            given = session.connection().connection.driver_connection
            ledger.append(event(1), connection=given)
        assert "which must be psycopg 3's" in refusal(ledger, orm.Session())
    finally:
        engine.dispose()
    assert len(checked(ledger)) == 2


@pytest.mark.parametrize("package", ["asyncpg", "psycopg2", "aiopg", "pg8000.dbapi"])
def test_other_drivers_where_they_are_installed(ledger: Ledger, package: str) -> None:
    module: Any = pytest.importorskip(package)
    url = ledger.settings.database_url
    said = f"{package.partition('.')[0]} cannot carry the append. Use psycopg 3"

    async def with_asyncpg() -> None:
        connection = await module.connect(url)
        assert said in refusal(ledger, connection)
        await connection.close()

    match package:
        case "asyncpg":
            asyncio.run(with_asyncpg())
        case "psycopg2":
            connection = module.connect(url)
            assert said in refusal(ledger, connection)
            connection.close()
        case _:
            assert said in refusal(ledger, object.__new__(module.Connection))


def test_django_where_it_is_installed(ledger: Ledger) -> None:
    conf: Any = pytest.importorskip("django.conf")
    if not conf.settings.configured:  # by another test of this process
        conf.settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}})
    django: Any = pytest.importorskip("django.db")
    assert "give connection.connection, inside transaction.atomic()" in refusal(ledger, django.connection)


def test_the_other_colour(ledger: Ledger) -> None:
    url = ledger.settings.database_url or ""

    async def crossed() -> None:
        connection = await psycopg.AsyncConnection.connect(url)
        try:
            assert "in a Ledger, not psycopg.AsyncConnection: that one belongs to an AsyncLedger" in refusal(
                ledger, connection
            )
            async with AsyncLedger.open(database_url=url) as other:
                with psycopg.connect(url) as plain, pytest.raises(UsageError, match=r"belongs to a Ledger$"):
                    await other.append(event(), connection=plain)  # type: ignore[arg-type]
                coroutine: Any = psycopg.AsyncConnection.connect(url)
                with pytest.raises(UsageError, match=r"not coroutine: await it first$"):
                    await other.append(event(), connection=coroutine)
                coroutine.close()
        finally:
            await connection.close()

    asyncio.run(crossed())


# ------------------------------------------------------------------------------------------- one's own transaction


def test_an_append_behind_ones_own_open_transaction_says_so(opener: Opener) -> None:
    api = opener(lock_timeout=0.5)
    caller = opener.connect(api)
    with caller.transaction():
        api.append(event(0), connection=caller.raw)
        with pytest.raises(TailBusy, match=r"^your own transaction \(appended to .*, backend \d+\)") as busy:
            api.append(event(1))
        assert "commit or roll it back first" in str(busy.value)
    api.append(event(2))
    # A connection of ours whose transaction appended nothing is not the holder.
    with caller.transaction():
        caller.execute("select 1")
        with psycopg.connect(api_url(api)) as other:
            other.execute("update ledger.tails set fence = fence + 1")
            with pytest.raises(TailBusy, match=r"^another transaction holds .* on a connection= that you gave\?$"):
                api.append(event(3))
    assert len(checked(api)) == 2


def api_url(api: Api) -> str:
    return str(getattr(api, "ledger", None) and api.ledger.settings.database_url)  # type: ignore[attr-defined]


def test_a_serialization_failure_says_how_to_go_on(api: Api, opener: Opener) -> None:
    caller = opener.connect(api)
    with pytest.raises(psycopg.errors.SerializationFailure) as failed, caller.transaction():
        caller.execute("set transaction isolation level repeatable read")
        caller.execute("select 1")
        api.append(event(0))
        api.append(event(1), connection=caller.raw)
    [note] = failed.value.__notes__
    assert "run the whole transaction again" in note and "docs/deploying.md" in note
    with caller.transaction():
        api.append(event(1), connection=caller.raw)
    assert len(checked(api)) == 2


@pytest.mark.parametrize(
    ("before", "kind", "said"),
    [
        ("set local lock_timeout = '100ms'", psycopg.errors.LockNotAvailable, "auditledger status"),
        ("set local statement_timeout = '300ms'", psycopg.errors.QueryCanceled, "auditledger status"),
        ("set transaction read only", psycopg.errors.ReadOnlySqlTransaction, "READ WRITE"),
    ],
)
def test_other_errors_in_the_callers_transaction_have_a_remark(
    ledger: Ledger, migrated_url: str, before: str, kind: type[psycopg.Error], said: str
) -> None:
    ledger.append(Event("user:1", "a.b"))
    with psycopg.connect(migrated_url) as holder, psycopg.connect(migrated_url) as caller:
        holder.execute("update ledger.tails set fence = fence + 1")
        caller.execute(before)
        with pytest.raises(kind) as failed:
            ledger.append(Event("user:1", "a.b"), connection=caller)
        assert said in "".join(failed.value.__notes__)
