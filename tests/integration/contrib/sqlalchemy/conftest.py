"""One database for all of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ledger import testing
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.support.logins import logins


@pytest.fixture(scope="session")
def _database(servers: testing.TestServers, template: str) -> Iterator[Database]:
    with testing.database(servers.database_url, template=template) as url, logins(url) as login:
        made = Database(url, login)
        yield made
        made.close()


@pytest.fixture(scope="session")
def _runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def database(_database: Database) -> Database:
    """With empty tables."""
    _database.clear()
    return _database


@pytest.fixture(scope="session", params=["psycopg sync", "psycopg async", "asyncpg"])
def _sessions(request: pytest.FixtureRequest, _database: Database, _runner: asyncio.Runner) -> Iterator[Sessions]:
    made = Sessions(request.param, _database.url, _runner)
    yield made
    made.close()


@pytest.fixture
def sessions(_sessions: Sessions, database: Database) -> Sessions:
    """Sessions of each kind: a test that takes it runs once for each."""
    return _sessions
