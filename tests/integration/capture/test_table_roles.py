"""Who may install a capture, and what those may not who only write the table."""

from __future__ import annotations

import psycopg
import pytest

from ledger.errors import LedgerError
from tests.support.captured import INVOICES, capture, taken
from tests.support.logins import Logins, user_of

TABLES = ("captures", "capture_statements", "digest_keys", "outbox", "rejected")


@pytest.fixture
def writer(admin: psycopg.Connection, login: Logins) -> str:
    """The URL of a user who may write a captured table behind row-level security, and has no role of the ledger."""
    url = login()
    admin.execute(INVOICES)
    admin.execute("alter table invoices enable row level security; alter table invoices force row level security")
    admin.execute("create policy own on invoices using (id < 100)")
    admin.execute(f"grant select, insert, update, delete on invoices to {user_of(url)}")
    capture(admin, "invoices", digest=("status",))
    taken(admin)
    return url


def test_a_user_without_any_role_is_captured(admin: psycopg.Connection, writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as connection:
        connection.execute("insert into invoices values (1, 5)")
        connection.execute("update invoices set total = 6")
        connection.execute("delete from invoices")
    assert [each.action for each in taken(admin)] == ["invoices.created", "invoices.updated", "invoices.deleted"]


def test_and_can_neither_see_nor_change_anything(admin: psycopg.Connection, writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as connection:
        connection.execute("create temp table mine (id int)")
        statements = [
            *(f"select * from ledger.{table}" for table in TABLES),
            *(f"delete from ledger.{table}" for table in TABLES),
            "alter table invoices disable trigger all",
            "drop trigger ledger_capture_insert on invoices",
            "create trigger t after insert on mine for each statement execute function ledger.capture_rows('1')",
            *(
                f"select {call}"
                for (call,) in admin.execute(
                    "select format('%s(%s)', oid::regproc, array_to_string(array("
                    "select format('null::%s', format_type(each, null)) from unnest(proargtypes) as each), ', '))"
                    " from pg_proc where pronamespace = 'ledger'::regnamespace and prokind = 'f'"
                    " and prorettype <> 'trigger'::regtype and prosrc ~ 'captur|digest_keys'"
                ).fetchall()
            ),
        ]
        assert len(statements) > 25
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_an_owner_without_the_role_may_not_install(admin: psycopg.Connection, login: Logins) -> None:
    url = login()
    admin.execute(INVOICES)
    admin.execute(f"alter table invoices owner to {user_of(url)}")
    with (
        psycopg.connect(url, autocommit=True) as connection,
        pytest.raises((psycopg.Error, LedgerError), match="permission denied"),
    ):
        capture(connection, "invoices")


def test_an_admin_installs_on_its_own_tables_only(admin: psycopg.Connection, login: Logins) -> None:
    url = login("ledger_admin")
    admin.execute(INVOICES)
    admin.execute("create table others (id int primary key)")
    admin.execute(f"alter table invoices owner to {user_of(url)}; grant create on schema public to {user_of(url)}")
    with psycopg.connect(url, autocommit=True) as connection:
        capture(connection, "invoices", condition="total > 1")
        connection.execute("insert into invoices values (1, 5), (2, 0), (3, 7)")
        assert connection.execute("select ledger.backfill_capture('invoices', 1)").fetchone() == (1,)
        with pytest.raises((psycopg.Error, LedgerError), match="is no table of"):
            capture(connection, "others")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from ledger.digest_keys")
        connection.execute("select ledger.remove_capture('invoices')")
        connection.execute("insert into invoices values (4, 5)")
    rows = admin.execute("select action, actor, resource_id from ledger.outbox order by seq").fetchall()
    user = f"db:{user_of(url)}"
    assert rows == [
        ("capture.installed", user, "public.invoices"),
        ("invoices.created", user, "1"),
        ("invoices.created", user, "3"),
        ("invoices.backfilled", user, "1"),
        ("capture.removed", user, "public.invoices"),
    ]  # fmt: skip
    admin.execute("drop table invoices")


def test_the_ledgers_own_tables_are_refused(admin: psycopg.Connection) -> None:
    with pytest.raises(LedgerError, match="is the ledger's own"):
        capture(admin, "ledger.outbox", key=("seq",))
