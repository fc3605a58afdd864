"""Captured tables: every way in which rows change, by clients that know nothing of the ledger."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from ledger import Ledger, testing
from ledger.capture import audit_context, current
from ledger.errors import UsageError
from tests.support.captured import INVOICES, Change, capture, sealed, taken
from tests.support.pgbouncer import pgbouncer


@pytest.fixture
def invoices(admin: psycopg.Connection) -> psycopg.Connection:
    """With three rows, captured."""
    admin.execute(INVOICES)
    admin.execute("insert into invoices values (1, 10), (2, 20), (3, 30)")
    capture(admin, "public.invoices", action="invoice.{op}", resource_type="invoice")
    taken(admin)
    return admin


def test_single_rows(invoices: psycopg.Connection) -> None:
    invoices.execute("insert into invoices values (4, 40.50)")
    invoices.execute("update invoices set total = 41, status = 'sent' where id = 4")
    invoices.execute("update invoices set total = 41 where id = 4")  # without a change
    invoices.execute("delete from invoices where id = 4")
    invoices.execute("delete from invoices where id = 4")  # no row
    assert taken(invoices) == [
        Change("invoice.created", "4", None, {"id": 4, "total": 40.5, "status": "open"}),
        Change("invoice.updated", "4", {"total": 40.5, "status": "open"}, {"total": 41, "status": "sent"}),
        Change("invoice.deleted", "4", {"id": 4, "total": 41, "status": "sent"}, None),
    ]


def test_bulk_upsert_merge_cte_copy(invoices: psycopg.Connection) -> None:
    invoices.execute("update invoices set total = total + 1")
    assert [(each.key, each.after) for each in taken(invoices)] == [
        ("1", {"total": 11}), ("2", {"total": 21}), ("3", {"total": 31}),
    ]  # fmt: skip
    invoices.execute("insert into invoices values (3, 0), (4, 0) on conflict (id) do update set total = excluded.total")
    assert {(each.action, each.key) for each in taken(invoices)} == {("invoice.updated", "3"), ("invoice.created", "4")}
    invoices.execute("""
        merge into invoices using (values (4, 9), (5, 9)) as new (id, total) on invoices.id = new.id
        when matched then update set total = new.total when not matched then insert values (new.id, new.total)
    """)
    assert {(each.action, each.key) for each in taken(invoices)} == {("invoice.updated", "4"), ("invoice.created", "5")}
    invoices.execute("""
        with gone as (delete from invoices where id > 3 returning *), made as (insert into invoices values (9, 9))
        update invoices set status = 'seen' where id = (select min(id) - 3 from gone)
    """)
    assert sorted((each.action, each.key) for each in taken(invoices)) == [
        ("invoice.created", "9"), ("invoice.deleted", "4"), ("invoice.deleted", "5"), ("invoice.updated", "1"),
    ]  # fmt: skip
    with invoices.cursor().copy("copy invoices (id, total) from stdin") as copy:
        copy.write("10\t1.00\n11\t2.00\n")
    assert [each.key for each in taken(invoices)] == ["10", "11"]


def test_changed_keys_and_truncate(invoices: psycopg.Connection) -> None:
    invoices.execute("alter table invoices drop constraint invoices_pkey, add primary key (id) deferrable")
    invoices.execute("update invoices set id = id + 1")
    assert taken(invoices) == [Change("invoice.updated", str(n), {"id": n}, {"id": n + 1}) for n in (1, 2, 3)]
    invoices.execute("analyze invoices")
    invoices.execute("truncate invoices")
    assert taken(invoices) == [Change("invoice.truncated", "*", {"estimated_rows": 3}, None)]


def test_cascades(invoices: psycopg.Connection) -> None:
    invoices.execute(
        "create table lines (invoice int references invoices on delete cascade, n int, primary key (invoice, n))"
    )
    capture(invoices, "lines")
    invoices.execute("insert into lines values (1, 1), (1, 2)")
    taken(invoices)
    invoices.execute("delete from invoices where id = 1")
    assert {(each.action, each.key) for each in taken(invoices)} == {
        ("invoice.deleted", "1"), ("lines.deleted", "1,1"), ("lines.deleted", "1,2"),
    }  # fmt: skip


def test_psql(invoices: psycopg.Connection, migrated_url: str) -> None:
    text = "set datestyle = 'German'; update invoices set total = 1e3 where id = 1;\n"
    subprocess.run(["psql", "-qX", migrated_url], input=text, text=True, check=True)
    assert taken(invoices) == [Change("invoice.updated", "1", {"total": 10}, {"total": 1000})]


def test_rollbacks(invoices: psycopg.Connection) -> None:
    with pytest.raises(ZeroDivisionError), invoices.transaction():
        invoices.execute("delete from invoices")
        raise ZeroDivisionError
    with invoices.transaction():
        invoices.execute("update invoices set total = 1 where id = 1")
        with pytest.raises(ZeroDivisionError), invoices.transaction():
            invoices.execute("update invoices set total = 2 where id = 2")
            raise ZeroDivisionError
        invoices.execute("update invoices set total = 3 where id = 3")
    assert [each.key for each in taken(invoices)] == ["1", "3"]


def test_retry_after_a_serialization_failure(invoices: psycopg.Connection, migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as other:
        other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        other.execute("select * from invoices")
        invoices.execute("update invoices set total = 11 where id = 1")
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute("update invoices set total = 12 where id = 1")
        other.rollback()
        other.execute("update invoices set total = 12 where id = 1")
        other.commit()
    assert [(each.before, each.after) for each in taken(invoices)] == [
        ({"total": 10}, {"total": 11}), ({"total": 11}, {"total": 12}),
    ]  # fmt: skip


def test_two_databases(invoices: psycopg.Connection, servers: testing.TestServers, template: str) -> None:
    with (
        testing.database(servers.database_url, template=template) as url,
        psycopg.connect(url, autocommit=True) as other,
    ):
        other.execute(INVOICES)
        capture(other, "invoices", action="other.{op}")
        invoices.execute("insert into invoices values (7, 1)")
        other.execute("insert into invoices values (7, 2)")
        assert [each.action for each in taken(invoices)] == ["invoice.created"]
        assert [each.action for each in taken(other)] == ["other.created"]


def test_metadata_and_actor(invoices: psycopg.Connection) -> None:
    with audit_context("user:1", actor_type="staff", reason="ticket 7"), invoices.transaction():
        context = current()
        assert context is not None
        invoices.execute("select set_config('ledger.context', %s, true)", [context.setting()])
        invoices.execute("update invoices set total = 5 where id = 1")
        invoices.execute("delete from invoices where id = 2")
        [(xid,)] = invoices.execute("select pg_current_xact_id()::text").fetchall()
    invoices.execute("delete from invoices where id = 1")
    rows = invoices.execute(
        "select actor, actor_type, metadata from ledger.outbox where action ~ '^invoice' order by seq"
    )
    user = invoices.info.user
    same = ("user:1", "staff", {"reason": "ticket 7", "tx": xid, "via": "table:public.invoices"})
    first, second, third = rows.fetchall()
    assert first == second == same
    assert third[:2] == (f"db:{user}", "database") and third[2]["tx"] != xid


def test_no_actor(invoices: psycopg.Connection) -> None:
    capture(invoices, "invoices", no_actor="require")
    invoices.execute("update invoices set total = 7 where id = 99")  # no row
    invoices.execute("update invoices set total = total")  # no change
    with pytest.raises(psycopg.Error, match=r"public\.invoices, key '1', is not recorded.*actor: is missing") as raised:
        invoices.execute("update invoices set total = 7 where id = 1")
    assert raised.value.sqlstate == "LE013"
    capture(invoices, "invoices", no_actor="unknown")
    invoices.execute("update invoices set total = 7 where id = 1")
    assert invoices.execute("select actor from ledger.outbox where action = 'invoices.updated'").fetchall() == [
        ("unknown",)
    ]


def test_condition_and_full(invoices: psycopg.Connection) -> None:
    capture(invoices, "invoices", condition="status = 'sent'", full=True)
    invoices.execute("insert into invoices values (4, 1, 'sent'), (5, 1, 'open'), (6, 1, null)")
    invoices.execute("update invoices set status = 'paid' where id >= 4")
    invoices.execute("update invoices set total = 2 where id >= 4")
    assert taken(invoices) == [
        Change("invoices.created", "4", None, {"id": 4, "total": 1, "status": "sent"}),
        Change(
            "invoices.updated", "4", {"id": 4, "total": 1, "status": "sent"}, {"id": 4, "total": 1, "status": "paid"}
        ),
    ]


@pytest.mark.parametrize(
    "condition",
    ["evil(id)", "random() > 0.5", "id = any (array(select 1))", "true; drop table invoices", "true) , check (true",
     "nothing = 1", "true -- x"],
)  # fmt: skip
def test_conditions_that_are_refused(invoices: psycopg.Connection, condition: str) -> None:
    invoices.execute("create function public.evil(int) returns boolean language sql as 'select true'")
    for text in (condition, condition.replace("evil", "public.evil")):
        with pytest.raises(UsageError):
            capture(invoices, "invoices", condition=text)
    invoices.execute("insert into invoices values (50, 1)")
    assert [each.action for each in taken(invoices)] == ["invoice.created"]


@pytest.mark.parametrize("kind", ["enum", "text"])
def test_a_cast_that_is_made_after_the_condition_never_runs(admin: psycopg.Connection, kind: str) -> None:
    """It would run with the rights of ledger_owner."""
    admin.execute("create type state as enum ('shut', 'open', 'odd')")
    admin.execute(f"create table t (id int primary key, status {'state' if kind == 'enum' else kind})")
    with pytest.raises(UsageError, match="only types of Postgres, enums as text"):
        capture(admin, "t", condition="status::text = 'odd'::public.state::text")
    capture(admin, "t", condition="status::text like 'o%' and to_json(status)::text <> '\"odd\"'")
    admin.execute("alter table t alter status type state using status::text::state")
    for target in ("text", "json"):
        admin.execute(
            f"create function to_{target}(state) returns {target} language plpgsql as 'begin return 1 / 0; end'"
        )
        admin.execute(f"create cast (state as {target}) with function to_{target}(state) as implicit")
    admin.execute("insert into t values (1, 'open'), (2, 'shut'), (3, 'odd'), (4, null)")
    assert [each.key for each in taken(admin)[-1:]] == ["1"]
    admin.execute("create type other as (a text); alter table t alter status type other using null")
    admin.execute("create function to_text(other) returns text language plpgsql as 'begin return 1 / 0; end'")
    admin.execute("create cast (other as text) with function to_text(other) as implicit")
    admin.execute("insert into t values (5, row('open'))")
    assert taken(admin) == [], "its text is (open)"


def test_partitions_and_children(admin: psycopg.Connection) -> None:
    admin.execute("""
        create table orders (id int, day date, note text, primary key (id, day)) partition by range (day);
        create table orders_1 partition of orders for values from ('2026-01-01') to ('2026-02-01');
        create table orders_2 (note text, gone int, day date not null, id int not null);
        alter table orders_2 drop column gone, add primary key (id, day);
        alter table orders attach partition orders_2 for values from ('2026-02-01') to ('2026-03-01');
        create table places (id int primary key, name text);
        create table cities (people int, primary key (id)) inherits (places);
    """)
    capture(admin, "orders")
    capture(admin, "places")
    admin.execute("create table orders_3 partition of orders for values from ('2026-03-01') to ('2026-04-01')")
    admin.execute("insert into orders values (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b'), (3, '2026-03-05', 'c')")
    admin.execute("update orders_2 set note = 'direct'")
    admin.execute("update orders set day = '2026-02-07' where id = 1")
    admin.execute("delete from orders where id = 3")
    assert [(each.action, each.key, each.before and each.after) for each in taken(admin)] == [
        ("orders.created", "1,2026-01-05", None),
        ("orders.created", "2,2026-02-05", None),
        ("orders.created", "3,2026-03-05", None),
        ("orders.updated", "2,2026-02-05", {"note": "direct"}),
        ("orders.updated", "1,2026-01-05", {"day": "2026-02-07"}),
        ("orders.deleted", "3,2026-03-05", None),
    ]
    admin.execute(
        "insert into cities values (1, 'Rome', 3); update places set name = 'Roma'; update cities set people = 4"
    )
    assert [(each.action, each.after) for each in taken(admin)] == [
        ("places.created", {"id": 1, "name": "Rome", "people": 3}), ("places.updated", {"name": "Roma"}),
        ("places.updated", {"people": 4}),
    ]  # fmt: skip
    drift = admin.execute("select broken, problem from ledger.capture_drift() order by problem").fetchall()
    assert len(drift) == 4 and drift[0] == (True, "trigger ledger_capture_delete on public.orders_3 is missing")
    capture(admin, "orders")
    assert admin.execute("select * from ledger.capture_drift()").fetchall() == []
    admin.execute("insert into orders_3 values (4, '2026-03-09', null)")
    assert [each.key for each in taken(admin)] == ["4,2026-03-09"]
    admin.execute("alter table orders detach partition orders_3; delete from orders_3")
    assert [each.key for each in taken(admin)] == ["4,2026-03-09"]
    admin.execute("select ledger.remove_capture('orders')")
    admin.execute("insert into orders_3 values (4, '2026-03-09', null); insert into orders_1 values (1, '2026-01-01')")
    assert taken(admin) == []


def test_a_partition_that_swallows_rows(admin: psycopg.Connection) -> None:
    """Then there are more old rows than new ones: they are paired by the key."""
    admin.execute("""
        create table t (id int, part int, primary key (id, part)) partition by list (part);
        create table t1 partition of t for values in (1); create table t2 partition of t for values in (2);
        create function swallow() returns trigger language plpgsql as 'begin return null; end';
        create trigger s before insert on t2 for each row when (new.id = 1) execute function swallow();
        insert into t values (1, 1), (2, 1), (3, 1);
    """)
    capture(admin, "t", key=("id",))
    admin.execute("update t set part = 2")
    assert [(each.key, each.after) for each in taken(admin)] == [
        ("1", {"id": None, "part": None}), ("2", {"part": 2}), ("3", {"part": 2}),
    ]  # fmt: skip


HOSTILE = """Robert'); drop table "x"; -- %s {op} $1 \\ é"""


def test_hostile_names_and_search_path(admin: psycopg.Connection) -> None:
    table, column = sql.Identifier(HOSTILE[:40]), sql.Identifier(HOSTILE[:50])
    admin.execute(
        sql.SQL('create table {} ({} int primary key, "#" text, "##" text, key int, before int, place int)').format(
            table, column
        )
    )
    quoted = table.as_string(admin)
    capture(admin, f"public.{quoted}", resource_type="odd", no_actor="unknown")
    admin.execute(
        "create schema games;create function games.to_json(anyelement) returns json language sql as 'select null::json'"
    )
    admin.execute("create operator games.|| (leftarg = text, rightarg = text, function = textcat)")
    admin.execute("set search_path = games, public")
    admin.execute(sql.SQL("insert into public.{} values (1, 'a', 'b', 2, 3, 4)").format(table))
    admin.execute(sql.SQL("update public.{} set \"#\" = 'c', key = 5").format(table))
    admin.execute(sql.SQL("delete from public.{}").format(table))
    admin.execute("reset search_path")
    row = {HOSTILE[:50]: 1, "#": "a", "##": "b", "key": 2, "before": 3, "place": 4}
    assert taken(admin) == [
        Change("odd.created", "1", None, row),
        Change("odd.updated", "1", {"#": "a", "key": 2}, {"#": "c", "key": 5}),
        Change("odd.deleted", "1", {**row, "#": "c", "key": 5}, None),
    ]


def test_refused_rows(admin: psycopg.Connection) -> None:
    admin.execute("create table t (id text primary key, j json, big text, big2 text)")
    capture(admin, "t")
    with pytest.raises(psycopg.Error, match=r"public\.t, key '1', .*after: contains U\+0000") as raised:
        admin.execute("""insert into t values ('1', '{"a": "\\u0000"}')""")
    assert (raised.value.sqlstate, raised.value.diag.column_name, raised.value.diag.table_name) == (
        "LE013",
        "after",
        "public.t",
    )
    with pytest.raises(psycopg.Error, match=r"after: has more than 64 levels"):
        admin.execute("insert into t values ('1', %s)", ["[" * 70 + "]" * 70])
    with pytest.raises(psycopg.Error, match=r"resource_id: must have 1 to 255 characters, not 256"):
        admin.execute("insert into t values (%s)", ["x" * 256])
    assert taken(admin) == []
    admin.execute("insert into t values ('2', null, repeat('x', 300000), 'small')")
    [made] = taken(admin)
    text = json.dumps("x" * 300_000).encode()
    assert made.after["big"] == {"$bytes": 300_002, "$sha256": hashlib.sha256(text).hexdigest()}
    assert made.after["big2"] == "small"


def test_columns_that_come_and_go(invoices: psycopg.Connection) -> None:
    capture(invoices, "invoices", redact=("status",), exclude=("total",))
    invoices.execute("alter table invoices add column note text, add column api_token text")
    invoices.execute("alter table invoices add column doubled numeric generated always as (total * 2) stored")
    invoices.execute("alter table invoices rename column status to state")
    invoices.execute("insert into invoices values (8, 1, 'secret 1', 'n', 'secret 2')")
    invoices.execute("alter table invoices rename to bills")
    invoices.execute("alter table bills drop column note")
    invoices.execute("update bills set state = 'secret 3', api_token = 'secret 4' where id = 8")
    gone = {"$redacted": True}
    assert taken(invoices) == [
        Change("invoices.created", "8", None, {"id": 8, "state": gone, "note": "n", "api_token": gone, "doubled": 2}),
        Change("invoices.updated", "8", {"state": gone, "api_token": gone}, {"state": gone, "api_token": gone}),
    ]
    problems = invoices.execute("select problem, broken from ledger.capture_drift() order by 1").fetchall()
    assert problems == [
        ("column api_token is new: redacted by the built-in patterns", False),
        ("column doubled is new: recorded", False),
        ("column status is now state", False),
    ]  # fmt: skip
    invoices.execute("drop table bills")
    assert invoices.execute("select broken, problem from ledger.capture_drift()").fetchall() == [
        (True, "the table is gone")
    ]


def test_a_new_column_of_an_old_name(admin: psycopg.Connection) -> None:
    """Both are treated as the old one was."""
    admin.execute("create table t (id int primary key, iban text, note text)")
    capture(admin, "t", redact=("iban",), exclude=("note",))
    for name in ("iban", "note", "id"):
        admin.execute(f"alter table t rename {name} to old_{name}")
    admin.execute("alter table t add iban text, add note text, add id int not null")
    admin.execute("insert into t values (1, 'secret', 'left out', 'secret', 'left out', 7)")
    gone = {"$redacted": True}
    assert taken(admin)[-1] == Change("t.created", "7", None, {"old_id": 1, "old_iban": gone, "iban": gone, "id": 7})


def test_a_column_that_loses_its_scale(admin: psycopg.Connection) -> None:
    admin.execute("create table t (id int primary key, n numeric(4, 1)); insert into t values (1, 1.0)")
    capture(admin, "t")
    admin.execute("alter table t alter n type numeric")
    admin.execute("update t set n = 1.00")
    assert [each.action for each in taken(admin)] == ["t.updated"]


def test_virtual_columns_are_left_out(admin: psycopg.Connection) -> None:
    if admin.info.server_version < 180000:
        pytest.skip("needs PostgreSQL 18")
    virtual = "int generated always as (a * 2) virtual"
    admin.execute(f"create table t (id int primary key, a int, b {virtual}); insert into t values (1, 5)")
    with pytest.raises(UsageError, match="the condition uses b, which is a virtual generated column"):
        capture(admin, "t", condition="b > 1")
    capture(admin, "t")
    admin.execute("select ledger.backfill_capture('t', 10)")
    admin.execute(f"alter table t add c {virtual}")
    admin.execute("update t set a = 6; delete from t")
    assert [(each.before, each.after) for each in taken(admin)] == [
        (None, {"id": 1, "a": 5}), ({"a": 5}, {"a": 6}), ({"id": 1, "a": 6}, None)
    ]  # fmt: skip
    assert ("column c is new: exclude",) in admin.execute("select problem from ledger.capture_drift()").fetchall()


def test_replica_role_and_disabled_triggers(invoices: psycopg.Connection) -> None:
    invoices.execute(
        "set session_replication_role = replica; delete from invoices where id = 1; reset session_replication_role"
    )
    invoices.execute("alter table invoices disable trigger ledger_capture_delete")
    invoices.execute("delete from invoices where id = 2")
    assert taken(invoices) == []
    assert invoices.execute("select problem from ledger.capture_drift()").fetchall() == [
        ("trigger ledger_capture_delete on public.invoices is disabled",)
    ]
    capture(invoices, "invoices")
    invoices.execute("delete from invoices where id = 3")
    assert [each.key for each in taken(invoices)] == ["3"]


def test_sealed(invoices: psycopg.Connection, ledger: Ledger) -> None:
    invoices.execute("update invoices set total = total + 1")
    sealed(ledger)
    entries = [entry for entry in ledger.read() if entry.action == "invoice.updated"]
    assert [(entry.resource_type, entry.resource_id, entry.after) for entry in entries] == [
        ("invoice", "1", {"total": 11}), ("invoice", "2", {"total": 21}), ("invoice", "3", {"total": 31}),
    ]  # fmt: skip
    assert ledger.verify().ok


@pytest.fixture
def pooled(migrated_url: str) -> Iterator[str]:
    with pgbouncer(migrated_url, pool_size=3) as pooler:
        yield pooler.url(migrated_url)


def test_contexts_behind_a_transaction_pooler(invoices: psycopg.Connection, pooled: str) -> None:
    """Three server connections for eight clients; half of the transactions set no context."""
    invoices.execute("insert into invoices select n, 0 from generate_series(100, 107) as n")
    taken(invoices)

    def client(number: int) -> None:
        with psycopg.connect(pooled, prepare_threshold=None) as connection:
            for turn in range(1, 9):
                if turn % 2:
                    text = json.dumps({"actor": f"user:{number}", "metadata": {"request": {"id": f"{number}-{turn}"}}})
                    connection.execute("select set_config('ledger.context', %s, true)", [text])
                connection.execute("update invoices set total = %s where id = %s", [turn, 100 + number])
                connection.commit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    rows = invoices.execute(
        "select resource_id, after ->> 'total', actor, metadata #>> '{request,id}', metadata ->> 'tx'"
        " from ledger.outbox where action = 'invoice.updated'"
    ).fetchall()
    user = f"db:{invoices.info.user}"
    assert sorted(row[:4] for row in rows) == sorted(
        (str(100 + n), f"{turn}.00", *((f"user:{n}", f"{n}-{turn}") if turn % 2 else (user, None)))
        for n in range(8) for turn in range(1, 9)
    )  # fmt: skip
    assert len({row[4] for row in rows}) == 64
