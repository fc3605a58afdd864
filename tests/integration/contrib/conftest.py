"""What the tests of adapters share: the entries that were recorded, once they are sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ledger import Entry, Ledger
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector

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
