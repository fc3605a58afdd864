"""auditledger: a tamper-evident audit ledger for applications on Postgres."""

from ledger.async_client import AsyncLedger
from ledger.client import Ledger
from ledger.connections import create_async_redis_connection, create_redis_connection
from ledger.effects import Plan, Query
from ledger.errors import (
    ChainBroken,
    ConditionFailed,
    IdempotencyConflict,
    IntegrityError,
    InvalidEvent,
    InvalidSetting,
    LedgerError,
    OutcomeUnknown,
    ProjectionFailed,
    StreamDiverged,
    TailBusy,
    Unavailable,
    UnknownLedger,
    UnknownProjection,
    UsageError,
    WaitTimeout,
)
from ledger.events import Appended, Entry, Event, Receipt, Tail, Unchanged
from ledger.projection import Projection, Writes

__all__ = [
    "Appended",
    "AsyncLedger",
    "ChainBroken",
    "ConditionFailed",
    "Entry",
    "Event",
    "IdempotencyConflict",
    "IntegrityError",
    "InvalidEvent",
    "InvalidSetting",
    "Ledger",
    "LedgerError",
    "OutcomeUnknown",
    "Plan",
    "Projection",
    "ProjectionFailed",
    "Query",
    "Receipt",
    "StreamDiverged",
    "Tail",
    "TailBusy",
    "Unavailable",
    "Unchanged",
    "UnknownLedger",
    "UnknownProjection",
    "UsageError",
    "WaitTimeout",
    "Writes",
    "create_async_redis_connection",
    "create_redis_connection",
]
