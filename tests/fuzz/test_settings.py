"""Settings and URLs: InvalidSetting, or they work; no message contains a password."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.checkpoints.publishers import Endpoint
from ledger.cli.text import error_line, redacted
from ledger.drivers.async_pools import AsyncConnector
from ledger.drivers.connections import (
    aconnect,
    connect,
    conninfo,
    create_async_redis_connection,
    create_redis_connection,
)
from ledger.drivers.pools import Connector
from ledger.effects import Command, Plan
from ledger.errors import InvalidSetting, Unavailable
from ledger.settings import Settings
from tests.fuzz.mutations import NUMBERS, texts
from tests.fuzz.profile import bounded, fuzz
from tests.support.cli import run

SECRET = "s3cret"
DATABASES = [
    f"postgresql://user:{SECRET}@127.0.0.1:1/ledger?sslmode=disable&connect_timeout=2",
    f"postgres://user:{SECRET}@[::1]:1,127.0.0.1:1/ledger?target_session_attrs=read-write",
    f"postgresql:///ledger?host=/var/run/none&port=1&user=u&password={SECRET}",
]
REDISES = [
    f"redis://user:{SECRET}@127.0.0.1:1/3?health_check_interval=5&client_name=x",
    f"rediss://:{SECRET}@[::1]:1/0?ssl_cert_reqs=none&ssl_check_hostname=false",
    f"unix:///run/none.sock?db=3&password={SECRET}",
]
NUMBERED = ["POOL_MAX_SIZE", "POOL_MAX_IDLE", "CONNECT_TIMEOUT", "LOCK_TIMEOUT", "ANSWER_TIMEOUT", "STREAM_KEEP"]


def loaded(**environment: str) -> Settings:
    return Settings.load(environment={f"LEDGER_{name}": value for name, value in environment.items()})


@fuzz(25)
@given(texts(DATABASES), texts(REDISES), texts(["main", "a.b-c_d"]), texts([".ledger"]))
@example("postgresql://\udcff/x", "redis://\udcff/0", "main\n", "\0")
@example(DATABASES[1], REDISES[2], "main", "x")
def test_urls(database_url: str, redis_url: str, name: str, home: str) -> None:
    for environment in ({"DATABASE_URL": database_url}, {"REDIS_URL": redis_url}, {"NAME": name}, {"HOME": home}):
        try:
            settings = loaded(**environment)
            if settings.database_url is not None:
                conninfo(settings)
            if settings.redis_url is not None:
                create_redis_connection(settings.redis_url).close()
                create_async_redis_connection(settings.redis_url)
        except InvalidSetting as error:
            assert SECRET not in str(error)
            continue


@pytest.mark.parametrize(
    "url",
    [
        *DATABASES,
        *(
            "postgresql://a..b/x",
            f"postgresql://{'a' * 70}/x",
            "postgresql:///x?host=a..b",
            "postgresql://127.0.0.1:1/%ff",
        ),
    ],
)
def test_a_database_that_cannot_be_had(url: str) -> None:
    for attempt in (lambda: connect(Settings(database_url=url)), lambda: asyncio.run(_aconnect(url))):
        with pytest.raises((InvalidSetting, Unavailable)) as caught:
            attempt()
        assert SECRET not in str(caught.value)
    assert run("--database-url", url, "tail").code in (2, 3)


async def _aconnect(url: str) -> None:
    await aconnect(Settings(database_url=url))


OPTIONS = ["foo=1", "decode_responses=true", "protocol=3", "protocol=x", "parser_class=1", "retry=1", "driver_info=x"]
OPTIONS += ["event_dispatcher=x", "connection_class=x", "credential_provider=x", "db=abc", "socket_timeout=abc"]
OPTIONS += ["ssl_cert_reqs=nonsense", "encoding=nonsense", "redis_connect_func=1", "legacy_responses=false", "path=x"]
REDIS_BASES = [
    *REDISES,
    "redis://a..b/0",
    f"redis://{'a' * 70}/0",
    "redis://127.0.0.1:1?",
    "rediss://127.0.0.1:1?",
    "unix:///x?",
]


@pytest.mark.parametrize(
    "url", [*REDIS_BASES, *(f"{base}&{option}" for base in REDIS_BASES[-3:] for option in OPTIONS)]
)
def test_a_redis_that_cannot_be_had(url: str) -> None:
    for ping in (_ping, lambda url: asyncio.run(_aping(url))):
        with pytest.raises((InvalidSetting, Unavailable)) as caught:
            ping(url)
        assert SECRET not in str(caught.value)


def _ping(url: str) -> None:
    servers = Connector(Settings.load(redis_url=url, environment={}))
    try:
        servers.run(_pong())
    finally:
        servers.close()


async def _aping(url: str) -> None:
    servers = AsyncConnector(Settings.load(redis_url=url, environment={}))
    try:
        await servers.run(_pong())
    finally:
        await servers.close()


def _pong() -> Plan[object]:
    return (yield Command(("PING",)))


@fuzz(25)
@given(st.sampled_from(NUMBERED), st.sampled_from([each.decode() for each in NUMBERS]) | texts(["10", "0.5"]))
@example("LOCK_TIMEOUT", "3e6")
def test_numbers(name: str, text: str) -> None:
    try:
        settings = loaded(**{name: text})
    except InvalidSetting as error:
        assert f"LEDGER_{name}" in str(error)
        return
    # What Postgres takes (an int of milliseconds), and what threads can wait for.
    assert 0 < settings.lock_timeout * 1000 < 2**31
    assert 0 < settings.answer_timeout < 2**31
    assert 0 < settings.connect_timeout < 2**31 and 0 <= settings.pool_max_idle < 2**31
    assert 0 < settings.pool_max_size < 2**31 and 0 < settings.stream_keep < 2**63


@fuzz(25)
@given(texts(["https://publish.example:8443/checkpoints", "http://[::1]/x"]))
def test_endpoints(text: str) -> None:
    """What a message shows of one is not what may be secret in it."""
    for url in (text, text.replace("://", f"://user:{SECRET}@"), f"{text}?token={SECRET}"):
        try:
            shown = str(Endpoint(url))
        except InvalidSetting as error:
            shown = str(error)
        assert SECRET not in shown


# ------------------------------------------------------------------------------------------------------------ messages


@fuzz(25)
@given(texts([*DATABASES, *REDISES, f"host=h password = '{SECRET}' user=u", "a.b.c://d"]))
@example("a." * 60_000)
@example("a://" * 30_000)
@example("x@" * 60_000)
@example("password=" * 13_000)
@example("password" + " " * 100_000)
def test_no_message_takes_long_to_write(text: str) -> None:
    with bounded():
        shown = redacted(text)
        error_line(text)
    if text in (*DATABASES, *REDISES):
        assert SECRET not in shown


def test_what_is_redacted() -> None:
    for text, shown in (
        ("at postgresql://u:p@h/x and redis://:p@h:1", "at postgresql://…@h/x and redis://…@h:1"),
        ("postgresql://u:p@ss@h/x", "postgresql://…@h/x"),
        ("'postgresql://u:p@h/x'", "'postgresql://…@h/x'"),
        ("password=s3cret host=h", "password=… host=h"),
        ("PASSWORD = 's3 cret' host=h", "PASSWORD = … host=h"),
        ("mail me@example.com https://x.example/a", "mail me@example.com https://x.example/a"),
        ("see https://x.example/a?b=me@example.com", "see https://…@example.com"),
    ):
        assert redacted(text) == shown
