"""The database refuses everything but valid appends, with a reason; its names are the contract."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ledger.store.columns import COLUMNS
from tests.support.rows import Row, insert, row

FORK, TWISTED, CLOCK, CHANGE = "LE001", "LE002", "LE003", "LE004"


def test_the_columns_of_an_entry_are_those_of_the_table(admin: psycopg.Connection) -> None:
    """From the one list in store/columns.py the statements about whole entries are made."""
    table = admin.execute(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'ledger.audit_logs'::regclass and attnum > 0 order by attnum"
    ).fetchall()
    types = {"integer": "int", "timestamp with time zone": "timestamptz"}
    assert [(name, types.get(kind, kind)) for name, kind in table] == [("ledger_id", "int"), *COLUMNS.items()]


def state(connection: psycopg.Connection) -> list[Any]:
    queries = (
        "table ledger.audit_logs order by 1, 2",
        "table ledger.tails order by 1",
        "table ledger.ledgers order by 1",
    )
    return [connection.execute(query).fetchall() for query in queries]


def refused(connection: psycopg.Connection, sqlstate: str, text: str, rows: list[Row] | str) -> None:
    """Refused for that reason, and nothing has changed."""
    before = state(connection)
    with pytest.raises(psycopg.Error, match=text) as error:
        insert(connection, rows) if isinstance(rows, list) else connection.execute(rows.encode())
    assert error.value.sqlstate == sqlstate
    assert state(connection) == before


CHANGES = [
    ("update ledger.audit_logs set actor = 'b' where position = 2", "UPDATE on ledger.audit_logs is refused"),
    ("update ledger.audit_logs set actor = actor where false", "UPDATE on ledger.audit_logs is refused"),
    ("delete from ledger.audit_logs where position = 3", "DELETE on ledger.audit_logs is refused"),
    ("truncate ledger.audit_logs", "TRUNCATE on ledger.audit_logs is refused"),
    ("truncate ledger.ledgers, ledger.tails, ledger.audit_logs", "TRUNCATE on ledger.ledgers is refused"),
    ("delete from ledger.ledgers", "DELETE on ledger.ledgers is refused"),
    ("update ledger.ledgers set name = 'other'", "UPDATE on ledger.ledgers is refused"),
    ("truncate ledger.ledgers", "TRUNCATE on ledger.ledgers is refused"),
    ("delete from ledger.tails", "DELETE on ledger.tails is refused"),
    ("truncate ledger.tails", "TRUNCATE on ledger.tails is refused"),
    (
        "update ledger.tails set position = 2, hash = decode(repeat('00', 32), 'hex')",
        "UPDATE on ledger.tails is refused",
    ),
    ("update ledger.tails set position = position", "UPDATE on ledger.tails is refused"),
    ("update ledger.tails set recorded_at = now() + interval '1 day'", "UPDATE on ledger.tails is refused"),
    ("update ledger.tails set ledger_id = ledger_id + 7", "UPDATE on ledger.tails is refused"),
    (
        "insert into ledger.audit_logs select * from ledger.audit_logs where position = 3"
        " on conflict (ledger_id, position) do update set actor = 'b'",
        "UPDATE on ledger.audit_logs is refused",
    ),
    (
        "merge into ledger.audit_logs e using (select 2 as p) x on e.position = x.p when matched then delete",
        "DELETE on ledger.audit_logs is refused",
    ),
]


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_what_is_recorded_is_never_changed_or_removed(admin: psycopg.Connection, now: datetime, role: str) -> None:
    admin.execute(sql.SQL("set session_replication_role = {}").format(sql.Identifier(role)))
    for statement, text in CHANGES:
        refused(admin, CHANGE, f"^{text}", statement)


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_what_does_not_continue_the_tail_is_refused(admin: psycopg.Connection, now: datetime, role: str) -> None:
    admin.execute(sql.SQL("set session_replication_role = {}").format(sql.Identifier(role)))
    wrong, second = bytes(31) + b"\xff", timedelta(seconds=1)
    refused(admin, "23505", "one_entry_per_position", [row(3, now)])
    refused(admin, "23505", "one_entry_per_id", [row(4, now), row(5, now) | {"id": known_id(admin)}])
    refused(admin, FORK, "^a gap: entry 5 would follow entry 3 of ledger 1", [row(5, now)])
    refused(admin, FORK, "^a gap: entry 2 would follow entry 0 of ledger 2", [row(2, now, ledger_id=2)])
    refused(
        admin, FORK, "^a wrong link: prev_hash of entry 4 is not the hash of entry 3", [row(4, now, prev_hash=wrong)]
    )
    refused(
        admin,
        FORK,
        "^time runs back: entry 4 says .*, entry 3 of ledger 1 was",
        [row(4, now, recorded_at=now - second)],
    )
    refused(admin, FORK, "^no ledger has the id 77", [row(1, now, ledger_id=77)])
    insert(admin, [row(4, now), row(5, now)])
    assert [len(part) for part in state(admin)] == [5, 2, 2]


def known_id(admin: psycopg.Connection) -> Any:
    return admin.execute("select id from ledger.audit_logs where position = 1").fetchall()[0][0]


def test_a_fork_is_refused_even_where_its_position_is_free(admin: psycopg.Connection, now: datetime) -> None:
    """As after someone with every right had deleted the newest entry."""
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    admin.execute("delete from ledger.audit_logs where position = 3")
    admin.execute("alter table ledger.audit_logs enable always trigger append_only")
    refused(admin, FORK, "^a fork: entry 3 is there already, ledger 1 stands at 3", [row(3, now)])


def test_rows_of_one_statement_must_continue_each_other(admin: psycopg.Connection, now: datetime) -> None:
    text = "^entry {} does not continue the entry before it in the same statement"
    late, wrong = now + timedelta(seconds=1), bytes(31) + b"\xff"
    refused(admin, TWISTED, text.format(6), [row(4, now), row(6, now)])
    refused(admin, TWISTED, text.format(5), [row(4, now), row(5, now, prev_hash=wrong), row(6, now)])
    refused(admin, TWISTED, text.format(5), [row(4, late), row(5, now)])
    refused(admin, TWISTED, text.format(5), [row(4, now), row(5, now, salt=None)])
    refused(admin, TWISTED, "^entry 4 has no salt", [row(4, now, salt=None), row(5, now)])
    refused(admin, TWISTED, "^entry . does not continue", [row(4, now), row(1, now, ledger_id=2)])
    refused(admin, TWISTED, "^entry . does not continue", [row(4, now), row(5, now, ledger_id=2)])
    refused(admin, TWISTED, "^entry . does not continue", [row(5, now, ledger_id=2), row(4, now)])
    refused(admin, TWISTED, text.format(4), [row(6, now), row(4, now), row(5, now)])  # they must come in order
    insert(admin, [row(4, now), row(5, now), row(6, now)])


def test_an_entry_without_a_salt_is_refused(admin: psycopg.Connection, now: datetime) -> None:
    refused(admin, TWISTED, "^entry 4 has no salt: only an erasure may remove a body", [row(4, now, salt=None)])


def test_a_foreign_clock_is_refused(admin: psycopg.Connection, now: datetime) -> None:
    """In a statement of several too: neither its first nor its last entry may be far from the database's clock."""
    hour = timedelta(hours=1)
    early, ahead = "^entry 4 says it was recorded at .*, but the statement came at", "ahead of this database's clock"
    refused(admin, CLOCK, early, [row(4, now - hour)])
    refused(admin, CLOCK, early, [row(4, now - hour), row(5, now)])
    refused(admin, CLOCK, f"^entry 4 says it was recorded at .*, {ahead}", [row(4, now + hour)])
    refused(admin, CLOCK, f"^entry 5 says it was recorded at .*, {ahead}", [row(4, now), row(5, now + hour)])


def test_a_row_of_the_wrong_form_is_refused(admin: psycopg.Connection, now: datetime) -> None:
    for differences in (
        {"hash": bytes(31)},
        {"prev_hash": bytes(33)},
        {"body_hash": b""},
        {"salt": bytes(15)},
        {"resource_type": "invoice"},
        {"resource_id": "7"},
    ):
        refused(admin, "23514", "entry_format", [row(4, now, **differences)])
    refused(admin, "23514", "entry_format", [row(0, now)])


def test_a_body_cannot_lose_its_salt_alone(admin: psycopg.Connection, now: datetime) -> None:
    """Not even while an erasure may update: body and salt go together."""
    insert(admin, [row(4, now, after="{}")])
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    refused(admin, "23514", "entry_format", "update ledger.audit_logs set salt = null where position = 4")


def test_a_name_that_the_format_does_not_allow_is_refused(admin: psycopg.Connection) -> None:
    for name in ("", "Main", "-a", ".a", "a b", "ä", "a\n", "a" * 65, "a/b"):
        with pytest.raises(psycopg.errors.CheckViolation, match="ledger_name_format"):
            admin.execute("select ledger.create_ledger(%s)", [name])
    assert len(state(admin)[2]) == 1


TABLES = {
    "ledgers": "ledger_id int4, name text, created_at timestamptz",
    "tails": "ledger_id int4, epoch int4, position int8, hash bytea, recorded_at timestamptz, fence int8",
    "audit_logs": "ledger_id int4, position int8, id uuid, recorded_at timestamptz, occurred_at timestamptz,"
    " actor text, actor_type text, action text, resource_type text, resource_id text,"
    " before json, after json, metadata json,"
    " salt bytea, body_hash bytea, prev_hash bytea, hash bytea",
    "entries": "ledger_id int4, position int8, id uuid, recorded_at timestamptz, occurred_at timestamptz,"
    " actor text, actor_type text, action text, resource_type text, resource_id text,"
    " before json, after json, metadata json,"
    " salt bytea, body_hash bytea, prev_hash bytea, hash bytea",
    "envelopes": "ledger_id int4, position int8, envelope text, hash bytea",
}


def test_names_types_and_order_of_columns_are_the_contract(admin: psycopg.Connection) -> None:
    for table, columns in TABLES.items():
        rows = admin.execute(
            "select column_name, udt_name from information_schema.columns"
            " where table_schema = 'ledger' and table_name = %s order by ordinal_position",
            [table],
        )
        assert ", ".join(" ".join(column) for column in rows) == columns


def test_every_key_begins_with_the_ledger(admin: psycopg.Connection) -> None:
    keys = admin.execute(
        "select c.relname, array(select attname from unnest(i.indkey) with ordinality k(n, o)"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = k.n order by k.o)::text[],"
        " i.indisprimary, i.indisunique"
        " from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'ledger'"
    ).fetchall()
    # What is of the database, or of one of its tables, is of no ledger.
    others = {"migrations", "ledgers", "captures", "capture_statements", "digest_keys"}
    assert all(columns[0] == "ledger_id" for table, columns, _, _ in keys if table not in others)
    of_entries = sorted((columns, primary, unique) for table, columns, primary, unique in keys if table == "audit_logs")
    assert of_entries == [
        (["ledger_id", "actor", "position"], False, False),
        (["ledger_id", "id"], False, True),
        (["ledger_id", "position"], True, True),
        (["ledger_id", "recorded_at"], False, False),
        (["ledger_id", "resource_type", "resource_id", "position"], False, False),
    ]


def test_the_other_names(admin: psycopg.Connection) -> None:
    relations = admin.execute(
        "select table_name from information_schema.tables where table_schema = 'ledger'"
    ).fetchall()
    assert {name for (name,) in relations} >= {*TABLES, "projections"}
    assert admin.execute("select to_regnamespace('ledger_views') is not null").fetchall() == [(True,)]


@pytest.fixture
def now(admin: psycopg.Connection, migrated_url: str) -> datetime:
    """The database's clock, once ledger 1 has entries 1 to 3 and ledger 2 is empty."""
    admin.execute("select ledger.create_ledger('second')")
    [(moment,)] = admin.execute("select clock_timestamp()").fetchall()
    assert isinstance(moment, datetime)
    insert(admin, [row(position, moment) for position in (1, 2, 3)])
    return moment
