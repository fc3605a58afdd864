"""INSERT, UPDATE and DELETE statements that a session executes are recorded, row by row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, event, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from ledger.contrib.sqlalchemy import Policy
from ledger.contrib.sqlalchemy.sessions import sync_target
from ledger.errors import UsageError
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Customer, Invoice, Seat, Status

QUIET = Policy(exclude=["made_at", "updated_at", "doubled"])


def _fill(session: Session) -> None:
    session.add_all([Invoice(number=f"A{number}", total=Decimal(number)) for number in range(1, 5)])


def _totals(database: Database) -> list[tuple[Any, ...]]:
    """Of each change: what, whose, the total before and after."""
    return [
        (
            each.action.partition(".")[2],
            each.resource_id,
            (each.before or {}).get("total"),
            (each.after or {}).get("total"),
        )
        for each in database.recorded()
    ]


def test_an_update_records_each_row_before_and_after(database: Database, sessions: Sessions) -> None:
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET), sessions.statements() as seen:
        change = update(Invoice).where(Invoice.total > 2).values(total=Invoice.total * 10, status=Status.SENT)
        assert sessions.transact(lambda session: session.execute(change).rowcount) == 2  # type: ignore[attr-defined]
        assert len(seen) == 4  # two besides the update and the one that records
        assert [(each.resource_id, each.before, each.after) for each in database.recorded()] == [
            ("3", {"total": "3.00", "status": "DRAFT"}, {"total": "30.00", "status": "SENT"}),
            ("4", {"total": "4.00", "status": "DRAFT"}, {"total": "40.00", "status": "SENT"}),
        ]
        sessions.transact(lambda session: session.execute(change.where(Invoice.id == 3).values(total=30)))
        assert database.recorded() == []  # nothing changed


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_objects_of_the_session_follow(database: Database, sessions: Sessions, synchronize: Any) -> None:
    def change(session: Session) -> Decimal:
        invoice = session.get_one(Invoice, 1)
        invoice.iban = "new"  # is flushed, and recorded, first
        statement = update(Invoice).where(Invoice.id == bindparam("which")).values(total=7)
        session.execute(statement, {"which": 1}, execution_options={"synchronize_session": synchronize})
        return invoice.total

    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        assert sessions.transact(change) == (1 if synchronize is False else 7)
    assert [(each.before, each.after) for each in database.recorded()] == [
        ({"bank_account": None}, {"bank_account": "new"}),
        ({"total": "1.00"}, {"total": "7.00"}),
    ]


def test_a_delete_records_each_row(database: Database, sessions: Sessions) -> None:
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET), sessions.statements() as seen:
        change = delete(Invoice).where(Invoice.total < 3)
        assert sessions.transact(lambda session: session.execute(change).rowcount) == 2  # type: ignore[attr-defined]
        assert len(seen) == 3
        assert _totals(database) == [("deleted", "1", "1.00", None), ("deleted", "2", "2.00", None)]
        gone = delete(Seat).returning(Seat.place)
        assert sessions.transact(lambda session: session.scalars(gone).all()) == []  # not captured


def test_returning_gives_what_it_gives_without_a_capture(database: Database, sessions: Sessions) -> None:
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        change = update(Invoice).where(Invoice.id == 1).values(total=5).returning(Invoice)
        assert sessions.transact(lambda session: [each.total for each in session.scalars(change)]) == [5]
        gone = delete(Invoice).where(Invoice.id == 1).returning(Invoice.number, Invoice.total)
        assert sessions.transact(lambda session: [tuple(row) for row in session.execute(gone)]) == [("A1", Decimal(5))]
        assert _totals(database) == [("updated", "1", "1.00", "5.00"), ("deleted", "1", "5.00", None)]


def test_tables_and_options_of_the_statement_count(database: Database, sessions: Sessions) -> None:
    def fill(session: Session) -> None:
        customers = [Customer(name="a"), Customer(name="b")]
        session.add_all(customers)
        for number, customer in enumerate([*customers, customers[0]], 1):
            customer.invoices.append(Invoice(number=f"A{number}"))

    sessions.transact(fill)
    with sessions.capture(Invoice, policy=QUIET):
        of_a = update(Invoice).where(Invoice.customer_id == Customer.id, Customer.name == "a").values(total=1)
        not_first = with_loader_criteria(Invoice, Invoice.id > 1)
        sessions.transact(lambda session: session.execute(of_a.options(not_first)))
        assert _totals(database) == [("updated", "3", "0.00", "1.00")]
        rare = select(func.max(Invoice.id)).scalar_subquery()
        sessions.transact(lambda session: session.execute(delete(Invoice).where(Invoice.id == rare)))
        assert _totals(database) == [("deleted", "3", "1.00", None)]


def test_a_filter_of_selects_hides_nothing(database: Database, sessions: Sessions) -> None:
    def only_drafts(state: ORMExecuteState) -> None:
        if state.is_select:
            state.statement = state.statement.options(with_loader_criteria(Invoice, Invoice.id < 0))

    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        target = sync_target(sessions.maker)
        event.listen(target, "do_orm_execute", only_drafts)
        sessions.transact(lambda session: session.execute(update(Invoice).where(Invoice.id == 1).values(total=9)))
        event.remove(target, "do_orm_execute", only_drafts)
    assert _totals(database) == [("updated", "1", "1.00", "9.00")]


def test_legacy_queries_and_core_statements_through_the_session(database: Database, sessions: Sessions) -> None:
    table: Any = Invoice.__table__
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(lambda session: session.query(Invoice).filter_by(id=1).update({"total": 9}))
        sessions.transact(lambda session: session.query(Invoice).filter_by(id=1).delete())
        sessions.transact(lambda session: session.execute(table.update().where(table.c.id == 2).values(total=9)))
        sessions.transact(lambda session: session.execute(table.delete().where(table.c.id == 2)))
        sessions.transact(lambda session: session.execute(table.insert().values(number="B", total=1, status="SENT")))
    assert _totals(database) == [
        *[("updated", "1", "1.00", "9.00"), ("deleted", "1", "9.00", None)],
        *[("updated", "2", "2.00", "9.00"), ("deleted", "2", "9.00", None)],
        ("created", "5", None, "1.00"),
    ]


def test_an_update_by_primary_key(database: Database, sessions: Sessions) -> None:
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET), sessions.statements() as seen:
        rows = [{"id": 1, "total": 10}, {"id": 2, "total": 2}]
        sessions.transact(lambda session: session.execute(update(Invoice), rows))
        assert sum("ledger.record(" in each for each in seen) == 1 and sum("SELECT" in each for each in seen) == 2
        assert _totals(database) == [("updated", "1", "1.00", "10.00")]
        table: Any = Invoice.__table__
        change = table.update().where(table.c.id == bindparam("which")).values(total=1)
        with pytest.raises(UsageError, match="several sets of parameters"):
            sessions.transact(lambda session: session.execute(change, [{"which": 1}, {"which": 2}]))
        with pytest.raises(UsageError, match="primary keys"):
            sessions.transact(lambda session: session.execute(update(Invoice).values(id=Invoice.id + 100)))
        returning = select(Invoice).from_statement(update(Invoice).values(total=1).returning(Invoice))
        with pytest.raises(UsageError, match="from_statement"):
            sessions.transact(lambda session: session.execute(returning))
    assert database.recorded() == []


ROWS = [{"number": "B1", "total": 1}, {"number": "B2", "total": Decimal("2.5")}, {"number": "B3", "total": 3}]


@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("form", ["parameters", "values", "single", "select"])
def test_an_insert_in_each_form(database: Database, sessions: Sessions, form: str, returning: bool) -> None:
    rows = ROWS[:1] if form == "single" else ROWS
    statement = insert(Invoice)
    if form == "values":
        statement = statement.values(rows)
    elif form == "single":
        statement = statement.values(**rows[0])
    parameters = rows if form == "parameters" else None
    if form == "select":
        sessions.transact(lambda session: session.add_all([Customer(name=str(each["number"])) for each in rows]))
        columns = select(Customer.name, Customer.id, literal("DRAFT").cast(Invoice.status.type)).order_by(Customer.id)
        statement = statement.from_select(["number", "total", "status"], columns)

    def run(session: Session) -> Any:
        if returning:
            found = session.execute(statement.returning(Invoice, Invoice.number), parameters).all()
            assert [each.number for each, _ in found] == [number for _, number in found]
            return [number for _, number in found]
        result = session.execute(statement, parameters)
        assert not result.returns_rows  # type: ignore[attr-defined]
        return result.rowcount, result.inserted_primary_key  # type: ignore[attr-defined]

    with sessions.capture(Invoice, policy=QUIET), sessions.statements() as seen:
        got = sessions.transact(run)
    assert len(seen) == 2  # the INSERT, and the one that records
    numbers = [each["number"] for each in rows]
    assert got == (numbers if returning else (len(rows), (1,) if form == "single" else None))
    recorded = database.recorded()
    assert [(each.action, each.before, each.after["number"]) for each in recorded] == [
        ("invoice.created", None, number) for number in numbers
    ]
    assert [each.resource_id for each in recorded] == [str(each.after["id"]) for each in recorded]


@pytest.mark.parametrize("form", ["parameters", "values", "single", "constraint"])
def test_an_upsert_records_what_it_updates_and_what_it_inserts(
    database: Database, sessions: Sessions, form: str
) -> None:
    rows = [{"number": "A2", "total": 20}, {"number": "A2b", "total": 5}, {"number": "A3", "total": 3}]
    upsert = pg_insert(Invoice)
    if form == "values":
        upsert = upsert.values(rows)
    elif form == "single":
        upsert = upsert.values(number="A2", total=20)
    target: Any = {"constraint": "invoice_number_key"} if form == "constraint" else {"index_elements": [Invoice.number]}
    upsert = upsert.on_conflict_do_update(**target, set_={"total": upsert.excluded.total})
    parameters = rows if form in ("parameters", "constraint") else None
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET), sessions.statements() as seen:
        sessions.transact(lambda session: session.execute(upsert, parameters))
    assert len(seen) == 3
    expected = [("updated", "2", "2.00", "20.00"), ("created", None, None, "5.00")]  # the third changes nothing
    got = [(op, key if op == "updated" else None, *totals) for op, key, *totals in _totals(database)]
    assert got == (expected[:1] if form == "single" else expected)


def test_other_conflicts(database: Database, sessions: Sessions) -> None:
    ignore = pg_insert(Invoice).values([*ROWS, {"number": "A1"}]).on_conflict_do_nothing()
    computed = pg_insert(Invoice).values(number=func.concat("A", "1"), total=9)
    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        assert sessions.transact(lambda session: session.execute(ignore).rowcount) == 3  # type: ignore[attr-defined]
        assert [each[0] for each in _totals(database)] == ["created"] * 3
        upsert = computed.on_conflict_do_update(index_elements=["number"], set_={"total": 9})
        assert sessions.transact(lambda session: session.scalars(upsert.returning(Invoice.total)).all()) == [Decimal(9)]
        assert _totals(database) == [("updated", "1", None, "9.00")]  # what was before is not known


def test_statements_of_composite_keys(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Seat):
        rows = [{"row": row, "place": place} for row in (1, 2) for place in "ab"]
        sessions.transact(lambda session: session.execute(insert(Seat), rows))
        sessions.transact(lambda session: session.execute(update(Seat).where(Seat.row == 1).values(taken_by="x")))
        sessions.transact(lambda session: session.execute(delete(Seat).where(Seat.place == "b")))
    assert [(each.action, each.resource_id) for each in database.recorded()] == [
        *(("seat.created", key) for key in ("1,a", "1,b", "2,a", "2,b")),
        *(("seat.updated", key) for key in ("1,a", "1,b")),
        *(("seat.deleted", key) for key in ("1,b", "2,b")),
    ]


def test_bulk_methods_of_before_2_0(database: Database, sessions: Sessions) -> None:
    def save(session: Session) -> None:
        invoice = session.get_one(Invoice, 1)
        session.expunge(invoice)
        invoice.total = Decimal(11)
        session.bulk_save_objects([invoice, Invoice(number="C1"), Invoice(number="C2")])

    def insert_and_update(session: Session) -> None:
        session.bulk_insert_mappings(Invoice, [{"number": "D1"}, {"number": "D2", "total": 4}], False)
        session.bulk_update_mappings(Invoice, [{"id": 2, "total": 22}, {"id": 3, "total": 3}])

    sessions.transact(_fill)
    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(save)
        assert _totals(database) == [
            *[("updated", "1", "1.00", "11.00"), ("created", "5", None, "0.00"), ("created", "6", None, "0.00")]
        ]
        sessions.transact(insert_and_update)
        assert _totals(database) == [
            *[("created", "7", None, "0.00"), ("created", "8", None, "4.00"), ("updated", "2", "2.00", "22.00")]
        ]
    sessions.transact(lambda session: session.bulk_save_objects([Invoice(number="E")]))
    assert database.recorded() == []
