"""Pytest fixtures for the tests of applications. One line in conftest.py loads them:

    pytest_plugins = ["ledger.testing"]

    ledger_recorder      a ledger in memory: for unit tests (recorder.py)
    ledger               an empty ledger for one test, in the run's database
    ledger_connection    a connection to that database, in a transaction that is rolled back at the test's end
    ledger_database      the URL of the database, migrated once for the whole run
    ledger_servers       the URLs of Postgres and Redis: see __init__.py; LEDGER_TEST_REDIS_URL is optional here

LEDGER_DATABASE_URL and other settings of the developer's shell are not used.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger import testing
from ledger.client import Ledger
from ledger.drivers.pools import Connector
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.store.ledgers import create_ledger
from ledger.testing.recorder import Recorder


@pytest.fixture
def ledger_recorder() -> Recorder:
    """A ledger in memory."""
    return Recorder()


@pytest.fixture(scope="session")
def ledger_servers() -> Iterator[testing.TestServers]:
    """The run's Postgres (as a superuser) and Redis. redis_url is empty if only LEDGER_TEST_DATABASE_URL is set."""
    database_url = os.environ.get("LEDGER_TEST_DATABASE_URL")
    if database_url and not os.environ.get("LEDGER_TEST_REDIS_URL"):
        yield testing.TestServers(database_url, "")
    else:
        with testing.servers() as pair:
            yield pair


@pytest.fixture(scope="session")
def ledger_database(ledger_servers: testing.TestServers) -> Iterator[str]:
    """The URL of a migrated database for this run, dropped at its end."""
    with testing.database(ledger_servers.database_url) as url:
        migrate(Settings(database_url=url))
        yield url


@pytest.fixture
def ledger(ledger_servers: testing.TestServers, ledger_database: str) -> Iterator[Ledger]:
    """An empty ledger for one test."""
    settings = Settings(
        database_url=ledger_database, redis_url=ledger_servers.redis_url or None, name=f"test-{secrets.token_hex(6)}"
    )
    connector = Connector(settings)
    try:
        connector.run(create_ledger(settings.name))
    finally:
        connector.close()
    with Ledger(settings) as empty:
        yield empty


@pytest.fixture
def ledger_connection(ledger_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in a transaction that is rolled back at the test's end; `transaction()` makes savepoints in it."""
    with psycopg.connect(ledger_database) as connection, connection.transaction(force_rollback=True):
        yield connection
