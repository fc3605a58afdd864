"""Where the servers are and how to reach them: from arguments, else from LEDGER_* in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ledger.errors import InvalidSetting

LEDGER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""format.md, "Terms"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that is configured from outside. Times are in seconds."""

    database_url: str | None = field(default=None, repr=False)  # may hold a password
    redis_url: str | None = field(default=None, repr=False)
    name: str = "main"
    home: Path | None = None
    pool_max_size: int = 20
    pool_max_idle: float = 30.0
    connect_timeout: float = 5.0
    lock_timeout: float = 10.0
    answer_timeout: float = 5.0
    stream_keep: int = 1_000_000

    @property
    def patience(self) -> float:
        """How long Postgres may be silent: it waits for a lock, and then has to do what it was asked for."""
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
        for url, other, option in ((database_url, "redis", "redis_url"), (redis_url, "postgres", "database_url")):
            if (url or "").lower().startswith(other):
                raise InvalidSetting(
                    f"a {other.capitalize()} URL is given as that of the other server: it is the {option} "
                    f"(--{option.replace('_', '-')}, LEDGER_{option.upper()})"
                )
        return cls(
            database_url=check_url(database_url, "database URL", ("postgresql", "postgres")),
            redis_url=check_url(redis_url, "Redis URL", ("redis", "rediss", "unix")),
            name=check_ledger_name(name or env.get("LEDGER_NAME") or "main"),
            home=Path(home).absolute() if home is not None else None,
            pool_max_size=int(_number(env, "LEDGER_POOL_MAX_SIZE", "20", 1)),
            pool_max_idle=_number(env, "LEDGER_POOL_MAX_IDLE", "30", 0),
            connect_timeout=_number(env, "LEDGER_CONNECT_TIMEOUT", "5", 1),
            lock_timeout=_number(env, "LEDGER_LOCK_TIMEOUT", "10", 0.001),
            answer_timeout=_number(env, "LEDGER_ANSWER_TIMEOUT", "5", 1),
            stream_keep=int(_number(env, "LEDGER_STREAM_KEEP", "1000000", 1, 1e12)),
        )


def check_ledger_name(name: str) -> str:
    """The name itself, or InvalidSetting where format.md does not allow it."""
    if not LEDGER_NAME.fullmatch(name):
        raise InvalidSetting(f"not a ledger name: {name!r} (lowercase letters, digits, '.', '_', '-'; at most 64)")
    return name


def check_url(url: str | None, what: str, schemes: tuple[str, ...]) -> str | None:
    """The URL itself, or InvalidSetting. The message never repeats the URL: it may hold a password."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):  # libpq takes several
            _ = urlsplit(f"//{host}").port
    except ValueError:  # not chained: its text may hold the password
        raise InvalidSetting(f"the {what} is malformed: its host or port cannot be read") from None
    if parts.scheme not in schemes:
        raise InvalidSetting(f"the {what} must begin with {schemes[0]}://")
    return url


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
