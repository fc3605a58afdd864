"""Finds risks and misconfigurations of servers and ledgers, with advice for each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from ledger.drivers.pools import Connector
from ledger.errors import LedgerError, Unavailable
from ledger.ops.doctor_ledgers import check_ledger, check_protections, check_verified
from ledger.ops.doctor_servers import (
    check_captures,
    check_clock,
    check_migrations,
    check_postgres,
    check_redis,
    check_replication,
)
from ledger.ops.doctor_types import Check, Diagnosis
from ledger.ops.status import REDIS_TIMEOUT, look
from ledger.ops.status_types import NOT_SET, OK, Overview


def examine(connector: Connector, names: Collection[str] | None) -> Diagnosis:
    """Checks both servers and all ledgers. names: only these ledgers. Raises UnknownLedger."""
    checks: list[Check] = []
    overview: Overview | None = None
    postgres = _ask(connector, checks, "postgres")
    if postgres == OK:
        try:
            schema = check_migrations(connector)
        except Unavailable as error:
            postgres = str(error)
        else:
            checks.append(schema)
            checks += connector.run(check_replication())
            if schema.level == "ok":
                checks += connector.run(check_captures())
                overview = look(connector, names)
    redis = NOT_SET if connector.settings.redis_url is None else _ask(connector, checks, "redis")
    if overview is not None:
        checks += check_protections(overview)
        for ledger in overview.ledgers:
            checks += check_ledger(ledger)
            checks += [] if "verified" in overview.hidden else check_verified(ledger)
        checks += [Check(name, "unknown", "cannot be seen by this database user") for name in overview.hidden]
        postgres = postgres if overview.postgres == OK else overview.postgres
        redis = overview.redis if redis == OK else redis
    return Diagnosis(postgres, redis, tuple(checks))


def _ask(connector: Connector, checks: list[Check], which: Literal["postgres", "redis"]) -> str:
    """Adds the checks of one server to `checks`. Returns `ok`, or why the server is unreachable."""
    try:
        if which == "postgres":
            checks += connector.run(check_postgres())
            checks.append(connector.run(check_clock()))
            return OK
        client = connector.new_redis(REDIS_TIMEOUT)
        try:
            checks += connector.run(check_redis(), client)
        finally:
            client.close()
        return OK
    except Unavailable as error:
        return str(error)
    except LedgerError as error:
        if which == "postgres":
            raise
        return str(error)  # Redis loads its data, or refuses INFO
