"""Passwords never appear, even of malformed URLs: in errors, tracebacks, logs, JSON and reprs."""

from __future__ import annotations

import traceback
from itertools import product

import pytest

from ledger import Ledger
from tests.support.cli import cli_of, run

SECRET = "s3cr3tPW"
PASSWORDS = [
    SECRET + more for more in ("", "@x", ":y", "/z", "%zz", "#f", "?q", " x y", "'q", '"q', "[", "\\", "é")
]  # fmt: skip
BEHIND = [f"x@{SECRET}", f"x@127.0.0.1/{SECRET}", f"1/{SECRET}", f"x?{SECRET}@{SECRET}"]
"""What is not escaped has the password's end taken for a host or database, which messages name."""
POSTGRES = [
    "postgresql://u:{}@127.0.0.1:1/d",
    "postgresql://u:{}@127.0.0.1:1,127.0.0.2:2/d",
    "postgresql://127.0.0.1:1/d?user=u&password={}",
    "postgresql://u:{}@/d?host=127.0.0.1&port=x",
    "postgresql://u:{}@127.0.0.1:port/d",
    "postgresql://u:{}",
    "postgresql:/u:{}@h/d",
    "postgres//u:{}@h/d",
    "u:{}@h/d",
    "postgresql://:{}@[::1/d",
    "host=127.0.0.1 port=1 user=u password={}",
    "postgresql://u@127.0.0.1:1/d?sslpassword={}",
    "postgresql://u:{}@127.0.0.1:1/d?sslmode=nonsense&bogus=1",
    "mysql://u:{}@h/d",
]
REDIS = [
    "redis://:{}@127.0.0.1:1/0",
    "redis://u:{}@127.0.0.1:x/0",
    "redis://127.0.0.1:1/0?password={}",
    "redis:/:{}@h",
    ":{}@h",
    "redis://:{}@127.0.0.1:1/x",
    "redis://127.0.0.1:1/0?bogus={}",
    "rediss://:{}@127.0.0.1:1/0?ssl_cert_reqs={}",
    "postgresql://u:{}@h",
]


@pytest.fixture(autouse=True)
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DEBUG", "1")
    monkeypatch.setenv("LEDGER_CONNECT_TIMEOUT", "1")


@pytest.mark.parametrize("form", POSTGRES)
def test_urls_of_postgres(form: str) -> None:
    whole = form.endswith(("/d", "/0"))  # else the password's end is the host, as far as anybody can tell
    for password in PASSWORDS + (BEHIND if whole else []):
        url = form.format(password)
        for arguments in (["status"], ["--json", "doctor"], ["append", "--actor", "a", "--action", "b.c"]):
            ran = run("--database-url", url, *arguments)
            assert ran.code in (2, 3) and SECRET not in ran.out + ran.err, (url, ran)
        try:
            with Ledger.open(database_url=url) as ledger:
                assert SECRET not in repr(ledger) + repr(ledger.settings)
                ledger.tail()
        except Exception as error:
            assert SECRET not in "".join(traceback.format_exception(error)), url


@pytest.mark.parametrize("form", REDIS)
def test_urls_of_redis(ledger: Ledger, form: str) -> None:
    database = cli_of(ledger, redis=False)
    commands = (["status"], ["relay", "--once"], ["--json", "doctor"], ["relay", "--once", "--log-format", "json"])
    for password, arguments in product(PASSWORDS, commands):
        ran = database("--redis-url", form.format(*[password] * 2), *arguments)
        assert ran.code in (1, 2, 3) and SECRET not in ran.out + ran.err, (form, password, ran)


def test_urls_that_were_swapped() -> None:
    ran = run("--database-url", f"redis://:{SECRET}@h", "status")
    assert (
        ran.code == 2
        and "database_url is a Redis URL: give that as redis_url (--redis-url, LEDGER_REDIS_URL)" in ran.err
        and SECRET not in ran.err
    )
    ran = run("--database-url", "postgresql://h/d", "--redis-url", f"postgresql://u:{SECRET}@h", "status")
    assert ran.code == 2 and "redis_url is a Postgres URL: give that as database_url (--database-url," in ran.err
    assert SECRET not in ran.err
