"""What all commands share: the global options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from ledger.errors import InvalidSetting
from ledger.settings import Settings

HOME = ".ledger"


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, and there is something to say about how far it came."""


@dataclass(slots=True)
class Shared:
    """The global options, wherever on the command line they stood. None: not given there.

    log_format, metrics: of the commands that run for long; `text` or `json`, and the host and port to serve at.
    """

    database_url: str | None = None
    redis_url: str | None = None
    ledger: str | None = None
    home: str | None = None
    json: bool = False
    log_format: str = "text"
    metrics: tuple[str, int] | None = None

    def given(self) -> Settings:
        """Settings as the command line and the environment have them; no database where neither names one.

        Raises InvalidSetting.
        """
        if self.home is not None and (self.database_url or self.redis_url):
            raise InvalidSetting("--home means the embedded servers: give it or URLs, not both")
        settings = Settings.load(
            database_url=self.database_url, redis_url=self.redis_url, name=self.ledger, home=self.home
        )
        if settings.database_url is None and settings.redis_url is not None:
            raise InvalidSetting(
                "a Redis is set, but no database: give --database-url or LEDGER_DATABASE_URL, or neither of the two"
            )
        return settings

    def embedded_home(self) -> Path:
        """The folder of the embedded servers, whatever URLs there are."""
        return Path(self.home or os.environ.get("LEDGER_HOME") or HOME).absolute()

    def names(self) -> list[str] | None:
        """The ledger that was asked for by name; None for all."""
        name = self.ledger or os.environ.get("LEDGER_NAME")
        return [name] if name else None


pass_shared = click.make_pass_decorator(Shared, ensure=True)
