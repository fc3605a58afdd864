"""Logins of their own for the tests: each with a password, dropped at the end, and given roles as users are."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from ledger.drivers.run import drive
from ledger.migrate.roles import BY_LEDGER, grant


class Logins:
    """Makes logins in the cluster of a superuser's database URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[str] = []

    def __call__(self, *roles: str, ledgers: list[str] | None = None, attributes: str = "") -> str:
        """The URL of a new login with these roles of ours. ledgers: of a reader or writer; None for all."""
        name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(16)
        with psycopg.connect(self.url, autocommit=True) as admin:
            made = sql.SQL("create role {} login password {} {}")
            admin.execute(made.format(sql.Identifier(name), sql.Literal(password), sql.SQL(attributes)))
            self.made.append(name)
            for role in roles:
                drive(grant(role, name, ledgers if role in BY_LEDGER else None), admin)
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()

    def drop(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as admin:
            for name in self.made:
                admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (name,))
                admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def user_of(url: str) -> str:
    return urlsplit(url).username or ""


@contextmanager
def logins(url: str) -> Iterator[Logins]:
    """For as long as the block runs, in which the database of the URL must stay."""
    made = Logins(url)
    try:
        yield made
    finally:
        made.drop()
