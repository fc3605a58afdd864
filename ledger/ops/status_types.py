"""What `status` reports: ledgers, their streams, projections and consumer groups, and who holds a tail lock."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

OK, NOT_SET = "ok", "not set"


class Lag(NamedTuple):
    """How far an offset is behind the tail. seconds: since the first of these entries was recorded; None if unknown."""

    entries: int
    seconds: float | None


class Blocked(NamedTuple):
    """The entry at which a projection is blocked.

    error: type and place of the exception. since: time of the first failure, `seconds` ago. tries: attempts.
    """

    position: int
    error: str
    since: datetime
    seconds: float
    tries: int


class Place(NamedTuple):
    """The offset of a projection or a consumer group. ahead: beyond the tail, because the database was rolled back.

    rebuilding: a rebuild's view, not the live one. abandoned: a rebuild that was killed, and left copies of bodies that
    erasures do not reach. blocked, skipped: of a projection; skipped: number of entries that it leaves out.
    dead_letters: their number, of a group; None if Redis is unreachable.
    """

    name: str
    position: int
    lag: Lag
    ahead: bool
    version: int = 0
    rebuilding: bool = False
    abandoned: bool = False
    blocked: Blocked | None = None
    skipped: int = 0
    dead_letters: int | None = None


class StreamPlace(NamedTuple):
    """The state of a stream. first: the oldest position that it still holds. lag: None if Postgres is unreachable.

    diverged: it is ahead of its ledger, or its newest entry is not the ledger's; None if unknown.
    """

    epoch: int
    position: int
    first: int | None
    lag: Lag | None
    diverged: bool | None


class Verified(NamedTuple):
    """A ledger's last verification. head: hash of the last entry that it read. findings: their number."""

    verified_at: datetime
    first: int
    last: int
    head: bytes
    findings: int


class Holder(NamedTuple):
    """The transaction that holds a tail lock for too long; appends to that ledger wait for it.

    pid: None for a prepared transaction, whose name is `prepared`. since: when the transaction began or was prepared,
    `seconds` ago. last_ran: its last statement, without literals. Fields that this database user may not see are None.
    waiting: number of sessions.
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
    """An entry that fails verification and is not quarantined; workers stop before it.

    found: its findings. damaged: Postgres cannot read it, and it cannot be quarantined.
    """

    position: int
    found: str
    damaged: bool = False


class Refusal(NamedTuple):
    """A log whose signer refuses to sign. since: time of the first refusal."""

    origin: str
    problem: str
    since: datetime


class Outbox(NamedTuple):
    """What is recorded and not sealed. waiting: events, counted up to 100,000. seconds: the age of the first of them.

    rejected: events that cannot be appended, and were set aside.
    """

    waiting: int
    seconds: float
    rejected: int


class LedgerState(NamedTuple):
    """One ledger. ledger_id is None if it is known from Redis alone; position is None if it has no tail row.

    unusable: why its stream cannot be used although Redis answers.
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
    outbox: Outbox | None = None


class Overview(NamedTuple):
    """All ledgers. postgres, redis: `ok`, `not set`, or why the server is unreachable.

    unprotected: details of the `unprotected` findings; None if unknown. hidden: what the database user may not see.
    """

    postgres: str
    redis: str
    ledgers: tuple[LedgerState, ...]
    unprotected: tuple[str, ...] | None
    hidden: tuple[str, ...]

    @property
    def unreachable(self) -> bool:
        return self.postgres != OK or self.redis not in (OK, NOT_SET)
