"""A caller who appends beside orders of its own, in its own transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from ledger import Receipt, Unavailable
from tests.faults.crashing.jobs import Tell
from tests.support.api import Api

Append = Callable[[Any], Receipt | None]
"""Appends on the connection that it is given."""


class Orders:
    """Where the caller cannot know whether it committed, it looks whether its order is there."""

    def __init__(self, api: Api, name: str, tell: Tell) -> None:
        """name: of whom the orders are."""
        self._api = api
        self._name = name
        self._tell = tell
        self._connection = api.connect(autocommit=True)

    def order(self, number: int, append: Append) -> None:
        """Records an order, and appends, unless that was done."""
        try:
            self._order(number, append)
        except (Unavailable, psycopg.OperationalError):
            self._connection.close()
            self._connection = self._api.connect(autocommit=True)
            self._order(number, append)

    def close(self) -> None:
        self._connection.close()

    def _order(self, number: int, append: Append) -> None:
        insert = f"insert into public.orders values ('{self._name}', {number}) on conflict do nothing returning 1"
        receipt = None
        with self._connection.transaction():
            if self._connection.execute(insert):
                receipt = append(self._connection.raw)
        if receipt is not None:
            self._tell(number, receipt)


def create(admin: psycopg.Connection) -> None:
    admin.execute("create table if not exists public.orders (name text, number int, primary key (name, number))")


def numbers(admin: psycopg.Connection, name: str) -> list[int]:
    """Of the orders that were recorded."""
    rows = admin.execute("select number from public.orders where name = %s order by number", (name,))
    return [number for (number,) in rows]
