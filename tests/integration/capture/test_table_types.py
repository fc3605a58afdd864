"""Values of all types in captured tables: the same JSON whatever the session's settings, and numbers to the digit."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.support.captured import capture, changes, taken

GIVEN = {
    "small smallint": ("-32768", "-32768"),
    "big bigint": ("9223372036854775807", "9223372036854775807"),
    "exact numeric": ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
    "nan numeric": ("'NaN'", '"NaN"'),
    "endless float8": ("'-Infinity'", '"-Infinity"'),
    "real real": ("'0.1'", "0.1"),
    "money money": ("'12.50'", '"$12.50"'),
    "yes boolean": ("true", "true"),
    "bytes bytea": ("'\\x00ff'", '"\\\\x00ff"'),
    "uuid uuid": ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    "moment timestamptz": ("'2026-01-02 03:04:05.678+05:30'", '"2026-01-01T21:34:05.678+00:00"'),
    "never timestamptz": ("'infinity'", '"infinity"'),
    "local timestamp": ("'2026-01-02 03:04:05'", '"2026-01-02T03:04:05"'),
    "day date": ("'2026-02-01'", '"2026-02-01"'),
    "clock time": ("'03:04:05'", '"03:04:05"'),
    "span interval": ("'1 year 2 days 3 hours'", '"P1Y2DT3H"'),
    "span_range tstzrange": (
        "'[2026-01-01 00:00+00,2026-01-02 00:00+00)'",
        '"[\\"2026-01-01 00:00:00+00\\",\\"2026-01-02 00:00:00+00\\")"',
    ),
    "numbers int[]": ("'{{1,2},{3,null}}'", "[[1,2],[3,null]]"),
    "words text[]": ("array['a,b', 'c\"d', null]", '["a,b","c\\"d",null]'),
    "document json": ("""'{"b": 1.00, "a": [true]}'""", '{"b": 1.00, "a": [true]}'),
    "binary_json jsonb": ("""'{"b": 1.00, "a": "\\u00e9"}'""", '{"a": "é", "b": 1.00}'),
    "mood mood": ("'ok'", '"ok"'),
    "moods mood[]": ("'{ok,\"not ok\"}'", '["ok","not ok"]'),
    "place place": ("row('Rome', row(1.50, 2))", '{"city":"Rome","at":{"x":1.50,"y":2}}'),
    "nowhere place": ("null", "null"),
    "positive positive": ("7", "7"),
    "price price": ("1.10", "1.10"),
    "net inet": ("'192.0.2.1/24'", '"192.0.2.1/24"'),
    "bits bit(3)": ("'101'", '"101"'),
    "shape point": ("'(1,2)'", '"(1,2)"'),
    "padded char(3)": ("'a'", '"a  "'),
    "text text": ("e'a\\nb\\t\\u0001'", '"a\\nb\\t\\u0001"'),
}  # fmt: skip


@pytest.fixture
def typed(admin: psycopg.Connection) -> psycopg.Connection:
    admin.execute("""
        create type mood as enum ('ok', 'not ok');
        create type point2 as (x numeric, y int);
        create type place as (city text, at point2);
        create domain positive as int check (value > 0);
        create domain price as numeric;
    """)
    admin.execute(f"create table typed (id int primary key, {', '.join(GIVEN)})")
    capture(admin, "typed")
    taken(admin)
    return admin


def test_every_type(typed: psycopg.Connection) -> None:
    typed.execute("set datestyle = 'SQL, DMY'; set timezone = 'Asia/Kolkata'; set intervalstyle = 'sql_standard'")
    typed.execute("set bytea_output = 'escape'; set extra_float_digits = -3")
    typed.execute("set datestyle = 'ISO, YMD'")
    values = ", ".join(value for value, _ in GIVEN.values())
    typed.execute(f"insert into typed values (1, {values})")
    typed.execute("set datestyle = 'SQL, DMY'")
    typed.execute("update typed set id = 2")
    typed.execute("delete from typed")
    rows = typed.execute(
        "select coalesce(after, before)::text from ledger.outbox where resource_type = 'typed' order by seq"
    )
    first, second, third = [row for (row,) in rows]
    names = [name.split()[0] for name in GIVEN]
    wanted = (
        "{"
        + ",".join(
            f'"{name}":{text}' for name, (_, text) in zip(["id", *names], [("", "1"), *GIVEN.values()], strict=True)
        )
        + "}"
    )
    assert first == wanted
    assert (second, third) == ('{"id":2}', wanted.replace('"id":1', '"id":2', 1))
    json.loads(first)


def test_phantom_changes_of_every_type(typed: psycopg.Connection) -> None:
    values = ", ".join(value for value, _ in GIVEN.values())
    typed.execute(f"insert into typed values (1, {values})")
    taken(typed)
    names = [name.split()[0] for name in GIVEN]
    typed.execute(f"update typed set ({', '.join(names)}) = row({values})")
    assert changes(typed) == []
    typed.execute("update typed set exact = exact * 1.0, price = 1.100")
    assert [sorted(each.after) for each in changes(typed)] == [["exact", "price"]]


def test_large_values_stored_apart(admin: psycopg.Connection) -> None:
    admin.execute("create table t (id int primary key, big text, n int); alter table t alter big set storage external")
    capture(admin, "t")
    admin.execute("insert into t values (1, repeat('x', 100000), 1)")
    taken(admin)
    admin.execute("update t set big = repeat('x', 100000), n = 2")
    admin.execute("update t set big = repeat('x', 99999) || 'y'")
    first, second = taken(admin)
    assert first.after == {"n": 2}
    assert second.after == {"big": "x" * 99_999 + "y"}


def test_casts_and_functions_of_users_never_run(admin: psycopg.Connection) -> None:
    """The trigger runs with the rights of ledger_owner: nothing that a table's owner can define may run with them."""
    admin.execute(
        """
        create type kind as enum ('a', 'b');
        create type pair as (x kind, y int);
        create function stolen(kind) returns json language plpgsql as 'begin raise exception ''ran''; end';
        create function stolen(pair) returns json language plpgsql as 'begin raise exception ''ran''; end';
        create function stolen_text(kind) returns text language plpgsql as 'begin raise exception ''ran''; end';
        create table t (id kind primary key, p pair, ks kind[], ps pair[]);
    """.replace("', current_user", "'', current_user")
    )
    capture(admin, "t")
    admin.execute("create cast (kind as json) with function stolen(kind) as implicit")
    admin.execute("create cast (pair as json) with function stolen(pair) as implicit")
    admin.execute("create cast (kind as text) with function stolen_text(kind) as implicit")
    admin.execute("insert into t values ('a', row('b', 1), '{a,b}', array[row('a', 2)::pair])")
    admin.execute("update t set id = 'b', ks = '{a}'")
    first, second = taken(admin)
    assert (first.key, first.after) == ("a", {"id": "a", "p": {"x": "b", "y": 1}, "ks": ["a", "b"], "ps": ["(a,2)"]})
    assert second.after == {"id": "b", "ks": ["a"]}
