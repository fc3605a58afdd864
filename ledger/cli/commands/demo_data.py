"""Sample data: five days of users, invoices and logins of an invoicing company. The same at every call."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.events import Event

PEOPLE = {"user:anna": "accountant", "user:ben": "sales", "user:chiara": "sales", "user:deepak": "admin"}
CUSTOMERS = ("Alder & Sons", "Birchwood Ltd", "Café Zürich", "Dockside Freight", "Elm Street Dental")
WORK = ("design", "hosting, March", "on-site support", "licences", "travel")
INVOICES = 60
_START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def events() -> Iterator[Event]:
    """A few hundred events in the order in which they happened."""
    company = _Company()
    company.happen(
        "user:deepak", "company.opened", "company", "acme", after={"name": "Acme Invoicing", "currency": "EUR"}
    )
    for person, role in PEOPLE.items():
        company.change(
            "user:deepak", "user.created", "user", person.removeprefix("user:"), {"role": role, "active": True}
        )
    for number in range(1, INVOICES + 1):
        if number % 6 == 1:
            yield from company.morning()
        company.invoice(number)
    company.change("user:deepak", "user.role_changed", "user", "ben", {"role": "accountant"})
    yield from company.take()


class _Company:
    """The company's clock, random numbers and the current state of its resources."""

    def __init__(self) -> None:
        self._dice = random.Random(20260302)  # noqa: S311 - sample data
        self._now = _START
        self._known: dict[str, dict[str, Any]] = {}
        self._events: list[Event] = []

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def morning(self) -> list[Event]:
        for person in PEOPLE:
            if self._dice.random() < 0.2:
                self.happen(person, "login.failed", metadata={"reason": "wrong password"})
            self.happen(person, "login.succeeded", metadata={"second_factor": "totp"})
        return self.take()

    def invoice(self, number: int) -> None:
        name = f"inv_{1000 + number}"
        seller = self._dice.choice(("user:ben", "user:chiara"))
        amount = self._dice.randrange(20_000, 900_000) / 100
        work = self._dice.choice(WORK)
        self.change(seller, "invoice.created", "invoice", name, {
            "customer": self._dice.choice(CUSTOMERS), "amount": amount, "work": work, "status": "draft",
        })  # fmt: skip
        if self._dice.random() < 0.4:
            self.change(
                seller, "invoice.updated", "invoice", name, {"amount": round(amount * 0.9, 2), "discount": "10 %"}
            )
        self.change(seller, "invoice.sent", "invoice", name, {"status": "sent"})
        fate = self._dice.random()
        if fate < 0.7:
            self.change("service:bank", "invoice.paid", "invoice", name, {"status": "paid"}, actor_type="service")
        elif fate < 0.9:
            self.change(
                "service:clock", "invoice.overdue", "invoice", name, {"status": "overdue"}, actor_type="service"
            )
            self.happen("user:anna", "invoice.reminded", "invoice", name, metadata={"channel": "letter"})

    def change(
        self, actor: str, action: str, kind: str, name: str, fields: dict[str, Any], actor_type: str = "user"
    ) -> None:
        """Changes fields of a resource, with their values before and after."""
        known = self._known.setdefault(f"{kind}:{name}", {})
        before = {field: known[field] for field in fields if field in known}
        known |= fields
        self.happen(actor, action, kind, name, before=before or None, after=dict(fields), actor_type=actor_type)

    def happen(self, actor: str, action: str, kind: str | None = None, name: str | None = None, **more: Any) -> None:
        self._now += timedelta(seconds=self._dice.randrange(60, 1500))
        if self._now.hour >= 18:
            self._now = self._now.replace(hour=8, minute=self._dice.randrange(60)) + timedelta(days=1)
        metadata = {"ip": f"192.0.2.{self._dice.randrange(1, 255)}"} | (more.pop("metadata", None) or {})
        self._events.append(Event(actor, action, kind, name, metadata=metadata, occurred_at=self._now, **more))
