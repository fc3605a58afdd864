"""Opens a ledger: settings from arguments and environment, a checked schema, and its id. Shared by both clients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ledger import embedded
from ledger.effects import Plan
from ledger.errors import InvalidSetting
from ledger.migrate import migrate
from ledger.settings import Settings
from ledger.store.ledgers import LedgerRef, find_ledger


def open_settings(
    database_url: str | None, redis_url: str | None, name: str | None, home: str | Path | None
) -> Settings:
    """Settings with a database. For a home the embedded servers are started, and their schema is brought up to date."""
    settings = Settings.load(database_url=database_url, redis_url=redis_url, name=name, home=home)
    if settings.database_url is None and settings.home is not None:
        servers = embedded.start(settings.home)
        settings = replace(settings, database_url=servers.database_url, redis_url=servers.redis_url, embedded=True)
        migrate.migrate(settings)
    if settings.database_url is None:
        raise InvalidSetting(
            "no database is set: give database_url or LEDGER_DATABASE_URL "
            "(or home= or LEDGER_HOME for the embedded servers)"
        )
    return settings


def open_ledger(name: str) -> Plan[LedgerRef]:
    """The ledger of that name, once the schema is known to be this package's."""
    yield from migrate.check_schema(migrate.load_migrations())
    return (yield from find_ledger(name))
