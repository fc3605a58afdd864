"""What is recorded is in the ledger if and only if its transaction commits, whoever else works at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ledger import Ledger, testing
from ledger.capture import audit_context, bind
from ledger.capture.sealer import Sealer
from ledger.contrib.sqlalchemy import Policy, capture
from ledger.drivers.pools import Connector
from ledger.errors import InvalidEvent, UsageError
from ledger.settings import Settings
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Customer, Invoice, Seat
from tests.support.logins import logins


def _resources(database: Database) -> list[str]:
    return [each.resource_id for each in database.recorded()]


def _seat(row: int) -> Seat:
    return Seat(row=row, place="a")


def test_nothing_stays_of_what_is_rolled_back(database: Database, sessions: Sessions) -> None:
    def fail(session: Session) -> None:
        session.add(_seat(1))
        session.flush()
        raise RuntimeError

    def savepoints(session: Session) -> None:
        session.add(_seat(2))
        with pytest.raises(RuntimeError), session.begin_nested():
            fail(session)
        with session.begin_nested():
            session.add(_seat(3))
        inner = session.begin_nested()
        session.execute(update(Seat).values(taken_by="x"))
        inner.rollback()

    def roll_back(session: Session) -> None:
        session.add(_seat(4))
        session.flush()
        session.rollback()
        session.add(_seat(5))

    with sessions.capture(Seat):
        with pytest.raises(RuntimeError):
            sessions.transact(fail)
        assert database.recorded() == []
        sessions.transact(savepoints)
        recorded = database.recorded()
        assert [each.resource_id for each in recorded] == ["2,a", "3,a"]
        assert recorded[0].metadata["tx"] == recorded[1].metadata["tx"]
        sessions.transact(roll_back)
        assert _resources(database) == ["5,a"]


def test_a_retry_after_a_serialization_failure_records_once(database: Database, sessions: Sessions) -> None:
    def take(session: Session, name: str) -> None:
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        seat = session.get_one(Seat, (1, "a"))
        if name == "loser":
            sessions_of_others.transact(lambda other: other.execute(update(Seat).values(taken_by="winner")), "user:1")
        seat.taken_by = f"{seat.taken_by} then {name}"

    sessions.transact(lambda session: session.add(_seat(1)))
    sessions_of_others = Sessions("psycopg sync", database.url, sessions.runner)
    with sessions.capture(Seat), sessions_of_others.capture(Seat):
        with pytest.raises(Exception, match="could not serialize"):
            sessions.transact(lambda session: take(session, "loser"), "user:2")
        sessions.transact(lambda session: take(session, "retry"), "user:2")
    sessions_of_others.close()
    assert [(each.actor, each.before, each.after) for each in database.recorded()] == [
        ("user:1", {"taken_by": None}, {"taken_by": "winner"}),
        ("user:2", {"taken_by": "winner"}, {"taken_by": "winner then retry"}),
    ]


def test_the_actor_is_required_or_unknown_by_policy(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Seat):
        with pytest.raises(InvalidEvent, match="actor"):
            sessions.transact(lambda session: session.add(_seat(1)), actor=None)
        with pytest.raises(InvalidEvent, match="actor"):
            sessions.transact(lambda session: session.execute(insert(Seat).values(row=1, place="a")), actor=None)
    with sessions.capture(Seat, policy=Policy(no_actor="unknown")):
        sessions.transact(lambda session: session.add(_seat(2)), actor=None)
        sessions.transact(lambda session: session.add(_seat(3)), actor="user:7")
    assert [(each.actor, each.resource_id) for each in database.recorded()] == [("unknown", "2,a"), ("user:7", "3,a")]
    rows = sessions.transact(lambda session: session.scalars(select(Seat.row).order_by(Seat.row)).all())
    assert rows == [2, 3]


def test_raw_sql_is_not_captured(database: Database, sessions: Sessions) -> None:
    """The triggers do that: test_setting.py."""
    with sessions.capture(Seat):
        sessions.transact(lambda session: session.execute(text("insert into seat values (1, 'a')")))
    assert database.recorded() == []


@pytest.fixture
def other_url(servers: testing.TestServers, template: str) -> Iterator[str]:
    with testing.database(servers.database_url, template=template) as url, logins(url) as login:
        other = Database(url, login)
        yield url
        other.close()


def test_each_database_gets_what_is_its_own(database: Database, other_url: str) -> None:
    engines = [create_engine(url.replace("postgresql:", "postgresql+psycopg:")) for url in (database.url, other_url)]
    maker = sessionmaker(binds={Seat: engines[0], Customer: engines[1]})
    with capture(maker, {Seat: None, Customer: None}), audit_context(actor="user:1"), maker.begin() as session:
        session.add_all([_seat(1), Customer(name="c")])
        session.flush()
        session.execute(update(Customer).values(name="d"))
        session.execute(update(Seat).values(taken_by="x"))
    with engines[1].begin() as connection:
        there = connection.execute(text("select action, metadata ->> 'tx' from ledger.outbox order by seq")).all()
    here = database.recorded()
    for engine in engines:
        engine.dispose()
    assert [each.action for each in here] == ["seat.created", "seat.updated"]
    assert [action for action, _ in there] == ["customer.created", "customer.updated"]
    assert len({tx for _, tx in there}) == 1 and len({each.metadata["tx"] for each in here}) == 1


def test_200_sessions_at_once_in_threads(database: Database) -> None:
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"), pool_size=8, max_overflow=0)
    registry = scoped_session(sessionmaker(engine))

    def work(number: int) -> None:
        with audit_context(actor=f"user:{number}", request={"id": f"req-{number}"}), registry() as session:
            with session.begin():
                session.add(_seat(number))
                session.flush()
                session.execute(update(Seat).where(Seat.row == number).values(taken_by=str(number)))
            registry.remove()

    with capture(registry, {Seat: None}), ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(200)))
    engine.dispose()
    _check_200(database)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_200_sessions_at_once_in_tasks(database: Database, driver: str) -> None:
    async def work(maker: Any, number: int) -> None:
        async with audit_context(request={"id": f"req-{number}"}), maker.begin() as session:
            bind(actor=f"user:{number}")
            session.add(_seat(number))
            await session.flush()
            seat = await session.get_one(Seat, (number, "a"))
            seat.taken_by = str(number)

    async def all_of_them() -> None:
        engine = create_async_engine(database.url.replace("postgresql:", f"postgresql+{driver}:"), pool_size=8)
        maker = async_sessionmaker(engine, expire_on_commit=False)
        with capture(maker, {Seat: None}):
            await asyncio.gather(*(work(maker, number) for number in range(200)))
        await engine.dispose()

    asyncio.run(all_of_them())
    _check_200(database)


def _check_200(database: Database) -> None:
    """Each has its own actor, request and transaction, and two entries."""
    recorded = database.recorded()
    assert len(recorded) == 400
    by_tx: dict[str, set[tuple[str, str, str]]] = {}
    for each in recorded:
        number = each.resource_id.partition(",")[0]
        assert (each.actor, each.metadata["request"]) == (f"user:{number}", {"id": f"req-{number}"})
        by_tx.setdefault(each.metadata["tx"], set()).add((each.action, each.resource_id, each.actor))
    assert len(by_tx) == 200 and all(len(each) == 2 for each in by_tx.values())


def test_to_thread_and_tasks_inherit_the_context(database: Database) -> None:
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    maker = sessionmaker(engine)

    def in_thread(row: int) -> int:
        with maker.begin() as session:
            session.add(_seat(row))
        return threading.get_ident()

    async def main() -> None:
        async with audit_context(actor="user:3", via="task:seats"):
            assert await asyncio.to_thread(in_thread, 1) != threading.get_ident()
            await asyncio.create_task(asyncio.to_thread(in_thread, 2))

    with capture(maker, {Seat: None}):
        asyncio.run(main())
    engine.dispose()
    assert [(each.actor, each.metadata["via"]) for each in database.recorded()] == [("user:3", "task:seats")] * 2


def test_expired_and_deferred_attributes_need_no_lazy_load(database: Database, sessions: Sessions) -> None:
    if sessions.engine is sessions.sync_engine:
        pytest.skip("of AsyncSession")

    async def main() -> None:
        maker: async_sessionmaker[AsyncSession] = sessions.maker
        async with maker() as session:
            invoice = Invoice(number="A1", notes="n")
            session.add(invoice)
            await session.commit()  # expires it
            invoice.notes, invoice.iban = "m", "DE02"
            await session.commit()
            await session.delete(invoice)
            await session.commit()

    policy = Policy(exclude=["made_at", "updated_at", "doubled"])
    with sessions.capture(Invoice, policy=policy), audit_context(actor="user:1"):
        sessions.runner.run(main(), context=copy_context())
    created, updated, deleted = database.recorded()
    assert (updated.before, updated.after) == (
        {"notes": "n", "bank_account": None},
        {"notes": "m", "bank_account": "DE02"},
    )
    assert (created.after["notes"], deleted.before["notes"]) == ("n", "m")


def test_targets_of_each_kind(database: Database) -> None:
    """Each captures its own sessions, and no others; ending it ends that."""
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    with pytest.raises(UsageError, match="not a session"):
        capture(engine, {Seat: None})
    with pytest.raises(UsageError, match="not a mapped class"):
        capture(Session, {str: None})

    class Own(Session):
        pass

    with Session(engine) as one:
        makers: list[tuple[Any, Any]] = [
            (Own, lambda: Own(engine)),
            (one, lambda: one),
            *((maker, maker) for maker in (sessionmaker(engine), scoped_session(sessionmaker(engine)))),
        ]
        row = 0
        for target, make in makers:
            with audit_context(actor="user:1"):
                with capture(target, {Seat: None}):
                    for session, count in ((make(), 1), (Session(engine), 0)):
                        row += 1
                        with session, session.begin():
                            session.add(_seat(row))
                        with session, session.begin():
                            session.bulk_save_objects([_seat(row + 1000)])
                        assert len(database.recorded()) == 2 * count
                row += 1
                with make() as session, session.begin():
                    session.add(_seat(row))
                assert database.recorded() == []
    engine.dispose()


def test_async_targets_of_each_kind(database: Database) -> None:
    class Own(AsyncSession):
        pass

    class Sync(Session):
        pass

    async def main() -> None:
        engine = create_async_engine(database.url.replace("postgresql:", "postgresql+asyncpg:"))
        one = AsyncSession(engine)
        maker, given = async_sessionmaker(engine), async_sessionmaker(engine, sync_session_class=Sync)
        registry = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        row = 0
        targets: list[tuple[Any, Any]] = [
            (Own, lambda: Own(engine)),
            (one, lambda: one),
            (maker, maker),
            (given, given),
            (registry, registry),
        ]
        for target, make in targets:
            running, again = capture(target, {Seat: None}), capture(target, {Seat: Policy(action="again.{op}")})
            for session, count in ((make(), 2), (AsyncSession(engine), 0)):
                row += 1
                async with session, session.begin():
                    session.add(_seat(row))
                assert len(database.recorded()) == count
            running.remove()
            again.remove()
            row += 1
            async with make() as session, session.begin():
                session.add(_seat(row))
            assert database.recorded() == []
            await registry.remove()
        await engine.dispose()

    with audit_context(actor="user:1"):
        asyncio.run(main())


def test_entries_are_sealed(ledger: Ledger, migrated_url: str) -> None:
    engine = create_engine(migrated_url.replace("postgresql:", "postgresql+psycopg:"))
    Seat.metadata.create_all(engine)
    maker = sessionmaker(engine)
    with (
        capture(maker, {Seat: Policy(action="seat.{op}", resource_type="chair")}),
        audit_context(actor="user:1", reason="ticket 7"),
        maker.begin() as session,
    ):
        session.add(_seat(1))
    engine.dispose()
    with closing(Connector(Settings(database_url=migrated_url))) as connector:
        assert Sealer(connector).seal() == 1
    [entry] = ledger.read()
    assert (entry.actor, entry.action, entry.resource_type, entry.resource_id) == (
        "user:1",
        "seat.created",
        "chair",
        "1,a",
    )
    assert entry.after == {"row": 1, "place": "a", "taken_by": None} and entry.metadata["reason"] == "ticket 7"


def test_errors_of_the_ledger_are_the_drivers(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Seat, ledger="nowhere"), pytest.raises(Exception, match="there is no ledger 'nowhere'"):
        sessions.transact(lambda session: session.add(_seat(1)))
    with sessions.capture(Invoice), pytest.raises(InvalidEvent, match="body"):
        sessions.transact(lambda session: session.add(Invoice(number="A", notes="n" * 300_000)))
    assert database.recorded() == []
