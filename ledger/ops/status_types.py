"""What `status` knows: of ledgers, their streams, projections and groups, and of who holds them up."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

OK, NOT_SET = "ok", "not set"


class Lag(NamedTuple):
    """seconds: since the first of the entries behind was recorded; None where that cannot be seen."""

    entries: int
    seconds: float | None


class Standstill(NamedTuple):
    """The entry that a projection could not apply. error: its type and place. since: when that began, `seconds` ago."""

    position: int
    error: str
    since: datetime
    seconds: float
    tries: int


class Place(NamedTuple):
    """How far a projection or a consumer group has come. ahead: further than the ledger, which was set back.

    skipped: how many entries a projection leaves out. parked: how many a group does; None where Redis is away.
    abandoned: a rebuild that was killed, and left copies of bodies that no erasure reaches.
    """

    name: str
    position: int
    lag: Lag
    ahead: bool
    version: int = 0
    rebuilding: bool = False
    abandoned: bool = False
    standstill: Standstill | None = None
    skipped: int = 0
    parked: int | None = None


class StreamPlace(NamedTuple):
    """Where a stream stands. first: the first position that it still holds. lag: None where Postgres is away.

    diverged: it is ahead of its ledger, or its newest entry is not the ledger's; None where that cannot be seen.
    """

    epoch: int
    position: int
    first: int | None
    lag: Lag | None
    diverged: bool | None


class Verified(NamedTuple):
    """A ledger's last verification."""

    verified_at: datetime
    first: int
    last: int
    head: bytes
    findings: int


class Holder(NamedTuple):
    """The transaction that holds a tail for too long; appends to that ledger wait for it.

    pid: None for a prepared transaction, which has a name instead. since: when the transaction began or was prepared,
    `seconds` ago. last_ran: without literals. None for all that this database user may not see. waiting: sessions.
    """

    pid: int | None
    prepared: str | None
    user: str | None
    application: str | None
    client: str | None
    since: datetime | None
    seconds: float | None
    state: str | None
    last_ran: str | None
    waiting: int


class Stopped(NamedTuple):
    """An entry that does not hold and is not quarantined: workers that have not passed it yet stop before it.

    found: what is wrong with it. damaged: Postgres cannot read it, which no quarantine passes over.
    """

    position: int
    found: str
    damaged: bool = False


class Refusal(NamedTuple):
    """A log whose signer refuses to sign. since: when it first said so."""

    origin: str
    problem: str
    since: datetime


class LedgerState(NamedTuple):
    """One ledger. Without a ledger_id it is known from Redis alone; without a position it has no tail.

    unusable: why Redis, which answers, does not let its stream be used.
    """

    name: str
    ledger_id: int | None = None
    epoch: int | None = None
    position: int | None = None
    hash: bytes | None = None
    recorded_at: datetime | None = None
    projections: tuple[Place, ...] | None = None
    subscriptions: tuple[Place, ...] | None = None
    verified: Verified | None = None
    holder: Holder | None = None
    stream: StreamPlace | None = None
    stopped: tuple[Stopped, ...] | None = None
    refusals: tuple[Refusal, ...] | None = None
    unusable: str | None = None


class Overview(NamedTuple):
    """postgres, redis: `ok`, `not set`, or why it is away. hidden: what the database user may not see.

    unprotected: what `verify` would say of the protections; None where that is not known.
    """

    postgres: str
    redis: str
    ledgers: tuple[LedgerState, ...]
    unprotected: tuple[str, ...] | None
    hidden: tuple[str, ...]

    @property
    def away(self) -> bool:
        return self.postgres != OK or self.redis not in (OK, NOT_SET)
