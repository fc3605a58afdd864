"""What must hold after a fault: the whole ledger, its stream and its views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ledger import Entry, Ledger
from ledger.drivers.connections import create_redis_connection
from ledger.drivers.pools import Connector
from ledger.format.canonical import body, envelope
from ledger.projection.base import find_projections
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream import wire
from ledger.stream.relay import Relay
from tests.support.helpers import checked

ROOT = Path(__file__).parents[2]
LIMIT = 45
"""Seconds in which another must have taken over, on however slow a machine."""
NAME = "log.example/main"
Note = Callable[[str, object], None]


def check_all(ledger: Ledger) -> None:
    """Stream and views once they have caught up: each entry once, in order; views as a fresh replay makes them."""
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    check_stream(ledger.settings, checked(ledger))
    projector = Projector(servers, find_projections())
    projector.install()
    projector.catch_up()
    assert not projector.failed
    projector.close()
    servers.close()
    report = ledger.verify()
    assert report.ok, report.findings


def check_stream(settings: Settings, entries: list[Entry]) -> None:
    with create_redis_connection(str(settings.redis_url)) as client:
        rows = client.xrange(wire.key("main"))
    assert [(id_.decode(), fields) for id_, fields in rows] == [
        (
            f"1-{entry.position}",
            {b"envelope": envelope(entry), b"body": body(entry), b"hash": entry.hash.hex().encode()},
        )
        for entry in entries
    ]
