"""No figure is bought with correctness: after each, the chain is verified and everything recorded is counted."""

from __future__ import annotations

from contextlib import closing

import psycopg

from bench.measure import Bench
from bench.servers import database_url
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.settings import Settings
from ledger.verify.database import verify

_MANY, _WORKERS = 100_000, 2
"""More entries than that are worth starting so many processes."""


class CheckFailed(Exception):
    """What was measured did not do what it says."""


def verified(bench: Bench, figure: str, settings: Settings, expected: int) -> None:
    """The ledger verifies, and holds as many entries as receipts were handed out. Raises CheckFailed."""
    report = verify(settings, workers=_WORKERS if expected > _MANY else 1)
    with psycopg.connect(database_url(settings)) as connection:
        [(count,)] = connection.execute("select count(*) from ledger.audit_logs")
    if not report.ok:
        raise CheckFailed(f"{figure}: does not verify: {report.findings[:3]}")
    if not report.entries == report.last == count == expected:
        raise CheckFailed(f"{figure}: {expected} were acknowledged, {count} are there, {report.entries} verified")
    bench.checks.append(f"{figure}: {expected:,} entries acknowledged, counted and verified")


def sealed(bench: Bench, figure: str, settings: Settings, expected: int) -> None:
    """`verified`, once what was recorded is sealed."""
    with closing(Connector(settings)) as connector:
        Sealer(connector).seal()
    verified(bench, figure, settings, expected)


def counted(bench: Bench, figure: str, whose: str, found: int, expected: int) -> None:
    """A limit, a peer or a view holds as many as it should. Raises CheckFailed."""
    if found != expected:
        raise CheckFailed(f"{figure}: {whose} should hold {expected}, but holds {found}")
    bench.checks.append(f"{figure}: {whose} holds {expected:,}")
