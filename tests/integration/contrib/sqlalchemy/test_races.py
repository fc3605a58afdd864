"""What is recorded of a statement is what it wrote, also while others write the same rows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, event, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Seat

CHANGES = {
    "UPDATE": update(Seat).where(Seat.taken_by == "x").values(taken_by="y"),
    "DELETE": delete(Seat).where(Seat.taken_by == "x"),
}


@pytest.mark.parametrize("verb", CHANGES)
def test_a_row_that_begins_to_match_in_between_is_left_alone(database: Database, sessions: Sessions, verb: str) -> None:
    def another_arrives(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(verb):
            database.admin.execute("insert into seat values (2, 'a', 'x')")

    sessions.transact(lambda session: session.add(Seat(row=1, place="a", taken_by="x")))
    event.listen(sessions.sync_engine, "before_cursor_execute", another_arrives)
    try:
        with sessions.capture(Seat):
            sessions.transact(lambda session: session.execute(CHANGES[verb]))
    finally:
        event.remove(sessions.sync_engine, "before_cursor_execute", another_arrives)
    assert [each.resource_id for each in database.recorded()] == ["1,a"]
    left = sessions.transact(lambda session: session.scalars(select(Seat.row).where(Seat.taken_by == "x")).all())
    assert left == [2]


@pytest.mark.parametrize("verb", CHANGES)
def test_what_was_before_is_what_others_have_committed(database: Database, sessions: Sessions, verb: str) -> None:
    """The row changes after the statement has begun to look for it."""

    def another_changes(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "FOR" in statement and not changed:
            changed.append(database.admin.execute("update seat set taken_by = 'z' where row = 1"))

    changed: list[object] = []
    sessions.transact(lambda session: session.add_all([Seat(row=row, place="a", taken_by="x") for row in (1, 2)]))
    event.listen(sessions.sync_engine, "before_cursor_execute", another_changes)
    try:
        with sessions.capture(Seat):
            sessions.transact(lambda session: session.execute(CHANGES[verb]))
    finally:
        event.remove(sessions.sync_engine, "before_cursor_execute", another_changes)
    assert changed and [each.resource_id for each in database.recorded()] == ["2,a"]


def test_a_row_that_another_inserts_before_an_upsert(database: Database, sessions: Sessions) -> None:
    def another_arrives(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT"):
            database.admin.execute("insert into seat values (1, 'a', 'x')")

    def upsert(session: Session) -> None:
        statement = insert(Seat).values(row=1, place="a", taken_by="y")
        session.execute(statement.on_conflict_do_update(index_elements=["row", "place"], set_={"taken_by": "y"}))

    event.listen(sessions.sync_engine, "before_cursor_execute", another_arrives)
    try:
        with sessions.capture(Seat):
            sessions.transact(upsert)
    finally:
        event.remove(sessions.sync_engine, "before_cursor_execute", another_arrives)
    [updated] = database.recorded()  # not "created"; what it was is not known
    assert (updated.action, updated.before) == ("seat.updated", None)
    assert updated.after == {"row": 1, "place": "a", "taken_by": "y"}


def test_a_trigger_of_the_table_has_the_last_word(database: Database, sessions: Sessions) -> None:
    """It keeps a row from being deleted, and changes what an UPDATE writes."""
    database.admin.execute(
        "create or replace function public.overrule() returns trigger language plpgsql as $$ begin"
        " if tg_op = 'DELETE' then if old.row = 1 then return null; end if; return old; end if;"
        " new.taken_by := upper(new.taken_by); return new; end $$;"
        "create trigger overrule before update or delete on seat for each row execute function public.overrule()"
    )
    try:
        sessions.transact(lambda session: session.add_all([Seat(row=row, place="a") for row in (1, 2)]))
        with sessions.capture(Seat):
            sessions.transact(lambda session: session.execute(update(Seat).values(taken_by="y")))
            assert [each.after for each in database.recorded()] == [{"taken_by": "Y"}] * 2
            sessions.transact(lambda session: session.execute(delete(Seat)))
            assert [(each.action, each.resource_id) for each in database.recorded()] == [("seat.deleted", "2,a")]
    finally:
        database.admin.execute("drop trigger overrule on seat")
