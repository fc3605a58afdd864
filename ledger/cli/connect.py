"""Opens servers and ledgers from the global options."""

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
from ledger.migrate import migrate
from ledger.settings import Settings
from ledger.store.ledgers import ledger_ends


def settings_of(shared: Shared, *, redis: bool = False, migrated: bool = True) -> Settings:
    """Settings with a database: as given, else of the embedded servers, which are started and migrated.

    redis: whether the command needs Redis. migrated: whether an embedded database is migrated. Raises InvalidSetting.
    """
    settings = shared.given()
    if settings.database_url is None:
        home = shared.embedded_home()
        verb = "starting" if embedded.running(home) is None else "using"
        note(f"No database is set: {verb} the embedded Postgres and Valkey in {home}")
        settings = start_embedded(home, settings, migrated=migrated)
    if redis and settings.redis_url is None:
        raise InvalidSetting("this command needs Redis: give --redis-url or LEDGER_REDIS_URL")
    return settings


def start_embedded(home: Path, settings: Settings, *, migrated: bool = True) -> Settings:
    """The settings with the servers of `home`, started if necessary. migrated: whether the database is migrated."""
    servers = embedded.start(home)
    settings = replace(
        settings, home=home, database_url=servers.database_url, redis_url=servers.redis_url, embedded=True
    )
    if migrated:
        migrate.migrate(settings)
    return settings


@contextmanager
def opened(shared: Shared) -> Iterator[Ledger]:
    """The ledger, which must exist in its database. Raises UnknownLedger, SchemaMismatch."""
    with Ledger(settings_of(shared)) as ledger:
        _ = ledger.ref
        yield ledger


@contextmanager
def connected(shared: Shared, *, redis: bool = False) -> Iterator[Connector]:
    """Connections to a database whose schema is up to date. redis: as in settings_of. Raises SchemaMismatch."""
    connector = Connector(settings_of(shared, redis=redis))
    try:
        connector.run(migrate.check_schema(migrate.load_migrations()))
        yield connector
    finally:
        connector.close()


@contextmanager
def ready(shared: Shared, *, redis: bool) -> Iterator[Connector]:
    """Connections for a worker, once the servers answer, the schema is up to date and the named ledger exists.

    redis: whether Redis must answer. Later on a worker waits for an unreachable server; at the start that is an error.
    """
    with connected(shared, redis=redis) as connector:
        connector.run(ledger_ends(shared.names()))
        if redis:
            connector.run(_ping())
        yield connector


def _ping() -> Plan[Any]:
    return (yield Command(("PING",)))
