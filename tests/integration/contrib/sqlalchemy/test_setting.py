"""The context reaches the database as a setting of the transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger.capture import audit_context, bind
from ledger.contrib.sqlalchemy import audit_setting
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Seat
from tests.support.pgbouncer import pgbouncer

RECORD = text("select ledger.record('main', action => 'seat.counted')")
SETTING = text("select current_setting('ledger.context', true)")


@pytest.fixture
def setting(sessions: Sessions) -> Iterator[Sessions]:
    undo = audit_setting(sessions.maker)
    yield sessions
    undo()


def _sets(seen: list[str]) -> int:
    return sum("set_config" in each for each in seen)


def test_it_is_set_once_before_the_first_write(database: Database, setting: Sessions) -> None:
    def read(session: Session) -> None:
        session.scalars(select(Seat)).all()

    def write(session: Session) -> None:
        read(session)
        session.add(Seat(row=1, place="a"))
        session.flush()
        session.execute(RECORD)
        session.connection().execute(RECORD)
        session.bulk_save_objects([Seat(row=2, place="a")])

    with setting.statements() as seen:
        setting.transact(read)
        assert _sets(seen) == 0
        seen.clear()
        setting.transact(write)
        assert _sets(seen) == 1
        assert next(at for at, each in enumerate(seen) if "set_config" in each) == 1  # behind the SELECT
        assert all("user:42" not in each for each in seen)  # a parameter
    assert [each.actor for each in database.recorded()] == ["user:42"] * 2


def test_it_follows_the_context_and_savepoints(database: Database, setting: Sessions) -> None:
    def work(session: Session) -> list[str]:
        session.execute(RECORD)
        savepoint = session.begin_nested()
        bind(actor="user:43", reason="it's")
        session.execute(RECORD)
        savepoint.rollback()
        session.execute(RECORD)
        with session.begin_nested():
            session.execute(RECORD)
        return [session.execute(SETTING).scalar_one()]

    with setting.statements() as seen:
        [text_of] = setting.transact(work)
    assert json.loads(text_of) == {"actor": "user:43", "metadata": {"reason": "it's"}}
    assert _sets(seen) == 3
    assert [each.actor for each in database.recorded()] == ["user:42", "user:43", "user:43"]


def test_nothing_of_it_stays_on_the_connection(database: Database, setting: Sessions) -> None:
    setting.transact(lambda session: session.execute(RECORD))
    with setting.statements() as seen:
        assert setting.transact(lambda session: session.execute(SETTING).scalar(), actor=None) in (None, "")
        assert _sets(seen) == 0
    with pytest.raises(Exception, match="actor"):
        setting.transact(lambda session: session.execute(RECORD), actor=None)


def test_a_trigger_sees_it_behind_a_transaction_pooler(database: Database, sessions: Sessions) -> None:
    trigger = """
        create or replace function public.note_seat() returns trigger language plpgsql as $$
        begin perform ledger.record('main', action => 'seat.seen'); return null; end $$;
        create or replace trigger note after insert on seat for each statement execute function public.note_seat();
    """
    database.admin.execute(trigger)
    try:
        with pgbouncer(database.url, pool_size=1) as pooler:
            driver = sessions.driver
            pooled = Sessions(driver, pooler.url(database.url), sessions.runner, through_pooler=True)
            undo = audit_setting(pooled.maker)
            add = text("insert into seat values (:row, 'a')")
            for number in range(4):
                pooled.transact(
                    lambda session, number=number: session.execute(add, {"row": number}),  # type: ignore[misc]
                    f"user:{number}",
                )
            undo()
            pooled.close()
    finally:
        database.admin.execute("drop trigger note on seat")
    assert [each.actor for each in database.recorded()] == [f"user:{number}" for number in range(4)]


def test_sessions_that_share_a_connection(database: Database) -> None:
    """Each transaction of the connection is told anew."""
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    maker = sessionmaker()
    undo = audit_setting(maker)
    with engine.connect() as connection, audit_context(actor="user:1"):
        for _ in range(2):
            with connection.begin(), maker(bind=connection) as session:
                session.execute(RECORD)
                session.commit()
    undo()
    engine.dispose()
    assert [each.actor for each in database.recorded()] == ["user:1"] * 2
