"""Literals are removed from SQL statements, however they are written or cut off."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.ops.redact import without_literals

SECRET = "Sekret"


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("select 1", "select ?"),
        (
            "update t set a = 'it''s', b = 1e-5 where c = .5 and d = $1",
            "update t set a = ?, b = ? where c = ? and d = $1",
        ),
        (r"select E'a\'Sekret', $$Sekret$$, $t$ Sekret $q$ $t$, a1", "select ?, ?, ?, a1"),
        ("select /* Sekret /* 'b' */ Sekret */ x -- Sekret\n, y", "select x , y"),
        ('select $é😀$Sekret$é😀$, a$1$ from "Table 1"', 'select ?, a$1$ from "Table 1"'),
        ("insert into t values ('Sekret", "insert into t values (?"),
        ("select $$Sekret", "select ?"),
        (r"select 'x\' Sekret'", "select ?"),
        ("select U&'Sekret', b'01', 0x1F, 1_000", "select ?, ?, ?, ?"),
        ("/* Sekret", ""),
        ("", ""),
    ],
)
def test_literals_are_left_out(sql: str, shown: str) -> None:
    assert without_literals(sql) == shown
    assert SECRET not in shown


def test_a_long_statement_is_cut() -> None:
    shown = without_literals("select " + ", ".join(["column_name"] * 100))
    assert len(shown) == 200 and shown.endswith("…")


BEFORE = st.lists(
    st.sampled_from(["a", " ", "'x'", "E'\\\\'", "$1", "/*/**/*/", '"q"', "$$'$$", "7", "''", "$a$ $$ $a$", "--\n"])
)


@given(BEFORE, st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.integers(0, 40))
def test_what_postgres_takes_for_a_literal_is_never_shown(before: list[str], value: str, cut: int) -> None:
    """Written as libpq writes it, after anything that is whole, and cut anywhere as pg_stat_activity cuts."""
    literal = psycopg.sql.Literal(SECRET + value + SECRET).as_string()
    sql = " ".join([*before, literal])
    for text in (sql, sql[: len(sql) - cut], sql + " from t"):
        assert SECRET not in without_literals(text)


@given(st.text())
def test_anything_is_taken(sql: str) -> None:
    assert "\n" not in without_literals(sql)
