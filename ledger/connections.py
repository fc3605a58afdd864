"""Opens connections to Postgres and clients of Redis, and says why where one cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.drive import AsyncConnection, AsyncRedis, Connection, Redis
from ledger.errors import InvalidSetting, Unavailable
from ledger.settings import Settings

T = TypeVar("T")


def conninfo(settings: Settings) -> str:
    if settings.database_url is None:
        raise InvalidSetting(
            "no database is set: give database_url or LEDGER_DATABASE_URL "
            "(or home= or LEDGER_HOME for the embedded servers)"
        )
    try:
        # Options of the caller's own stay; ours come after them.
        options = conninfo_to_dict(settings.database_url).get("options") or ""
        return make_conninfo(
            settings.database_url,
            connect_timeout=max(2, round(settings.connect_timeout)),
            client_encoding="utf8",
            application_name="auditledger",
            options=f"{options} -c timezone=UTC -c lock_timeout={round(settings.lock_timeout * 1000)}".strip(),
        )
    except (psycopg.ProgrammingError, UnicodeError):
        # libpq's own message may repeat parts of the URL, the password among them.
        raise InvalidSetting("the database URL cannot be read: check its form") from None


def connect(settings: Settings) -> Connection:
    """A connection of one's own, autocommit. Raises Unavailable, saying why; InvalidSetting for a malformed URL."""
    try:
        return psycopg.connect(conninfo(settings), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None
    except UnicodeError:
        raise InvalidSetting(_NO_HOST) from None


async def aconnect(settings: Settings) -> AsyncConnection:
    """`connect`, awaited."""
    try:
        return await psycopg.AsyncConnection.connect(conninfo(settings), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(_why_not_connected(error)) from None
    except UnicodeError:
        raise InvalidSetting(_NO_HOST) from None


_NO_HOST = "the database URL names a host that no name service can know: a part of it is empty or too long"


def _why_not_connected(error: psycopg.Error) -> str:
    return "Postgres cannot be reached: " + " ".join(str(error).split())


def create_redis_connection(
    redis_url: str, *, connect_timeout: float = 5.0, read_timeout: float | None = None
) -> Redis:
    """A Redis client for one worker, fit for blocking reads: no socket timeout, no hidden retries.

    redis-py's defaults (a socket timeout of 5 s, ten retries) would cut a blocking XREADGROUP and repeat commands
    behind the caller's back. read_timeout: seconds in which a reply must come, for those who must not hang with a
    server. Raises InvalidSetting for a malformed URL; connects when first used.
    """
    import redis  # noqa: PLC0415 - takes long to load
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    retry = Retry(NoBackoff(), 0)
    return cast(Redis, _redis_from_url(redis.Redis, redis_url, connect_timeout, retry, read_timeout))


def create_async_redis_connection(redis_url: str, *, connect_timeout: float = 5.0) -> AsyncRedis:
    """`create_redis_connection` for asyncio."""
    from redis import asyncio  # noqa: PLC0415 - takes long to load
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    retry = Retry(NoBackoff(), 0)
    return cast(AsyncRedis, _redis_from_url(asyncio.Redis, redis_url, connect_timeout, retry))


def redis_for_plans(create: Callable[..., T], settings: Settings, **options: Any) -> T:
    """A client whose replies come as Redis sends them: plans read those, whatever redis-py makes of them by default."""
    if settings.redis_url is None:
        raise InvalidSetting("this needs Redis, and none is set: give redis_url or LEDGER_REDIS_URL")
    client = create(settings.redis_url, **({"connect_timeout": settings.connect_timeout} | options))
    cast(Any, client).response_callbacks.clear()
    return client


_REDIS_OPTIONS = frozenset((
    *("db", "username", "password", "client_name", "max_connections", "health_check_interval", "retry_on_timeout"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile"),
    *("ssl_keyfile", "ssl_password", "ssl_min_version", "ssl_ciphers"),
))  # fmt: skip
"""What a URL may ask for. redis-py takes more, which would change replies (`decode_responses`) or call a text."""


def _redis_from_url(
    client: Any, url: str, connect_timeout: float, retry: Any, read_timeout: float | None = None
) -> Any:
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
