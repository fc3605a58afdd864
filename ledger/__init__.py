"""auditledger: a tamper-evident audit ledger for applications on Postgres.

The names below are the public ones. They are loaded when first used, so that a short command does not wait for the
drivers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.async_client import AsyncLedger
    from ledger.checkpoints.keys import Key
    from ledger.checkpoints.proof import Consistency, Proof, Proven, check_consistency_proof, check_proof
    from ledger.checkpoints.signer import Checkpointed
    from ledger.client import Ledger
    from ledger.drivers.connections import create_async_redis_connection, create_redis_connection
    from ledger.effects import Plan, Query
    from ledger.errors import (
        BodyUnreadable,
        ChainBroken,
        ConditionFailed,
        CosignaturesMissing,
        ErasureRefused,
        EvidenceRefused,
        HoldRefused,
        IdempotencyConflict,
        IntegrityError,
        InvalidEvent,
        InvalidSetting,
        LedgerError,
        NoteRefused,
        OutcomeUnknown,
        ProjectionFailed,
        ProofRefused,
        PublishingFailed,
        QuarantineRefused,
        SigningRefused,
        SkipRefused,
        StreamDiverged,
        StreamUnusable,
        TailBusy,
        Unavailable,
        UnderLegalHold,
        UnknownLedger,
        UnknownProjection,
        UsageError,
        WaitTimeout,
        WitnessRefused,
    )
    from ledger.events import Appended, Entry, Event, Receipt, Tail, Unchanged
    from ledger.format.decode import Envelope
    from ledger.format.findings import Finding
    from ledger.projection.base import Projection, Writes, read_views
    from ledger.store.ledgers import LedgerRef
    from ledger.stream.dead_letters import DeadLetter
    from ledger.stream.delivery import AsyncDelivery, Delivery
    from ledger.stream.groups import Group
    from ledger.tlog.checkpoint import Checkpoint
    from ledger.tlog.note import Verifier
    from ledger.tlog.witness_client import Witnesses
    from ledger.verify.report import Report

_HOMES = {
    "Appended": "ledger.events",
    "AsyncDelivery": "ledger.stream.delivery",
    "AsyncLedger": "ledger.async_client",
    "BodyUnreadable": "ledger.errors",
    "ChainBroken": "ledger.errors",
    "Checkpoint": "ledger.tlog.checkpoint",
    "Checkpointed": "ledger.checkpoints.signer",
    "ConditionFailed": "ledger.errors",
    "Consistency": "ledger.checkpoints.proof",
    "CosignaturesMissing": "ledger.errors",
    "DeadLetter": "ledger.stream.dead_letters",
    "Delivery": "ledger.stream.delivery",
    "Entry": "ledger.events",
    "Envelope": "ledger.format.decode",
    "ErasureRefused": "ledger.errors",
    "Event": "ledger.events",
    "EvidenceRefused": "ledger.errors",
    "Finding": "ledger.format.findings",
    "Group": "ledger.stream.groups",
    "HoldRefused": "ledger.errors",
    "IdempotencyConflict": "ledger.errors",
    "IntegrityError": "ledger.errors",
    "InvalidEvent": "ledger.errors",
    "InvalidSetting": "ledger.errors",
    "Key": "ledger.checkpoints.keys",
    "Ledger": "ledger.client",
    "LedgerError": "ledger.errors",
    "LedgerRef": "ledger.store.ledgers",
    "NoteRefused": "ledger.errors",
    "OutcomeUnknown": "ledger.errors",
    "Plan": "ledger.effects",
    "Projection": "ledger.projection.base",
    "ProjectionFailed": "ledger.errors",
    "Proof": "ledger.checkpoints.proof",
    "ProofRefused": "ledger.errors",
    "Proven": "ledger.checkpoints.proof",
    "PublishingFailed": "ledger.errors",
    "QuarantineRefused": "ledger.errors",
    "Query": "ledger.effects",
    "Receipt": "ledger.events",
    "Report": "ledger.verify.report",
    "SigningRefused": "ledger.errors",
    "SkipRefused": "ledger.errors",
    "StreamDiverged": "ledger.errors",
    "StreamUnusable": "ledger.errors",
    "Tail": "ledger.events",
    "TailBusy": "ledger.errors",
    "Unavailable": "ledger.errors",
    "Unchanged": "ledger.events",
    "UnderLegalHold": "ledger.errors",
    "UnknownLedger": "ledger.errors",
    "UnknownProjection": "ledger.errors",
    "UsageError": "ledger.errors",
    "Verifier": "ledger.tlog.note",
    "WaitTimeout": "ledger.errors",
    "WitnessRefused": "ledger.errors",
    "Witnesses": "ledger.tlog.witness_client",
    "Writes": "ledger.projection.base",
    "check_consistency_proof": "ledger.checkpoints.proof",
    "check_proof": "ledger.checkpoints.proof",
    "create_async_redis_connection": "ledger.drivers.connections",
    "create_redis_connection": "ledger.drivers.connections",
    "read_views": "ledger.projection.base",
}

__all__ = [
    "Appended",
    "AsyncDelivery",
    "AsyncLedger",
    "BodyUnreadable",
    "ChainBroken",
    "Checkpoint",
    "Checkpointed",
    "ConditionFailed",
    "Consistency",
    "CosignaturesMissing",
    "DeadLetter",
    "Delivery",
    "Entry",
    "Envelope",
    "ErasureRefused",
    "Event",
    "EvidenceRefused",
    "Finding",
    "Group",
    "HoldRefused",
    "IdempotencyConflict",
    "IntegrityError",
    "InvalidEvent",
    "InvalidSetting",
    "Key",
    "Ledger",
    "LedgerError",
    "LedgerRef",
    "NoteRefused",
    "OutcomeUnknown",
    "Plan",
    "Projection",
    "ProjectionFailed",
    "Proof",
    "ProofRefused",
    "Proven",
    "PublishingFailed",
    "QuarantineRefused",
    "Query",
    "Receipt",
    "Report",
    "SigningRefused",
    "SkipRefused",
    "StreamDiverged",
    "StreamUnusable",
    "Tail",
    "TailBusy",
    "Unavailable",
    "Unchanged",
    "UnderLegalHold",
    "UnknownLedger",
    "UnknownProjection",
    "UsageError",
    "Verifier",
    "WaitTimeout",
    "WitnessRefused",
    "Witnesses",
    "Writes",
    "check_consistency_proof",
    "check_proof",
    "create_async_redis_connection",
    "create_redis_connection",
    "read_views",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
