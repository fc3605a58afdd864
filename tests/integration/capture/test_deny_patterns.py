"""Postgres understands the deny patterns as Python does."""

from __future__ import annotations

import re

import psycopg
import pytest

from ledger.capture.deny_patterns import CARD_NUMBER, DENY, WORD_BREAKS, denied, deny_pattern, words

KEYS = [
    *(word for name in DENY.values() for word in name),
    *("userPassword2", "X-API-Key", "stripeAPIKeys", "oauth2Token", "AWS_ACCESS_KEY_ID", "CVV2", "user.pin", "$token"),
    *(
        "tokenizer",
        "secretary",
        "passwordless_login_enabled",
        "shipping",
        "HTTPServer",
        "a1B2",
        "größe",
        "épin",
        "пароль",
    ),
    *("", "_", "--", "[x]", "a`b^c\\d{e}", "spin", "pins", "x y\tz"),
]
TEXTS = [
    *("4111 1111 1111 1111", "4111-1111-1111-1111", " 378282246310005\n", "4222222222222", "411111111111", "4" * 20),
    *("4111  1111 1111 1111", "x4111111111111111", "٤" * 16, "", "2026-11-29"),
]


@pytest.fixture
def connection(database_url: str) -> psycopg.Connection:
    return psycopg.connect(database_url)


def test_keys(connection: psycopg.Connection) -> None:
    expression = "%(key)s::text"
    params: dict[str, str] = {}
    for number, (pattern, replacement) in enumerate(WORD_BREAKS):
        expression = f"regexp_replace({expression}, %(p{number})s, %(r{number})s, 'g')"
        params |= {f"p{number}": pattern, f"r{number}": replacement}
    query = f"select w, w ~ %(deny)s from lower(trim(both '_' from {expression})) as w"
    with connection:
        for key in KEYS:
            row = connection.execute(query, params | {"key": key, "deny": deny_pattern()}).fetchone()
            assert row == (words(key), bool(denied(words(key)))), key
        allowed = deny_pattern(allow={"pin"})
        row = connection.execute("select 'pin' ~ %s, 'token' ~ %s", [allowed, allowed]).fetchone()
        assert row == (False, True)


def test_card_numbers(connection: psycopg.Connection) -> None:
    with connection:
        for text in TEXTS:
            row = connection.execute("select %s::text ~ %s", [text, f"^(?:{CARD_NUMBER})$"]).fetchone()
            assert row == (re.fullmatch(CARD_NUMBER, text) is not None,), text
