"""What must not be recorded of captured tables appears nowhere."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import psycopg
import pytest

from ledger import Ledger
from ledger.capture.deny_patterns import CARD_NUMBER, DENY, is_card_number, words
from ledger.capture.redaction import Redaction
from ledger.capture.tables import Policy, install
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.run import drive
from ledger.errors import UsageError
from tests.support.captured import capture, sealed, taken
from tests.support.cli import cli_of
from tests.support.views import project

GONE = {"$redacted": True}
KEYS = [word for name in DENY.values() for word in name] + [
    "userPassword2",
    "X-API-Key",
    "stripeAPIKeys",
    "oauth2Token",
    "AWS_ACCESS_KEY_ID",
    "CVV2",
    "user.pin",
    "$token",
    "HTTPServer",
    "a1B2",
    "größe",
    "épin",
    "пароль",
    "_",
    "--",
    "[x]",
    "a`b^c\\d{e}",
    "spin",
    "pins",
]
TEXTS = ["4111 1111 1111 1111", "4111-1111-1111-1111", " 378282246310005\n", "4222222222222", "411111111111", "4" * 20]
TEXTS += ["4111  1111 1111 1111", "x4111111111111111", "٤" * 16, "", "2026-11-29", "4111111111111112"]
KEY = "0123456789abcdef0123456789abcdef"


def digest(value: Any) -> dict[str, str]:
    text = json.dumps(value, ensure_ascii=False).encode()
    return {"$digest": hmac.digest(KEY.encode(), text, "sha256").hex()}


def test_nowhere(admin: psycopg.Connection, ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    admin.execute("""
        create table users (id int primary key, email text, iban text, password_hash text, card text, note text,
            profile jsonb, raw json, docs jsonb[], tags text[])
    """)
    policy = Policy(redact=("iban",), digest=("email",), exclude=("note",))
    drive(install("users", policy, digest_key=KEY), admin)
    row = (
        1, "plain1@example.org", "plain2", "plain3", "4111 1111 1111 1111", "plain4",
        json.dumps({"api_key": "plain5", "deep": [{"userPassword": {"x": "plain6"}}], "ok": 1.5, "c": "4" + "1" * 15}),
        '{"p\\u0061ssword": "plain7", "n": 1.00}', '{"{\\"token\\": \\"plain8\\"}"}', ["4111111111111111", "fine"],
    )  # fmt: skip
    admin.execute(f"insert into users values ({', '.join(['%s'] * len(row))})", row)
    admin.execute(
        "update users set iban = 'plain9', email = 'plain10', note = 'plain11',"
        ' profile = profile || \'{"pin": "plain12"}\''
    )
    admin.execute("update users set note = 'plain13'")
    rows = admin.execute(
        "select before, after from ledger.outbox where resource_type = 'users' order by seq"
    ).fetchall()
    assert rows[0][1] == {
        "id": 1, "email": digest("plain1@example.org"), "iban": GONE, "password_hash": GONE, "card": GONE,
        "profile": {"api_key": GONE, "deep": [{"userPassword": GONE}], "ok": 1.5, "c": GONE},
        "raw": {"password": GONE, "n": 1.0}, "docs": [{"token": GONE}], "tags": [GONE, "fine"],
    }  # fmt: skip
    assert len(rows) == 2 and "note" not in rows[1][1] and rows[1][1]["profile"]["pin"] == GONE
    assert rows[1][1]["email"] == digest("plain10")
    with pytest.raises(psycopg.Error) as raised:
        admin.execute(
            'insert into users (id, iban, raw) values (2, \'plain14\', \'{"a": "\\u0000", "password": "plain15"}\')'
        )
    everything = [str(raised.value), str(raised.value.diag.context), str(raised.value.diag.message_detail)]
    everything += [str(admin.execute("select * from ledger.outbox").fetchall())]
    sealed(ledger)
    cli = cli_of(ledger)
    cli.well("relay", "--once")
    project(ledger)
    everything += [str(list(ledger.read())), cli.well("tail").out, cli.well("history", "users:1").out]
    tables = admin.execute(
        "select oid::regclass::text from pg_class"
        " where relkind = 'r' and relnamespace in ('ledger'::regnamespace, 'ledger_views'::regnamespace)"
    ).fetchall()
    everything += [
        str(admin.execute(f"select * from {table}").fetchall()) for (table,) in tables if "digest_keys" not in table
    ]
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        everything += [str(redis.xrange(name)) for name in redis.keys("*") if redis.type(name) == b"stream"]
    output = capfd.readouterr()
    everything += [output.out, output.err]
    found = "\n".join(everything)
    assert "users.updated" in found and "plain" not in found and "4111" not in found and KEY not in found
    assert ledger.verify().ok


def test_words_and_card_numbers_are_those_of_python(admin: psycopg.Connection) -> None:
    for key in KEYS:
        assert admin.execute("select ledger.words(%s)", [key]).fetchone() == (words(key),), key
    for text in TEXTS:
        assert admin.execute("select ledger.is_card_number(%s)", [text]).fetchone() == (is_card_number(text),), text
    assert CARD_NUMBER in admin.execute("select prosrc from pg_proc where proname = 'is_card_number'").fetchall()[0][0]


DOCUMENTS: list[Any] = [
    {"password": 1, "a": {"b": [{"clientSecret": None}]}, "Größe": "x"},
    ["4111111111111111", "41", {"session_id": {}}],
    {"shipping": 1, "tokenizer": [1], "pin_code": 2, "AWS_ACCESS_KEY_ID": ""},
    "4111-1111-1111-1111", 4111111111111111, {}, [], None, {"iban": {"password": 5}, "allowed": {"password": 6}},
]  # fmt: skip


@pytest.mark.parametrize("allow", [(), ("pin", "allowed", "session_id"), ("card_number", "secret")])
@pytest.mark.parametrize("kind", ["json", "jsonb"])
def test_json_is_redacted_as_in_python(admin: psycopg.Connection, allow: tuple[str, ...], kind: str) -> None:
    admin.execute(f"create table t (id int primary key, j {kind})")
    capture(admin, "t", allow=allow)
    taken(admin)
    with admin.cursor() as cursor:
        cursor.executemany("insert into t values (%s, %s)", [(n, json.dumps(each)) for n, each in enumerate(DOCUMENTS)])
    redaction = Redaction(allow=allow)
    assert [each.after["j"] for each in taken(admin)] == [redaction.apply(each) for each in DOCUMENTS]


def test_allowed_columns(admin: psycopg.Connection) -> None:
    admin.execute("create table t (session_id text primary key, token text, secret text)")
    with pytest.raises(UsageError, match="key column session_id is redacted"):
        capture(admin, "t")
    capture(admin, "t", allow=("session_id", "token"))
    admin.execute("insert into t values ('s', '4111111111111111', 'x')")
    assert taken(admin)[-1].after == {"session_id": "s", "token": "4111111111111111", "secret": GONE}


def test_a_card_number_is_in_no_key(admin: psycopg.Connection) -> None:
    admin.execute("create table t (card char(24), n int, primary key (card, n))")
    capture(admin, "t")
    admin.execute("insert into t values ('4111-1111-1111-1111', 1), ('4111-1111-1111-1112', 1)")
    rows = taken(admin)[-2:]
    assert [each.key for each in rows] == ['{"$redacted":true},1', "4111-1111-1111-1112     ,1"]
    assert rows[0].after == {"card": GONE, "n": 1}
    capture(admin, "t", allow=("card",))
    admin.execute("delete from t where n = 1")
    assert taken(admin)[0].key == "4111-1111-1111-1111     ,1"


def test_words_in_a_session_with_other_strings(admin: psycopg.Connection) -> None:
    admin.execute("create table t (id int primary key, j json)")
    capture(admin, "t")
    admin.execute("set standard_conforming_strings = off")
    assert admin.execute("select ledger.words('userPassword2')").fetchone() == ("user_password_2",)
    admin.execute('insert into t values (1, \'{"userPassword": "x"}\')')
    assert taken(admin)[-1].after["j"] == {"userPassword": GONE}


def test_a_text_may_be_long(admin: psycopg.Connection) -> None:
    """Longer than what a function that takes eight bytes a character can take."""
    policy = "jsonb_populate_record(null::ledger.captures, '{\"cards\": true}')"
    expressions = admin.execute(f"select ledger.json_expression('value', 'text'::regtype, {policy})").fetchall()
    [(expression,)] = expressions
    query = f"select octet_length({expression}) from repeat('x', 140000000) as value"
    assert admin.execute(query).fetchall() == [(140_000_002,)]


def test_the_digest_key_stays(admin: psycopg.Connection) -> None:
    admin.execute("create table t (id int primary key, n numeric, s text)")
    drive(install("t", Policy(digest=("n", "s")), digest_key=KEY), admin)
    admin.execute("insert into t values (1, 1.50, 'é\"'), (2, null, null)")
    first, second = taken(admin)[-2:]
    assert first.after == {
        "id": 1,
        "n": {"$digest": hmac.digest(KEY.encode(), b"1.50", hashlib.sha256).hex()},
        "s": digest('é"'),
    }
    assert second.after["n"] == digest(None) and Redaction(digest={"s"}, digest_key=KEY).apply({"s": 'é"'})[
        "s"
    ] == digest('é"')
    drive(install("t", Policy(digest=("n",)), digest_key=KEY), admin)
    with pytest.raises(UsageError, match="another key than LEDGER_DIGEST_KEY"):
        drive(install("t", Policy(digest=("n",)), digest_key=KEY[::-1]), admin)
