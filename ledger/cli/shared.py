"""What all commands share: the global options, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.text import note

if TYPE_CHECKING:
    from ledger.client import Ledger
    from ledger.drive import Servers
    from ledger.settings import Settings

HOME = ".ledger"


@dataclass(slots=True)
class Shared:
    """The global options, wherever on the command line they stood. None: not given there."""

    database_url: str | None = None
    redis_url: str | None = None
    ledger: str | None = None
    home: str | None = None
    json: bool = False

    def given(self) -> Settings:
        """Settings as the command line and the environment have them. Raises InvalidSetting."""
        from ledger.errors import InvalidSetting
        from ledger.settings import Settings

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

    def settings(self, *, redis: bool = False, migrated: bool = True) -> Settings:
        """Settings with a database: as given, else the embedded servers, started and their schema brought up to date.

        redis: the command needs it too. migrated: False leaves an embedded database's schema as it is.
        """
        from ledger.errors import InvalidSetting

        settings = self.given()
        if settings.database_url is None:
            settings = start_embedded(settings, migrated=migrated)
        if redis and settings.redis_url is None:
            raise InvalidSetting("this needs Redis: give --redis-url or LEDGER_REDIS_URL")
        return settings

    def embedded_home(self) -> Path:
        """The folder of the embedded servers, whatever URLs there are."""
        return Path(self.home or os.environ.get("LEDGER_HOME") or HOME).absolute()

    def names(self) -> list[str] | None:
        """The ledger that was asked for by name; None for all."""
        name = self.ledger or os.environ.get("LEDGER_NAME")
        return [name] if name else None

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        """The ledger, found in its database."""
        from ledger.client import Ledger

        with Ledger(self.settings()) as ledger:
            _ = ledger.ref
            yield ledger

    @contextmanager
    def servers(self, settings: Settings) -> Iterator[Servers]:
        """The servers of `settings`, known to answer and to have the schema, and the ledgers of `names` in it."""
        from ledger import migrate
        from ledger.drive import Servers
        from ledger.effects import Command
        from ledger.relay import standings

        servers = Servers(settings)
        try:
            servers.run(migrate.check_schema(migrate.load()))
            servers.run(standings(self.names()))
            if settings.redis_url is not None:
                servers.run(_one(Command(("PING",))))
            yield servers
        finally:
            servers.close()


def start_embedded(settings: Settings, *, migrated: bool = True, said: bool = True) -> Settings:
    """Starts the servers of the settings' home and says so. migrated: bring their schema up to date."""
    from ledger import embedded, migrate

    home = settings.home or Path(HOME).absolute()
    if said:
        verb = "starting" if embedded.running(home) is None else "using"
        note(f"No database is set: {verb} the embedded Postgres and Valkey of {home}")
    servers = embedded.start(home)
    settings = replace(settings, home=home, database_url=servers.database_url, redis_url=servers.redis_url)
    if migrated:
        migrate.migrate(settings)
    return settings


def _one(effect: Any) -> Any:
    return (yield effect)


pass_shared = click.make_pass_decorator(Shared, ensure=True)
