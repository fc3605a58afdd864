"""What a flush writes is recorded."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, attributes

from ledger.contrib.sqlalchemy import Policy
from tests.integration.contrib.sqlalchemy.database import Database, Recorded, Sessions
from tests.integration.contrib.sqlalchemy.models import Customer, Invoice, Seat, Status

QUIET = Policy(exclude=["made_at", "updated_at", "doubled"])


def _changes(recorded: list[Recorded]) -> list[tuple[object, ...]]:
    return [(each.action, each.resource_id, each.before, each.after) for each in recorded]


def _add(session: Session) -> int:
    invoice = Invoice(number="A1", total=Decimal("12.50"), iban="DE02", notes="n")
    session.add(invoice)
    session.flush()
    return invoice.id


def test_an_insert_records_the_whole_row_with_what_the_server_made(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Invoice):
        key = sessions.transact(_add)
    [created] = database.recorded()
    assert (created.actor, created.action, created.resource_id) == ("user:42", "invoice.created", str(key))
    assert created.before is None
    made = created.after.pop("made_at")
    assert datetime.fromisoformat(made).tzinfo is not None
    assert created.after == {
        **{"id": key, "number": "A1", "status": "DRAFT", "total": "12.50", "doubled": "25.00", "bank_account": "DE02"},
        **{"notes": "n", "data": None, "updated_at": None, "customer_id": None},
    }
    assert created.metadata.keys() == {"tx", "via"} and created.metadata["via"] == "sqlalchemy"
    assert int(created.metadata["tx"]) > 0


def test_an_update_records_changed_columns_only(database: Database, sessions: Sessions) -> None:
    key = sessions.transact(_add)

    def change(session: Session) -> None:
        invoice = session.get_one(Invoice, key)
        invoice.total, invoice.status, invoice.iban = Decimal("13"), Status.SENT, "DE02"

    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(change)
        assert _changes(database.recorded()) == [
            ("invoice.updated", str(key), {"total": "12.50", "status": "DRAFT"}, {"total": "13.00", "status": "SENT"})
        ]


def test_what_the_server_computes_is_recorded_too(database: Database, sessions: Sessions) -> None:
    key = sessions.transact(_add)

    def change(session: Session) -> None:
        session.get_one(Invoice, key).total = Invoice.total + 1

    with sessions.capture(Invoice):
        sessions.transact(change)
    [updated] = database.recorded()
    assert updated.before == {"total": "12.50", "doubled": "25.00", "updated_at": None}
    assert datetime.fromisoformat(updated.after.pop("updated_at")).tzinfo is not None
    assert updated.after == {"total": "13.50", "doubled": "27.00"}


def test_a_delete_records_the_whole_row(database: Database, sessions: Sessions) -> None:
    key = sessions.transact(_add)
    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(lambda session: session.delete(session.get_one(Invoice, key)))
    [deleted] = database.recorded()
    assert (deleted.action, deleted.resource_id, deleted.after) == ("invoice.deleted", str(key), None)
    assert deleted.before["notes"] == "n"  # deferred: read before it was deleted


@pytest.mark.parametrize("expire", [True, False])
def test_a_phantom_change_makes_no_entry(database: Database, sessions: Sessions, expire: bool) -> None:
    key = sessions.transact(_add)

    def change(session: Session) -> None:
        invoice = session.get_one(Invoice, key)
        if expire:
            session.expire(invoice)
        invoice.total, invoice.status, invoice.notes = Decimal("12.5"), Status.DRAFT, "n"

    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(change)
        assert database.recorded() == []
        sessions.transact(lambda session: setattr(session.get_one(Invoice, key), "updated_at", func.now()))
        assert database.recorded() == []  # excluded columns only


def test_what_was_not_loaded_is_read_once_for_all_rows(database: Database, sessions: Sessions) -> None:
    def prepare(session: Session) -> None:
        session.add_all([Invoice(number=f"A{number}", total=Decimal(number)) for number in range(10)])

    def change(session: Session) -> None:
        invoices = session.scalars(select(Invoice).order_by(Invoice.id)).all()
        session.flush()
        for invoice in invoices:
            session.expire(invoice)
            invoice.total = Decimal(100)
            attributes.set_attribute(invoice, "notes", "new")
        seen.clear()
        session.flush()

    counts = []
    for classes in ([], [Invoice]):
        database.clear()
        sessions.transact(prepare)
        with sessions.capture(*classes, policy=QUIET), sessions.statements() as seen:
            sessions.transact(change)
            counts.append(len(seen))
    recorded = database.recorded()
    assert [each.before["total"] for each in recorded] == [f"{number}.00" for number in range(10)]
    assert all(each.before["notes"] is None and each.after == {"total": "100.00", "notes": "new"} for each in recorded)
    assert counts[1] - counts[0] == 2  # what was before, and the one that records


def test_a_flush_of_loaded_rows_executes_one_statement_more(database: Database, sessions: Sessions) -> None:
    def prepare(session: Session) -> None:
        session.add_all([Seat(row=number, place="a") for number in range(10)])

    def change(session: Session) -> None:
        for seat in session.scalars(select(Seat)):
            seat.taken_by = "x"

    counts = []
    for classes in ([], [Seat]):
        database.clear()
        with sessions.capture(*classes), sessions.statements() as seen:
            sessions.transact(prepare)
            counts.append(len(seen))
            seen.clear()
            sessions.transact(change)
            counts.append(len(seen))
    assert [counts[2] - counts[0], counts[3] - counts[1]] == [1, 1]
    assert len(database.recorded()) == 20


def test_a_foreign_key_that_a_relationship_sets(database: Database, sessions: Sessions) -> None:
    key = sessions.transact(_add)

    def change(session: Session) -> None:
        customer = Customer(name="c")
        session.add(customer)
        customer.invoices.append(session.get_one(Invoice, key))

    def undo(session: Session) -> None:
        [customer] = session.scalars(select(Customer))
        [invoice] = customer.invoices
        session.expire(invoice)
        customer.invoices.clear()

    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(change)
        assert _changes(database.recorded()) == [
            ("invoice.updated", str(key), {"customer_id": None}, {"customer_id": 1})
        ]
        sessions.transact(undo)
        assert _changes(database.recorded()) == [
            ("invoice.updated", str(key), {"customer_id": 1}, {"customer_id": None})
        ]


def test_json_changed_in_place(database: Database, sessions: Sessions) -> None:
    def add(session: Session) -> None:
        session.add(Invoice(number="A1", data={"a": 1, "b": [1]}))

    def change(session: Session) -> None:
        [invoice] = session.scalars(select(Invoice))
        assert invoice.data is not None
        invoice.data["a"] = True

    sessions.transact(add)
    with sessions.capture(Invoice, policy=QUIET):
        sessions.transact(change)
        assert [(each.before, each.after) for each in database.recorded()] == [
            ({"data": {"a": 1, "b": [1]}}, {"data": {"a": True, "b": [1]}})
        ]


def test_composite_keys_and_changes_of_keys(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Seat):
        sessions.transact(lambda session: session.add(Seat(row=1, place="a,b\\")))
        sessions.transact(lambda session: setattr(session.get_one(Seat, (1, "a,b\\")), "place", "c"))
        sessions.transact(lambda session: session.delete(session.get_one(Seat, (1, "c"))))
    expected: list[Any] = [
        ("seat.created", "1,a\\,b\\\\", None, {"row": 1, "place": "a,b\\", "taken_by": None}),
        ("seat.updated", "1,a\\,b\\\\", {"place": "a,b\\"}, {"place": "c"}),
        ("seat.deleted", "1,c", {"row": 1, "place": "c", "taken_by": None}, None),
    ]
    assert _changes(database.recorded()) == expected


def test_an_object_that_replaces_another_in_its_row_is_an_update(database: Database, sessions: Sessions) -> None:
    def replace(session: Session) -> None:
        session.delete(session.get_one(Seat, (1, "a")))
        session.add(Seat(row=1, place="a", taken_by="y"))

    sessions.transact(lambda session: session.add(Seat(row=1, place="a", taken_by="x")))
    with sessions.capture(Seat):
        sessions.transact(replace)
    assert _changes(database.recorded()) == [("seat.updated", "1,a", {"taken_by": "x"}, {"taken_by": "y"})]


def test_a_full_policy_records_all_columns_of_an_update(database: Database, sessions: Sessions) -> None:
    key = sessions.transact(_add)
    policy = Policy(full=True, key="number", action="bill.{op}", exclude=["made_at", "updated_at", "data"])
    with sessions.capture(Invoice, policy=policy):
        sessions.transact(lambda session: setattr(session.get_one(Invoice, key), "iban", None))
    [updated] = database.recorded()
    assert (updated.action, updated.resource_id) == ("bill.updated", "A1")
    assert {**updated.before, "bank_account": None} == updated.after
    assert updated.before["notes"] == "n" and updated.before["bank_account"] == "DE02"
