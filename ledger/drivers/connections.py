"""Opens connections to Postgres and clients of Redis, with errors that say why one cannot be opened.

What bounds each wait on them is in docs/decisions/0006-waits.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.drivers.cursors import ADAPTERS, AsyncCursor, Cursor
from ledger.drivers.postgres_connection import AnsweringConnection, AsyncAnsweringConnection, everything_said
from ledger.drivers.run import AsyncRedis, Redis
from ledger.effects import Query, Row
from ledger.errors import InvalidSetting, Unavailable
from ledger.settings import LONGEST_BLOCK, Settings
from ledger.statements import sql

T = TypeVar("T")
SQL = sql(__file__)
APPLICATION = "auditledger"
OPTIONS: dict[str, Any] = {"autocommit": True, "context": ADAPTERS}
"""Of psycopg's connect()."""

# Both kernels notice a network that was cut without a word after about ten seconds. macOS has no tcp_user_timeout.
_LINK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
_STATEMENT_MODE = (
    "the pooler before Postgres is in statement mode, which has no transactions: without them nothing is recorded for "
    "sure. Set pool_mode = transaction or session for this database, or give Postgres' own URL"
)


def conninfo(settings: Settings) -> str:
    """Of the URL, with our own settings where it has none.

    Never the startup parameter `options`, which poolers refuse, unless it is the user's own.
    """
    if settings.database_url is None:
        raise InvalidSetting(
            "no database is set: give database_url or LEDGER_DATABASE_URL "
            "(or home= or LEDGER_HOME for the embedded servers)"
        )
    try:
        given = conninfo_to_dict(settings.database_url)
        wanted: dict[str, str | int] = {
            "connect_timeout": _connect_timeout(settings),
            **_LINK,
            "fallback_application_name": APPLICATION,
            **(everything_said() if settings.embedded else {}),
        }
        return make_conninfo(
            settings.database_url,
            **{name: value for name, value in wanted.items() if name not in given},
            client_encoding="utf8",
        )
    except (psycopg.ProgrammingError, UnicodeError):
        # libpq's own message may repeat parts of the URL, the password among them.
        raise InvalidSetting("the database URL cannot be read: check its form") from None


def _connect_timeout(settings: Settings) -> int:
    return max(2, round(settings.connect_timeout))


def connect(settings: Settings) -> AnsweringConnection:
    """A connection of one's own, autocommit, that waits for ever.

    Raises Unavailable, saying why; InvalidSetting for a malformed URL, and for a pooler that has no transactions.
    """
    try:
        connection = AnsweringConnection.connect(conninfo(settings), **OPTIONS)
        try:
            configure(settings, connection)
        except BaseException:
            connection.close()
            raise
        return connection
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None
    except UnicodeError:
        raise InvalidSetting(_NO_HOST) from None


async def aconnect(settings: Settings) -> AsyncAnsweringConnection:
    """`connect`, awaited."""
    try:
        connection = await AsyncAnsweringConnection.connect(conninfo(settings), **OPTIONS)
        try:
            await aconfigure(settings, connection)
        except BaseException:
            await connection.close()
            raise
        return connection
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None
    except UnicodeError:
        raise InvalidSetting(_NO_HOST) from None


def configure(settings: Settings, connection: AnsweringConnection) -> None:
    """Finds out what a new connection speaks to. Raises psycopg.Error, InvalidSetting."""
    connection.answer_timeout = _connect_timeout(settings)
    try:
        row = Cursor(connection).execute(SQL["look"], prepare=False).fetchone()
    except psycopg.OperationalError as error:
        raise _let_in_only(error) from None
    if not _learn(settings, connection, row):
        try:
            for statement in ("begin", "commit"):
                Cursor(connection).execute(statement, prepare=False)
        except psycopg.Error as error:
            raise _no_transactions(error) from None
    connection.answer_timeout = None


async def aconfigure(settings: Settings, connection: AsyncAnsweringConnection) -> None:
    """`configure`, awaited."""
    connection.answer_timeout = _connect_timeout(settings)
    try:
        row = await (await AsyncCursor(connection).execute(SQL["look"], prepare=False)).fetchone()
    except psycopg.OperationalError as error:
        raise _let_in_only(error) from None
    if not _learn(settings, connection, row):
        try:
            for statement in ("begin", "commit"):
                await AsyncCursor(connection).execute(statement, prepare=False)
        except psycopg.Error as error:
            raise _no_transactions(error) from None
    connection.answer_timeout = None


def _learn(settings: Settings, connection: AnsweringConnection | AsyncAnsweringConnection, row: Row | None) -> bool:
    """Notes what `look` brought. True where the session is the server's own.

    A pooler's client was given another number in the place of a backend's pid.
    """
    pid, differs, read_only = row or (0, True, False)
    connection.direct = pid == connection.info.backend_pid
    connection.differs = connection.wraps = differs
    connection.read_only_by_default = read_only
    if not connection.direct:
        connection.prepare_threshold = None  # for executemany(), which prepares unless that is so
    limits = Query(SQL["transaction"], (str(round(settings.lock_timeout * 1000)),))
    meaning = () if connection.direct and not differs else (Query(SQL["meaning"]),)
    connection.settings = (limits, *meaning)
    return connection.direct


def _let_in_only(error: psycopg.OperationalError) -> psycopg.OperationalError:
    """Where nothing answered once the login was done: that is how poolers keep clients waiting."""
    if error.sqlstate is not None:
        return error
    return psycopg.OperationalError(
        f"{error} after the login. If a pooler stands before it, all connections of its pool are taken (PgBouncer: "
        "default_pool_size)"
    )


def _no_transactions(error: psycopg.Error) -> psycopg.Error | InvalidSetting:
    """The reason in our words where it is the pooler's mode."""
    return InvalidSetting(_STATEMENT_MODE) if "statement pooling" in str(error) else error


_NO_HOST = "the database URL names a host that no name service can know: a part of it is empty or too long"


_REFUSALS = {
    "max_client_conn": "The pooler takes no more clients: raise that in its ini, or let each process have fewer "
    "(LEDGER_POOL_MAX_SIZE)",
    "unsupported startup parameter": "The pooler refuses what the URL, its service or PGOPTIONS sets: leave it out "
    "there, or have the pooler ignore it (PgBouncer: ignore_startup_parameters)",
}
"""By what poolers say: what can be done about it."""


def _why_not_connected(error: psycopg.Error) -> str:
    why = "Postgres cannot be reached: " + " ".join(str(error).split())
    return why + next((f". {advice}" for said, advice in _REFUSALS.items() if said in why), "")


def create_redis_connection(
    redis_url: str, *, connect_timeout: float = 5.0, read_timeout: float | None = None
) -> Redis:
    """A Redis client for one worker, fit for blocking reads: no socket timeout, no hidden retries.

    redis-py's defaults (a socket timeout of 5 s, ten retries) would cut a long blocking read and repeat commands
    behind the caller's back. read_timeout: seconds in which a reply must come, for those who must not hang with a
    server; longer than any blocking read. `socket_timeout` and the like in the URL itself count more than these.
    Raises InvalidSetting for a malformed URL; connects when first used.
    """
    import redis  # noqa: PLC0415 - takes long to load
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    retry = Retry(NoBackoff(), 0)
    return cast(Redis, _redis_from_url(redis.Redis, redis_url, connect_timeout, retry, read_timeout))


def create_async_redis_connection(
    redis_url: str, *, connect_timeout: float = 5.0, read_timeout: float | None = None
) -> AsyncRedis:
    """`create_redis_connection` for asyncio."""
    from redis import asyncio  # noqa: PLC0415 - takes long to load
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    retry = Retry(NoBackoff(), 0)
    return cast(AsyncRedis, _redis_from_url(asyncio.Redis, redis_url, connect_timeout, retry, read_timeout))


def redis_for_plans(create: Callable[..., T], settings: Settings, **options: Any) -> T:
    """A client whose replies come as Redis sends them: plans read those, whatever redis-py makes of them by default.

    One that stays silent for longer than any plan blocks is as good as away.
    """
    if settings.redis_url is None:
        raise InvalidSetting("this needs Redis, and none is set: give redis_url or LEDGER_REDIS_URL")
    timeouts = {
        "connect_timeout": settings.connect_timeout,
        "read_timeout": LONGEST_BLOCK + settings.answer_timeout,
    }
    client = create(settings.redis_url, **(timeouts | options))
    cast(Any, client).response_callbacks.clear()
    return client


_REDIS_OPTIONS = frozenset((
    *("db", "username", "password", "client_name", "max_connections", "health_check_interval", "retry_on_timeout"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile"),
    *("ssl_keyfile", "ssl_password", "ssl_min_version", "ssl_ciphers"),
))  # fmt: skip
"""What a URL may ask for. redis-py takes more, which would change replies (`decode_responses`) or call a text."""


def _redis_from_url(client: Any, url: str, connect_timeout: float, retry: Any, read_timeout: float | None) -> Any:
    import redis  # noqa: PLC0415

    options = {"socket_timeout": read_timeout, "socket_connect_timeout": connect_timeout, "retry": retry}
    options |= {"protocol": 2, "client_name": "auditledger"}
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    try:
        if {name for name, _ in parse_qsl(urlsplit(url).query)} - _REDIS_OPTIONS:
            raise InvalidSetting(f"the Redis URL has options other than {', '.join(sorted(_REDIS_OPTIONS))}")
        made = client.from_url(url, **options)
        pool = made.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # else it would say only when first used what it does not take
        str(pool.connection_kwargs.get("host", "")).encode("idna")
    except (ValueError, TypeError, redis.RedisError) as error:
        raise InvalidSetting(f"the Redis URL cannot be used: {type(error).__name__}") from None
    return made
