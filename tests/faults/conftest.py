"""Servers of a test's own, with the schema."""

from __future__ import annotations

import pytest

from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.helpers import OwnServers


@pytest.fixture
def settings(own_servers: OwnServers) -> Settings:
    settings = Settings(database_url=own_servers.database_url, redis_url=own_servers.redis_url)
    migrate(settings)
    return settings
