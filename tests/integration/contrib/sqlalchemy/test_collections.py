"""Many-to-many relationships, and inheritance."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from ledger.contrib.sqlalchemy import Policy
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Dog, Employee, Invoice, Manager, Node, Pet, Tag


def _changes(database: Database) -> list[tuple[Any, ...]]:
    return [(each.action, each.resource_id, each.before, each.after) for each in database.recorded()]


def test_members_that_come_and_go(database: Database, sessions: Sessions) -> None:
    def add(session: Session) -> None:
        session.add(Invoice(number="A1", tags=[Tag(name="red"), Tag(name="blue")]))

    def change(session: Session) -> None:
        invoice = session.get_one(Invoice, 1)
        invoice.tags.remove(next(tag for tag in invoice.tags if tag.name == "red"))
        invoice.tags.append(Tag(name="green"))

    with sessions.capture(Invoice):
        sessions.transact(add)
        created, tagged = database.recorded()
        assert created.action == "invoice.created"
        assert (tagged.action, tagged.resource_id, tagged.before, tagged.after) == (
            *("invoice.tags.changed", "1", None, {"tags": [1, 2]}),
        )
        assert created.metadata["tx"] == tagged.metadata["tx"]
        sessions.transact(change)
        assert _changes(database) == [("invoice.tags.changed", "1", {"tags": [1]}, {"tags": [3]})]
        sessions.transact(lambda session: session.delete(session.get_one(Invoice, 1)))
        assert [each.action for each in database.recorded()] == ["invoice.deleted"]


def test_a_change_from_the_other_side(database: Database, sessions: Sessions) -> None:
    def change(session: Session) -> None:
        tag = session.get_one(Tag, 1)
        tag.invoices.append(session.get_one(Invoice, 1))

    def clear(session: Session) -> None:
        invoice = session.get_one(Invoice, 1)
        invoice.tags.clear()

    sessions.transact(lambda session: session.add_all([Invoice(number="A1"), Tag(name="red")]))
    with sessions.capture(Invoice):
        sessions.transact(change)
        assert _changes(database) == [("invoice.tags.changed", "1", None, {"tags": [1]})]
    with sessions.capture(Invoice, Tag):
        sessions.transact(clear)
    assert sorted(_changes(database)) == [
        ("invoice.tags.changed", "1", {"tags": [1]}, None),
        ("tag.invoices.changed", "1", {"invoices": [1]}, None),
    ]


def test_excluded_collections(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Invoice, policy=Policy(exclude=["tags"])):
        sessions.transact(lambda session: session.add(Invoice(number="A1", tags=[Tag(name="red")])))
    assert [each.action for each in database.recorded()] == ["invoice.created"]


def test_joined_inheritance(database: Database, sessions: Sessions) -> None:
    def change(session: Session) -> None:
        manager = session.get_one(Manager, 1)
        manager.name, manager.budget = "n", 2

    with sessions.capture(Employee):
        sessions.transact(lambda session: session.add_all([Manager(name="m", budget=1), Employee(name="e")]))
        sessions.transact(change)
        sessions.transact(lambda session: session.execute(update(Employee).values(name="x")))
        sessions.transact(lambda session: session.execute(update(Manager).where(Manager.budget == 2).values(budget=3)))
        sessions.transact(lambda session: session.execute(insert(Manager), [{"name": "b", "budget": 9}]))
        sessions.transact(lambda session: session.delete(session.get_one(Employee, 1)))
    assert _changes(database) == [
        ("employee.created", "1", None, {"id": 1, "kind": "manager", "name": "m", "budget": 1}),
        ("employee.created", "2", None, {"id": 2, "kind": "employee", "name": "e"}),
        ("employee.updated", "1", {"name": "m", "budget": 1}, {"name": "n", "budget": 2}),
        ("employee.updated", "1", {"name": "n"}, {"name": "x"}),
        ("employee.updated", "2", {"name": "e"}, {"name": "x"}),
        ("employee.updated", "1", {"budget": 2}, {"budget": 3}),
        ("employee.created", "3", None, {"id": 3, "kind": "manager", "name": "b", "budget": 9}),
        ("employee.deleted", "1", {"id": 1, "kind": "manager", "name": "x", "budget": 3}, None),
    ]


def test_single_table_inheritance(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Pet):
        sessions.transact(lambda session: session.add_all([Dog(tricks=1), Pet()]))
        sessions.transact(lambda session: session.execute(update(Dog).values(tricks=2)))
        sessions.transact(lambda session: session.execute(delete(Pet).where(Pet.id == 2)))
        sessions.transact(lambda session: session.delete(session.scalars(select(Dog)).one()))
    assert _changes(database) == [
        ("pet.created", "1", None, {"id": 1, "kind": "dog", "tricks": 1}),
        ("pet.created", "2", None, {"id": 2, "kind": "pet"}),
        ("pet.updated", "1", {"tricks": 1}, {"tricks": 2}),
        ("pet.deleted", "2", {"id": 2, "kind": "pet"}, None),
        ("pet.deleted", "1", {"id": 1, "kind": "dog", "tricks": 2}, None),
    ]


def test_rows_that_refer_to_each_other_have_versions_and_unloaded_collections(
    database: Database, sessions: Sessions
) -> None:
    def add(session: Session) -> None:
        one, other = Node(name="a"), Node(name="b")
        one.best, other.best = other, one
        one.friends.add(other)
        session.add_all([one, other])

    def change(session: Session) -> None:
        one, other = session.get_one(Node, 1), session.get_one(Node, 2)
        one.name = "A"
        one.friends.remove(other)

    with sessions.capture(Node):
        sessions.transact(add)
        assert sorted(_changes(database), key=lambda each: (each[0], each[1])) == [
            ("node.created", "1", None, {"id": 1, "label": "a", "version": 1, "best_id": 2}),
            ("node.created", "2", None, {"id": 2, "label": "b", "version": 1, "best_id": 1}),
            ("node.friends.changed", "1", None, {"friends": [2]}),
        ]
        sessions.transact(change)
        assert _changes(database) == [
            ("node.updated", "1", {"label": "a", "version": 1}, {"label": "A", "version": 2}),
            ("node.friends.changed", "1", {"friends": [2]}, None),
        ]
        sessions.transact(lambda session: session.merge(Node(id=2, name="B")))
        assert _changes(database) == [
            ("node.updated", "2", {"label": "b", "version": 1}, {"label": "B", "version": 2}),
        ]
        shout = update(Node).where(Node.upper == "A").values(name=Node.name + "!")
        sessions.transact(lambda session: session.execute(shout))
        assert _changes(database) == [("node.updated", "1", {"label": "A"}, {"label": "A!"})]
