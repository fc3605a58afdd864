"""auditledger: a tamper-evident audit ledger for applications on Postgres.

The imports below are the only list of the public names. They are never run, so that `import ledger` loads no driver and
no cryptography: a type checker reads them, and Python compiles them into this module's code, where `_homes` finds which
module each name comes from. A name's module is imported when the name is first used (PEP 562). No source is read, so
folders with compiled files alone work as well. In a zip file the list is there, but not the SQL that most names need.
"""

import sys
from dis import get_instructions
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.async_client import AsyncLedger as AsyncLedger
    from ledger.checkpoints.keys import Key as Key
    from ledger.checkpoints.proof import Consistency as Consistency
    from ledger.checkpoints.proof import Proof as Proof
    from ledger.checkpoints.proof import Proven as Proven
    from ledger.checkpoints.proof import check_consistency_proof as check_consistency_proof
    from ledger.checkpoints.proof import check_proof as check_proof
    from ledger.checkpoints.publishers import Publisher as Publisher
    from ledger.checkpoints.signer import Checkpointed as Checkpointed
    from ledger.client import Ledger as Ledger
    from ledger.drivers.connections import create_async_redis_connection as create_async_redis_connection
    from ledger.drivers.connections import create_redis_connection as create_redis_connection
    from ledger.effects import Plan as Plan
    from ledger.effects import Query as Query
    from ledger.errors import BodyUnreadable as BodyUnreadable
    from ledger.errors import ChainBroken as ChainBroken
    from ledger.errors import ConditionFailed as ConditionFailed
    from ledger.errors import ConnectionLost as ConnectionLost
    from ledger.errors import CosignaturesMissing as CosignaturesMissing
    from ledger.errors import EntryUnreadable as EntryUnreadable
    from ledger.errors import ErasureRefused as ErasureRefused
    from ledger.errors import EventRejected as EventRejected
    from ledger.errors import EvidenceRefused as EvidenceRefused
    from ledger.errors import HoldRefused as HoldRefused
    from ledger.errors import IdempotencyConflict as IdempotencyConflict
    from ledger.errors import IntegrityError as IntegrityError
    from ledger.errors import InvalidEvent as InvalidEvent
    from ledger.errors import InvalidSetting as InvalidSetting
    from ledger.errors import LedgerError as LedgerError
    from ledger.errors import MigrationTampered as MigrationTampered
    from ledger.errors import NoteRefused as NoteRefused
    from ledger.errors import OutcomeUnknown as OutcomeUnknown
    from ledger.errors import ProjectionFailed as ProjectionFailed
    from ledger.errors import ProofRefused as ProofRefused
    from ledger.errors import PublishingFailed as PublishingFailed
    from ledger.errors import QuarantineRefused as QuarantineRefused
    from ledger.errors import RecordRefused as RecordRefused
    from ledger.errors import SchemaMismatch as SchemaMismatch
    from ledger.errors import SigningRefused as SigningRefused
    from ledger.errors import SkipRefused as SkipRefused
    from ledger.errors import StreamDiverged as StreamDiverged
    from ledger.errors import StreamUnusable as StreamUnusable
    from ledger.errors import TailBusy as TailBusy
    from ledger.errors import Unavailable as Unavailable
    from ledger.errors import UnderLegalHold as UnderLegalHold
    from ledger.errors import UnknownLedger as UnknownLedger
    from ledger.errors import UnknownProjection as UnknownProjection
    from ledger.errors import UsageError as UsageError
    from ledger.errors import WaitTimeout as WaitTimeout
    from ledger.errors import WitnessRefused as WitnessRefused
    from ledger.events import Appended as Appended
    from ledger.events import Entry as Entry
    from ledger.events import Event as Event
    from ledger.events import Receipt as Receipt
    from ledger.events import Tail as Tail
    from ledger.events import Unchanged as Unchanged
    from ledger.format.decode import Envelope as Envelope
    from ledger.format.findings import Finding as Finding
    from ledger.projection.base import Projection as Projection
    from ledger.projection.base import Writes as Writes
    from ledger.projection.base import read_views as read_views
    from ledger.settings import Settings as Settings
    from ledger.store.ledgers import LedgerRef as LedgerRef
    from ledger.stream.dead_letters import DeadLetter as DeadLetter
    from ledger.stream.delivery import AsyncDelivery as AsyncDelivery
    from ledger.stream.delivery import Delivery as Delivery
    from ledger.stream.groups import Group as Group
    from ledger.tlog.checkpoint import Checkpoint as Checkpoint
    from ledger.tlog.note import Note as Note
    from ledger.tlog.note import Signature as Signature
    from ledger.tlog.note import Signer as Signer
    from ledger.tlog.note import Verifier as Verifier
    from ledger.tlog.witness_client import Witnesses as Witnesses
    from ledger.tlog.witness_outcome import Witness as Witness
    from ledger.tlog.witness_protocol import Cosigned as Cosigned
    from ledger.verify.report import Report as Report


def _homes(code: CodeType) -> dict[str, str]:
    """Of each name that code imports from this package: the module that it comes from."""
    homes: dict[str, str] = {}
    module = ""
    for instruction in get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            module = instruction.argval
        elif instruction.opname == "IMPORT_FROM" and module.startswith("ledger."):
            homes[instruction.argval] = module
    return homes


_HOMES = _homes(sys._getframe().f_code)
__all__ = sorted(_HOMES)  # noqa: PLE0605 - for a star import and help(); type checkers read the imports above


if not TYPE_CHECKING:  # to a type checker it would mean that every name exists

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
