"""What the tests of adapters share: the entries that were recorded, once they are sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from ledger import Entry, Ledger, testing
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector

if TYPE_CHECKING:
    from tests.integration.contrib.django_project import Project

Sealed = Callable[[], list[Entry]]


@pytest.fixture
def sealed(ledger: Ledger) -> Iterator[Sealed]:
    """Seals what waits in the outbox, and gives all entries."""
    connector = Connector(ledger.settings)

    def entries() -> list[Entry]:
        Sealer(connector).seal()
        return list(ledger.read())

    yield entries
    connector.close()


@pytest.fixture(scope="module")
def project(servers: testing.TestServers, template: str) -> Iterator[Project]:
    """A Django project, for all tests of a module."""
    from tests.integration.contrib.django_project import running

    with running(servers, template) as made:
        yield made
