"""Who seals, publishes and projects: the product's own loops, as its command line runs them."""

from __future__ import annotations

from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.worker import Projector
from ledger.stream.relay import Relay
from tests.simulation.life import Life


def seal(life: Life) -> None:
    servers = Connector(life.settings)
    Sealer(servers).run(life.stop)
    servers.close()


def relay(life: Life) -> None:
    servers = Connector(life.settings)
    Relay(servers).run(life.stop)
    servers.close()


def project(life: Life) -> None:
    servers = Connector(life.settings)
    projector = Projector(servers, find_projections())
    life.settle(projector.install)
    projector.run(life.stop)
    projector.close()
    servers.close()
