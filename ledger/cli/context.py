"""The global options, shared by all commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from ledger.errors import InvalidSetting
from ledger.settings import Settings

HOME = ".ledger"


class Interrupted(Exception):
    """A command was interrupted; the message says how far it came."""


@dataclass(slots=True)
class Shared:
    """The global options. None: not given on the command line.

    log_format: `text` or `json`. metrics: host and port to serve at. Both belong to long-running commands.
    """

    database_url: str | None = None
    redis_url: str | None = None
    ledger: str | None = None
    home: str | None = None
    json: bool = False
    log_format: str = "text"
    metrics: tuple[str, int] | None = None

    def given(self) -> Settings:
        """Settings of the command line and the environment, possibly without a database. Raises InvalidSetting."""
        if self.home is not None and (self.database_url or self.redis_url):
            raise InvalidSetting("--home selects the embedded servers: give --home or URLs, not both")
        settings = Settings.load(
            database_url=self.database_url, redis_url=self.redis_url, name=self.ledger, home=self.home
        )
        if settings.database_url is None and settings.redis_url is not None:
            raise InvalidSetting(
                "Redis is set, but no database: give --database-url or LEDGER_DATABASE_URL, or neither URL"
            )
        return settings

    def embedded_home(self) -> Path:
        """The folder of the embedded servers, regardless of URLs."""
        return Path(self.home or os.environ.get("LEDGER_HOME") or HOME).absolute()

    def names(self) -> list[str] | None:
        """The ledger that is selected by name; None for all."""
        name = self.ledger or os.environ.get("LEDGER_NAME")
        return [name] if name else None


pass_shared = click.make_pass_decorator(Shared, ensure=True)
