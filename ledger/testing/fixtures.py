"""Fixtures of pytest for the tests of applications. One line in conftest.py brings them:

    pytest_plugins = ["ledger.testing"]

    ledger_recorder      a ledger in memory: for unit tests (recorder.py)
    ledger               a ledger of the test's own, in the run's database: for tests with a real one
    ledger_connection    a connection to that database, in a transaction that is rolled back at the test's end
    ledger_database      the URL of the database, migrated once for the whole run
    ledger_servers       where Postgres and Redis are: see __init__.py; LEDGER_TEST_REDIS_URL may be missing here

Nothing of LEDGER_DATABASE_URL and its like in the developer's shell is used.
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
    """The run's Postgres, as a superuser, and Redis; its URL is empty where only LEDGER_TEST_DATABASE_URL is set."""
    database_url = os.environ.get("LEDGER_TEST_DATABASE_URL")
    if database_url and not os.environ.get("LEDGER_TEST_REDIS_URL"):
        yield testing.TestServers(database_url, "")
    else:
        with testing.servers() as pair:
            yield pair


@pytest.fixture(scope="session")
def ledger_database(ledger_servers: testing.TestServers) -> Iterator[str]:
    """The URL of a database with the schema, made for this run and dropped at its end."""
    with testing.database(ledger_servers.database_url) as url:
        migrate(Settings(database_url=url))
        yield url


@pytest.fixture
def ledger(ledger_servers: testing.TestServers, ledger_database: str) -> Iterator[Ledger]:
    """An empty ledger of the test's own."""
    settings = Settings(
        database_url=ledger_database, redis_url=ledger_servers.redis_url or None, name=f"test-{secrets.token_hex(6)}"
    )
    servers = Connector(settings)
    try:
        servers.run(create_ledger(settings.name))
    finally:
        servers.close()
    with Ledger(settings) as opened:
        yield opened


@pytest.fixture
def ledger_connection(ledger_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in a transaction that is rolled back at the test's end; `transaction()` makes savepoints in it."""
    with psycopg.connect(ledger_database) as connection, connection.transaction(force_rollback=True):
        yield connection
