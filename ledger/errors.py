"""Every error the ledger raises on purpose.

    LedgerError
    ├── UsageError                  you asked for something that cannot be done; nothing was recorded
    │   ├── InvalidEvent            an event that format.md does not allow; names the JSON path
    │   ├── InvalidSetting          a missing or malformed setting, URL or argument
    │   ├── ConditionFailed         an `expect=` did not hold
    │   ├── IdempotencyConflict     an id was recorded before, with other content
    │   ├── EventRejected           a recorded event that cannot be appended, and was set aside
    │   ├── ErasureRefused          an entry that is not there, or that nobody may erase
    │   │   └── UnderLegalHold      a legal hold stands against it
    │   ├── QuarantineRefused       an entry that holds, or is not there yet
    │   ├── HoldRefused             a resource that is held already, or not held
    │   ├── SkipRefused             an entry that a projection cannot leave out, or does not
    │   ├── UnknownLedger           no ledger of that name
    │   ├── UnknownProjection       no projection of that name, or its tables are not built yet
    │   └── SchemaMismatch          the database's schema is missing, too old or too new for this package
    ├── IntegrityError              the data lies; stop and look
    │   ├── ChainBroken             entries that do not continue each other
    │   │   └── EntryUnreadable     an entry that Postgres cannot read: its files are damaged
    │   ├── StreamDiverged          the stream holds what the database does not
    │   ├── RecordRefused           the database refused a record as false
    │   ├── BodyUnreadable          a body that no value of Python can hold; only another writer could have stored it
    │   ├── SigningRefused          the ledger does not continue its signed checkpoint
    │   ├── EvidenceRefused         evidence handed in does not hold
    │   │   ├── NoteRefused         a signed note or checkpoint: its form or its signatures
    │   │   ├── ProofRefused        an inclusion or consistency proof, or a tile
    │   │   └── WitnessRefused      a witness has cosigned another history of this log
    │   └── MigrationTampered       a migration was edited, removed or reordered
    ├── ProjectionFailed            a projection's `apply` raised; its view stands before the entry it failed at
    └── Unavailable                 a server is unreachable or overloaded; trying again is safe
        ├── ConnectionLost          the connection broke while it was in use
        ├── TailBusy                another transaction holds the ledger's tail; nothing was recorded
        ├── CosignaturesMissing     fewer witnesses cosigned than were demanded; the checkpoint is signed and kept
        ├── OutcomeUnknown          the connection was lost while recording: append again with the same ids
        ├── StreamUnusable          Redis answers, but not for this ledger's stream: a foreign key, a forbidden command
        ├── PublishingFailed        too few publishers took a checkpoint; it is signed and kept
        └── WaitTimeout             a projection did not reach a position, or a recorded event its entry, in time

Only these leave the package, except in the caller's own transaction: there Postgres' own errors pass through as they
are, because the caller's code already knows what to do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class LedgerError(Exception):
    """The root of the tree. Pickled with its message and attributes, so that it reaches another process as it is."""

    def __reduce__(self) -> tuple[Callable[..., LedgerError], tuple[Any, ...], dict[str, Any]]:
        return _unpickled, (type(self), *self.args), vars(self)


def _unpickled(kind: type[LedgerError], *args: Any) -> LedgerError:
    """An error with these `args`, without its `__init__`, which makes them of something else."""
    return kind.__new__(kind, *args)


class UsageError(LedgerError):
    """You asked for something that cannot be done. Nothing was recorded."""


class InvalidEvent(UsageError):
    """An event that the format does not allow.

    `path` is where: a field (`actor`) or a JSON path into a body (`after.lines[3].price`).
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class InvalidSetting(UsageError):
    """A setting, URL or argument that is missing or malformed."""


class ConditionFailed(UsageError):
    """An `expect=` that did not hold when the tail was locked. Nothing was recorded."""


class IdempotencyConflict(UsageError):
    """An id or idempotency key that was recorded before with other content."""


class EventRejected(UsageError):
    """A recorded event that cannot be appended: it was set aside with the reason. `status` counts these."""


class ErasureRefused(UsageError):
    """An entry that is not there, that nobody may erase, or that was erased already for another reason."""


class UnderLegalHold(ErasureRefused):
    """A legal hold stands against the erasure. Nothing was erased."""


class HoldRefused(UsageError):
    """A legal hold on what is held already for another reason, or a release of what is not held."""


class SkipRefused(UsageError):
    """An entry that a projection cannot leave out, does not leave out, or left out already for another reason."""


class QuarantineRefused(UsageError):
    """An entry that holds, that is not there yet, or that was quarantined already for another reason."""


class UnknownLedger(UsageError):
    """No ledger of that name in this database."""


class UnknownProjection(UsageError):
    """No projection of that name, or its tables are not built yet."""


class SchemaMismatch(UsageError):
    """The database's schema is missing, too old or too new for this package."""


class IntegrityError(LedgerError):
    """The data lies: what is stored contradicts itself."""


class ChainBroken(IntegrityError):
    """Entries that do not continue each other. `position` is the first that does not.

    ledger: its name, where work on it stopped before that entry; then the message says what to do.
    """

    way_on = "{} quarantine {} --actor WHO --reason WHY' lets workers pass it, on the record"

    def __init__(self, position: int, problem: str, ledger: str | None = None) -> None:
        text = f"entry {position}: {problem}"
        if ledger is not None:
            command = f"'auditledger --ledger {ledger}"
            text += (
                f". Work on ledger {ledger!r} stops before it: {command} verify --from {position}' shows the findings, "
                f"and {self.way_on.format(command, position)}"
            )
        super().__init__(text)
        self.position = position
        self.problem = problem
        self.ledger = ledger


class EntryUnreadable(ChainBroken):
    """Postgres cannot read the entry: its files are damaged."""

    way_on = "it goes on once Postgres' files are restored from a backup or a standby"


class StreamDiverged(IntegrityError):
    """The stream holds entries that the database does not (a restored backup, a lost failover)."""


class RecordRefused(IntegrityError):
    """The database refused a record: it was not what it said it was."""


class BodyUnreadable(IntegrityError):
    """JSON of a body that no value of Python can hold: 1e400, a thousand levels, a lone surrogate.

    This package writes none of it, so another writer did. Whether it is what was hashed is for `verify` to say; the
    text itself is in `before_json`, `after_json` or `metadata_json`.
    """


class SigningRefused(IntegrityError):
    """The ledger does not continue what was signed of it before: nothing was signed.

    `kind` is what it looks like: `truncated` (fewer entries than were signed), `rewritten` (other entries),
    `tree_mismatch` (other tiles than those that were signed), `forked` (two signed checkpoints contradict each other).
    """

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(f"{kind}: {problem}; nothing was signed")
        self.kind = kind


class EvidenceRefused(IntegrityError):
    """Evidence that was handed in does not hold: it is malformed, or it proves something else."""


class NoteRefused(EvidenceRefused):
    """A signed note or checkpoint whose form or signatures do not hold."""


class ProofRefused(EvidenceRefused):
    """An inclusion or consistency proof, a tile or an entry bundle that does not hold."""


class WitnessRefused(EvidenceRefused):
    """A witness has cosigned a checkpoint of this log that the one in hand does not continue, or a larger one.

    `ahead` is the size of the largest, where all that is wrong is that it is larger; else None.
    """

    def __init__(self, problem: str, ahead: int | None = None) -> None:
        super().__init__(problem)
        self.ahead = ahead


class MigrationTampered(IntegrityError):
    """A migration file or the record of an applied one was edited, removed or reordered."""


class ProjectionFailed(LedgerError):
    """A projection's `apply` raised; its view stands before the entry at `position`, which it could not apply.

    error: the type of what it raised and where. The whole is `__cause__`, whose message may quote the entry's body.
    from_entry: does the reason lie in the entry or in the projection, not in a server?
    """

    def __init__(self, name: str, ledger: str, position: int, error: str, from_entry: bool = True) -> None:
        super().__init__(f"projection {name!r} failed at entry {position} of ledger {ledger!r}: {error}")
        self.name = name
        self.ledger = ledger
        self.position = position
        self.error = error
        self.from_entry = from_entry


class Unavailable(LedgerError):
    """A server cannot be reached or does not answer in time. Trying again is safe."""


class ConnectionLost(Unavailable):
    """The connection broke while it was in use: what was under way may or may not have happened."""


class TailBusy(Unavailable):
    """Another transaction holds the ledger's tail for longer than the lock timeout. Nothing was recorded."""


class CosignaturesMissing(Unavailable):
    """Fewer witnesses cosigned a checkpoint than were demanded. It is signed and kept: ask them again later."""


class OutcomeUnknown(Unavailable):
    """The connection was lost while recording and the outcome could not be settled.

    Appending again with the same ids is safe: what was recorded is found, what was not is recorded once.
    """


class StreamUnusable(Unavailable):
    """Redis answers, but does not let this ledger's stream or group be used: says why. What others do goes on."""


class PublishingFailed(Unavailable):
    """Too few publishers took a checkpoint. It is signed and kept: publishing it again is safe."""


class WaitTimeout(Unavailable):
    """A projection did not reach a position, or a recorded event was not sealed, in the time given."""
