"""A writer's credentials can only append; members of the roles are no finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ledger import Ledger
from tests.support.helpers import checked, event
from tests.support.logins import Logins
from tests.support.rows import row
from tests.support.views import project, some_events

FORBIDDEN, OWN_ACTION = "42501", "LE005"
NEVER = ("55000", "42809", "0A000", "428C9")
"""Of a view, or a generated column: what nobody can do."""
CALLABLE = {
    "ledger_writer": {
        "keeps_rules", "recorded", "differences", "first_difference", "changed", "may_write", "record", "receipt",
    },
    "ledger_recorder": {"record", "receipt", "may_record"},
}  # fmt: skip
SELECTABLE = {
    "ledger_writer": {"ledger.ledgers", "ledger.tails", "ledger.migrations"},
    "ledger_recorder": {"ledger.ledgers", "ledger.migrations"},
}
CHANGEABLE = {
    "ledger_writer": {
        ("ledger.audit_logs", "insert", "", "23502"),  # NULLs where none may be: it may insert
        ("ledger.tails", "update", "fence", None),
    },
    "ledger_recorder": set[Any](),
}
SECRET = "a-secret-in-a-body"


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    """With entries, views and a verification."""
    ledger.append_many(some_events(20))
    ledger.append(event(1, after={"number": 1, "is": SECRET}, idempotency_key="known"))
    project(ledger)
    assert ledger.verify().ok
    return ledger


@pytest.fixture
def writer(full: Ledger, login: Logins) -> Iterator[psycopg.Connection]:
    """A connection with a writer's credentials alone."""
    with psycopg.connect(login("ledger_writer"), autocommit=True) as connection:
        yield connection


@pytest.fixture(params=list(CALLABLE))
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def user(full: Ledger, login: Logins, role: str) -> Iterator[psycopg.Connection]:
    """A connection with the credentials of one role alone."""
    with psycopg.connect(login(role), autocommit=True) as connection:
        yield connection


def contents(admin: psycopg.Connection) -> dict[str, list[Any]]:
    """Every row of every table of ours, and who may do what with it."""
    tables = admin.execute("select schemaname, tablename from pg_tables where schemaname ^@ 'ledger'").fetchall()
    acls = admin.execute(
        "select relname, relacl::text from pg_class where relname = any (%s)", ([n for _, n in tables],)
    )
    return {"acls": sorted(acls)} | {
        ".".join(table): admin.execute(sql.SQL("select t::text from {} as t order by 1").format(sql.Identifier(*table)))
        .fetchall()
        for table in tables
    }  # fmt: skip


def refusal(connection: psycopg.Connection, statement: str) -> str | None:
    """The SQLSTATE with which it is refused; None where it is not. It is undone in any case."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.Error as error:
        assert SECRET not in str(error)
        return error.sqlstate
    return None


def test_an_applications_credentials_on_every_table(
    user: psycopg.Connection, role: str, admin: psycopg.Connection
) -> None:
    before = contents(admin)
    relations = admin.execute(
        """
        select format('%I.%I', nspname, relname), relkind = 'S', array(
            select quote_ident(attname) from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
        )
        from pg_class as c join pg_namespace as n on n.oid = relnamespace
        where nspname ^@ 'ledger' and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        """
    ).fetchall()
    assert len(relations) >= 16
    allowed = set()
    for name, is_sequence, columns in relations:
        if is_sequence:
            tries = {f"select nextval('{name}')": "", f"select setval('{name}', 1)": "", f"select from {name}": ""}
        else:
            tries = {
                f"select from {name}": "select", f"delete from {name}": "delete",
                f"truncate {name}": "truncate", f"insert into {name} default values": "insert",
                f"lock table {name} in share mode": "lock", f"create trigger t after insert on {name} execute function"
                " pg_catalog.suppress_redundant_updates_trigger()": "trigger",
                f"alter table {name} add column more int": "alter", f"drop table {name}": "drop",
                f"comment on table {name} is 'mine'": "comment", f"analyze {name}": "",
            } | {f"update {name} set {column} = default": f"update {column}" for column in columns} | {
                f"select {column} from {name}": f"select {column}" for column in columns
            }  # fmt: skip
        for statement, what in tries.items():
            state = refusal(user, statement)
            if what and state not in (FORBIDDEN, *NEVER):
                allowed.add((name, what.split()[0], what.partition(" ")[2], state))
            elif not what and state is None:
                assert statement.startswith("analyze")  # which says that it may not, and skips the table
    assert {each for each in allowed if each[1] != "select"} == CHANGEABLE[role]
    assert {name for name, what, _, _ in allowed if what == "select"} == SELECTABLE[role]
    assert contents(admin) == before


def test_an_applications_credentials_on_every_function(
    user: psycopg.Connection, role: str, admin: psycopg.Connection
) -> None:
    before = contents(admin)
    admin.execute("set search_path = pg_catalog")
    functions = admin.execute(
        "select proname, format('select ledger.%I(%s)', proname, (select string_agg("
        " case when provariadic > 0 and n = pronargs then 'variadic ' else '' end || 'null::' || format_type(t, null),"
        " ', ' order by n) from unnest(proargtypes) with ordinality as a(t, n)))"
        " from pg_proc where pronamespace = 'ledger'::regnamespace"
    ).fetchall()
    assert len(functions) >= 19 and {name for name, _ in functions} >= CALLABLE[role]
    assert {name for name, call in functions if refusal(user, call) != FORBIDDEN} == CALLABLE[role]
    # Nor as a trigger on a table of one's own, where it would run with the owner's rights.
    triggers = admin.execute(
        "select proname from pg_proc where pronamespace = 'ledger'::regnamespace and prorettype = 'trigger'::regtype"
    ).fetchall()
    assert ("move_tail",) in triggers
    for (name,) in triggers:
        state = refusal(
            user,
            "create temp table mine (like ledger.tails);"
            " create trigger t after insert on mine referencing new table as added for each statement"
            f" execute function ledger.{name}()",
        )
        assert state == FORBIDDEN, name
    assert contents(admin) == before


def test_a_writers_credentials_on_everything_else(
    full: Ledger, writer: psycopg.Connection, admin: psycopg.Connection
) -> None:
    before = contents(admin)
    for statement in (
        "set role ledger_owner", "set role ledger_admin", "set role ledger_reader",
        "set session_replication_role = replica", "create table ledger.mine ()", "create table ledger_views.mine ()",
        "create schema ledger_rebuild_mine", "drop schema ledger cascade", "alter schema ledger rename to other",
        "alter table ledger.audit_logs disable trigger all", "alter table ledger.audit_logs owner to current_user",
        "create rule r as on insert to ledger.audit_logs do instead nothing",
        "create policy p on ledger.tails using (true)", "alter table ledger.tails disable row level security",
        "grant ledger_reader to current_user",
        "alter function ledger.move_tail() security invoker", "drop function ledger.changed",
        "create or replace view ledger.entries as select 1 as ledger_id",
        "drop trigger append_only on ledger.audit_logs",
        "insert into ledger.readers values (null, current_user::regrole)",
        "create view pg_temp.everything as table ledger.readers; table pg_temp.everything",
        "merge into ledger.audit_logs using (select 1) as x on true when matched then delete",
        "insert into ledger.audit_logs (ledger_id) values (1) returning after",
        "insert into ledger.audit_logs (ledger_id) values (1) on conflict (ledger_id, position) do nothing",
        "create role mine", "alter role ledger_owner login", "create extension dblink",
    ):  # fmt: skip
        assert refusal(writer, statement) == FORBIDDEN, statement
    writer.execute("grant select on ledger.audit_logs to public")  # a warning, and nothing is granted
    [(now,)] = admin.execute("select clock_timestamp()").fetchall()
    tail = full.tail()
    own = row(tail.position + 1, now, prev_hash=tail.hash, action="ledger.entry_erased")
    names = sql.SQL(", ").join(map(sql.Identifier, own))
    insert = sql.SQL("insert into ledger.audit_logs ({}) values ({})").format(
        names, sql.SQL(", ").join(map(sql.Literal, own.values()))
    ).as_string()  # fmt: skip
    assert refusal(writer, insert) == OWN_ACTION
    assert refusal(writer, f"set ledger.own = 'ledger.entry_erased'; {insert}") == OWN_ACTION
    assert refusal(writer, insert.replace("ledger.entry_erased", "thing.done")) is None
    assert contents(admin) == before
    assert len(checked(full)) == 21


def test_what_a_writer_is_told_has_no_bodies(writer: psycopg.Connection, admin: psycopg.Connection) -> None:
    ids = [each for (each,) in admin.execute("select id from ledger.audit_logs order by position")]
    columns = writer.execute("select * from ledger.recorded(1, %s)", (ids,))
    assert [each.name for each in columns.description or ()] == [
        "position", "id", "recorded_at", "occurred_at", "actor", "actor_type", "action", "resource_type", "resource_id",
        "hash", "erased",
    ]  # fmt: skip
    assert len(told := columns.fetchall()) == 21 and SECRET not in str(told)
    texts = [None] * len(ids)
    told = writer.execute("select * from ledger.differences(1, %s, %s, %s, %s)", (ids, texts, texts, texts)).fetchall()
    assert {field for _, field in told} == {"body"}
    for view in ("pg_stats", "pg_stats_ext"):
        assert (
            writer.execute(f"select from {view} where schemaname ^@ 'ledger' and tablename = 'audit_logs'").rowcount
            == 0
        )


def test_members_of_the_roles_superusers_and_readers_of_views_are_no_finding(full: Ledger, login: Logins) -> None:
    for role in ("ledger_writer", "ledger_reader", "ledger_projector", "ledger_eraser", "ledger_admin"):
        login(role)
    login(attributes="superuser")
    login()
    with psycopg.connect(full.settings.database_url or "", autocommit=True) as admin:
        admin.execute(f"grant select on ledger_views.timeline to {login.made[-1]}")
    assert full.verify().findings == []
