"""From the global options to servers that answer and a ledger that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledger import embedded
from ledger.cli.context import Shared
from ledger.cli.text import note
from ledger.client import Ledger
from ledger.drivers.pools import Connector
from ledger.effects import Command, Plan
from ledger.errors import InvalidSetting
from ledger.migrate import journal, migrate
from ledger.settings import Settings
from ledger.store.ledgers import ledger_ends


def settings_of(shared: Shared, *, redis: bool = False, migrated: bool = True) -> Settings:
    """Settings with a database: as given, else the embedded servers, started and their schema brought up to date.

    redis: the command needs it too. migrated: False leaves an embedded database's schema as it is.
    """
    settings = shared.given()
    if settings.database_url is None:
        home = shared.embedded_home()
        verb = "starting" if embedded.running(home) is None else "using"
        note(f"No database is set: {verb} the embedded Postgres and Valkey of {home}")
        settings = start_embedded(home, settings, migrated=migrated)
    if redis and settings.redis_url is None:
        raise InvalidSetting("this needs Redis: give --redis-url or LEDGER_REDIS_URL")
    return settings


def start_embedded(home: Path, settings: Settings, *, migrated: bool = True) -> Settings:
    """The settings with the servers of `home`, which are started if need be. migrated: bring the schema up to date."""
    connector = embedded.start(home)
    settings = replace(
        settings, home=home, database_url=connector.database_url, redis_url=connector.redis_url, embedded=True
    )
    if migrated:
        migrate.migrate(settings)
    return settings


@contextmanager
def opened(shared: Shared) -> Iterator[Ledger]:
    """The ledger, found in its database."""
    with Ledger(settings_of(shared)) as ledger:
        _ = ledger.ref
        yield ledger


@contextmanager
def ready(shared: Shared, *, redis: bool) -> Iterator[Connector]:
    """The servers, known to answer and to have the schema, and the ledger that was named. redis: it is needed too.

    A worker waits for a server that goes away later; one that was never there is a mistake to be told at once.
    """
    connector = Connector(settings_of(shared, redis=redis))
    try:
        connector.run(migrate.check_schema(journal.load()))
        connector.run(ledger_ends(shared.names()))
        if redis:
            connector.run(_ping())
        yield connector
    finally:
        connector.close()


def _ping() -> Plan[Any]:
    return (yield Command(("PING",)))
