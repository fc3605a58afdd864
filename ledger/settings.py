"""Settings: where the servers are, and how long to wait for them. From arguments, else from LEDGER_* variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ledger.errors import InvalidSetting

LEDGER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""format.md, "Terms"."""
LONGEST_BLOCK = 0.5
"""Seconds for which one read of a stream blocks at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that is configured from outside. Times are in seconds."""

    database_url: str | None = field(default=None, repr=False)  # may hold a password
    redis_url: str | None = field(default=None, repr=False)
    name: str = "main"
    home: Path | None = None
    embedded: bool = False
    """The URLs are those of the servers in `home`."""
    pool_max_size: int = 20
    pool_max_idle: float = 30.0
    connect_timeout: float = 5.0
    lock_timeout: float = 10.0
    answer_timeout: float = 5.0
    stream_keep: int = 1_000_000
    digest_key: str | None = field(default=None, repr=False)
    """The secret of the digests that stand for values (capture/redaction.py)."""

    @property
    def silence_timeout(self) -> float:
        """Seconds for which Postgres may be silent: it may wait for a lock, and then has to answer."""
        return self.lock_timeout + self.answer_timeout

    @classmethod
    def load(
        cls,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        name: str | None = None,
        home: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Settings:
        """Arguments first, then the environment, then the defaults.

        A home given as an argument means the embedded servers, whatever URLs the environment holds.
        Raises InvalidSetting for a malformed value, naming the variable.
        """
        env = os.environ if environment is None else environment
        if home is None:
            database_url = database_url or env.get("LEDGER_DATABASE_URL") or None
            redis_url = redis_url or env.get("LEDGER_REDIS_URL") or None
            home = env.get("LEDGER_HOME") or None
        for given, url, other, option in (
            ("database_url", database_url, "redis", "redis_url"),
            ("redis_url", redis_url, "postgres", "database_url"),
        ):
            if (url or "").lower().startswith(other):
                raise InvalidSetting(
                    f"{given} is a {other.capitalize()} URL: give that as {option} "
                    f"(--{option.replace('_', '-')}, LEDGER_{option.upper()})"
                )
        return cls(
            database_url=check_database_url(database_url),
            redis_url=check_redis_url(redis_url),
            name=check_ledger_name(name or env.get("LEDGER_NAME") or "main"),
            home=Path(home).absolute() if home is not None else None,
            pool_max_size=int(_number(env, "LEDGER_POOL_MAX_SIZE", "20", 1)),
            pool_max_idle=_number(env, "LEDGER_POOL_MAX_IDLE", "30", 0),
            connect_timeout=_number(env, "LEDGER_CONNECT_TIMEOUT", "5", 1),
            lock_timeout=_number(env, "LEDGER_LOCK_TIMEOUT", "10", 0.001),
            answer_timeout=_number(env, "LEDGER_ANSWER_TIMEOUT", "5", 1),
            stream_keep=int(_number(env, "LEDGER_STREAM_KEEP", "1000000", 1, 1e12)),
            digest_key=check_digest_key(env.get("LEDGER_DIGEST_KEY") or None),
        )


def check_ledger_name(name: str) -> str:
    """The name itself. Raises InvalidSetting if format.md does not allow it."""
    if not LEDGER_NAME.fullmatch(name):
        raise InvalidSetting(f"not a ledger name: {name!r} (lowercase letters, digits, '.', '_', '-'; at most 64)")
    return name


# The messages never repeat a URL: it may hold a password.
_MALFORMED = (
    "the database URL is malformed: its host or port cannot be read. "
    "In a password write @ as %40, / as %2F, : as %3A, ? as %3F, % as %25"
)


def check_database_url(url: str | None) -> str | None:
    """The URL or key=value pairs, as libpq takes them, unchanged. Raises InvalidSetting for anything else."""
    if url is None:
        return None
    is_url = url.startswith(("postgresql://", "postgres://"))
    try:
        # What follows the question mark is checked when a connection is opened.
        given = conninfo_to_dict(url.partition("?")[0] if is_url else url)
    except (psycopg.Error, UnicodeError):
        if is_url:
            raise InvalidSetting(_MALFORMED) from None
        if "=" in url and "://" not in url:
            problem = "its key=value pairs cannot be read: a key is misspelt, or a value with spaces lacks its quotes"
            raise InvalidSetting(f"the database URL is malformed: {problem}") from None
        if url.startswith("postgresql+"):
            raise InvalidSetting(
                "the database URL names a driver, as SQLAlchemy takes it: it must begin with postgresql://"
            ) from None
        raise InvalidSetting(
            "the database URL must begin with postgresql://, or be key=value pairs as libpq takes them"
        ) from None
    # After an unescaped @ or / in the password, the rest is taken for host or database, which messages name.
    misplaced = [str(given.get("host", "")), url.partition("://")[2].partition("?")[0].partition("/")[2]]
    if is_url and any("@" in each for each in misplaced):
        raise InvalidSetting(_MALFORMED)
    for port in str(given.get("port", "")).split(","):
        if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise InvalidSetting(_MALFORMED)
    return url


def check_redis_url(url: str | None) -> str | None:
    """The URL itself. Raises InvalidSetting if it is none of Redis."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # not chained: its text may hold the password
        raise InvalidSetting("the Redis URL is malformed: its host or port cannot be read") from None
    if parts.scheme not in ("redis", "rediss", "unix") or not url.partition(":")[2].startswith("//"):
        raise InvalidSetting("the Redis URL must begin with redis://")
    return url


def check_digest_key(key: str | None) -> str | None:
    """The key itself: 16 to 64 printable ASCII characters, a block of SHA-256 at most. Raises InvalidSetting."""
    if key is not None and not (16 <= len(key) <= 64 and key.isascii() and key.isprintable()):
        raise InvalidSetting("LEDGER_DIGEST_KEY must have 16 to 64 printable ASCII characters")
    return key


_MOST = 1_000_000
"""Seconds of any time, connections of a pool. Postgres' own limit for times is 2 ** 31 milliseconds."""


def _number(env: Mapping[str, str], variable: str, default: str, least: float, most: float = _MOST) -> float:
    text = env.get(variable) or default
    try:
        number = float(text)
    except ValueError as error:
        raise InvalidSetting(f"{variable} must be a number, not {text!r}") from error
    if number > most:
        raise InvalidSetting(f"{variable} must be at most {most:,.0f}, not {text!r}")
    if not number >= least:  # not a number is neither
        raise InvalidSetting(f"{variable} must be at least {least:g}, not {text!r}")
    return number
