"""Makes checkpoints: extends the tree, signs its head, keeps the note, has it cosigned, publishes it.

In this order, and each step can be repeated after a crash: the tree is committed; then the state of each key is
written; only then is the head signed, and the note kept. So a state may be ahead of the kept checkpoints, in which case
the same size is signed again, but never behind one that its key signed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from ledger.checkpoints import grow
from ledger.checkpoints.keys import AnyKey, Guarded, key_of, origin_of, verifier_of
from ledger.checkpoints.publishers import AnyPublisher, Once, Publisher, check_require, publish, publisher_of
from ledger.checkpoints.state import State, create_state, locked
from ledger.drivers.pools import Connector
from ledger.errors import (
    ChainBroken,
    CosignaturesMissing,
    IntegrityError,
    LedgerError,
    NoteRefused,
    SigningRefused,
    WitnessRefused,
)
from ledger.settings import Settings
from ledger.store import tree
from ledger.store.ledgers import LedgerRef, find_ledger
from ledger.store.quarantine import refusal
from ledger.store.tree import Head, Kept
from ledger.store.worker import Pauses, Stops, run_until
from ledger.telemetry import Progress
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.note import Signer, parse_note, sign, verified_by
from ledger.tlog.witness_protocol import Cosign, Cosigned

log = logging.getLogger("ledger.checkpointing")

_LOOKED_AT = 100
"""How many kept checkpoints are searched for the newest that our keys signed: other signers' may be newer."""


class Checkpointed(msgspec.Struct, frozen=True):
    """A checkpoint that was made. root: 32 bytes. note: the signed note.

    published: the publishers that took it. failed: (publisher, problem) of those that did not. unwitnessed:
    (witness, problem) of those that did not cosign.
    """

    ledger: str
    origin: str
    size: int
    root: bytes
    note: bytes
    published: list[str]
    failed: list[tuple[str, str]]
    unwitnessed: list[tuple[str, str]]


class Checkpointer:
    """Signs one ledger's checkpoints with the same keys, again and again.

    keys: more than one while a key is rotated. publish: the publishers; require: how many must take the note, by
    default all. cosign: asks witnesses. new_state: creates a state file that is missing, instead of refusing.
    Raises InvalidSetting for keys that cannot be read or do not sign for that ledger.
    """

    def __init__(
        self,
        connector: Connector,
        keys: Sequence[AnyKey],
        *,
        name: str | None = None,
        publish: Sequence[AnyPublisher] = (),
        require: int | None = None,
        cosign: Cosign | None = None,
        new_state: bool = False,
    ) -> None:
        self._connector = connector
        self.name = connector.settings.name if name is None else name
        own_keys = [key_of(key) for key in keys]
        self.origin = origin_of(own_keys, self.name)
        self._signers: list[Signer] = [Guarded(key.signer) for key in own_keys]
        self._verifiers = [verifier_of(key.signer) for key in own_keys]
        self._states = [key.state for key in own_keys]
        self._publishers: list[Publisher] = [publisher_of(each, connector.run, self.name) for each in publish]
        self._require = check_require(self._publishers, require)
        self._cosign = cosign
        self._new_state = new_state
        self._ref: LedgerRef | None = None
        self._stops = Stops(connector, "sign")
        self._may_be_noted = True  # a refusal, by an earlier process

    @property
    def ref(self) -> LedgerRef:
        if self._ref is None:
            self._ref = self._connector.run(find_ledger(self.name))
        return self._ref

    def checkpoint(self, progress: Progress | None = None) -> Checkpointed:
        """Signs the ledger as it is now; if that was signed before, publishes the kept checkpoint again.

        Raises SigningRefused, ChainBroken, NoteRefused if the ledger does not hold; PublishingFailed, Unavailable.
        """
        with self._noted():
            return self._finish(*self._signed(progress))

    def run(self, stop: threading.Event, every: float) -> None:
        """Makes a checkpoint every so many seconds until `stop` is set; an unreachable server is tried again.

        If the ledger does not hold, or does not continue what was signed, nothing is signed; that is logged, and tried
        again after growing pauses. No publisher gets the note again that it took last. Raises UsageError.
        """
        self._publishers = [Once(publisher) for publisher in self._publishers]
        newest: Checkpointed | None = None

        def step() -> None:
            nonlocal newest
            if self._stops.waits(self.name):
                return
            try:
                with self._noted():
                    newest = self._step(newest)
                self._stops.passed(self.name, self.ref)
            except IntegrityError as error:
                position = error.position if isinstance(error, ChainBroken) else None
                self._stops.stopped(self.name, self.ref, error, position=position)

        run_until(stop, step, Pauses(busy=every, idle=every, retry=every), log=log)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Notes in the database, for `status`, that signing was refused, or that it goes on after a refusal."""
        try:
            yield
        except ChainBroken:  # `status` shows the entry
            raise
        except IntegrityError as error:
            self._note(str(error))
            raise
        if self._may_be_noted:
            self._note(None)

    def _note(self, problem: str | None) -> None:
        with suppress(LedgerError):  # a role without the right to, or an unreachable database
            self._connector.run(refusal(self.ref, self.origin, problem))
            self._may_be_noted = problem is not None

    def _step(self, before: Checkpointed | None) -> Checkpointed:
        checkpoint, note = self._signed(None)
        if before is not None and before.note == note and not (before.failed or before.unwitnessed):
            return before
        made = self._finish(checkpoint, note)
        if before is None or made.note != before.note:
            log.info("The checkpoint of %d entries of ledger %s is signed", made.size, self.name)
        for publisher, problem in made.failed:
            log.warning("The checkpoint of %d entries was not published to %s: %s", made.size, publisher, problem)
        for witness, problem in made.unwitnessed:
            log.warning("The checkpoint of %d entries is not cosigned by %s: %s", made.size, witness, problem)
        return made

    def _signed(self, progress: Progress | None) -> tuple[Checkpoint, bytes]:
        ref = self.ref
        if self._new_state:
            for path in self._states:
                create_state(path, self.origin)
        with locked(self._states, self.origin, self._connector.settings.lock_timeout) as states:
            kept = self._connector.run(tree.newest_of(ref, self.origin, _LOOKED_AT))
            trusted = [state.head for state in states] + self._trusted(kept)
            head = self._connector.run(grow.extend(ref, trusted, progress))
            checkpoint = Checkpoint(self.origin, head.size, head.root)
            stored = self._connector.run(tree.kept_at(ref, head.size, self.origin))
            missing = self._missing(checkpoint, stored)
            self._advance(states, head)
            if stored is not None and not missing:
                return checkpoint, stored.note
            note = sign(checkpoint.text, missing)
        return checkpoint, self._connector.run(tree.keep(ref, head, note))

    def _finish(self, checkpoint: Checkpoint, note: bytes) -> Checkpointed:
        unwitnessed: list[tuple[str, str]] = []
        if self._cosign is not None:
            cosigned = self._cosign(note, lambda old: self._prove(old, checkpoint.size))
            head = Head(checkpoint.size, checkpoint.root, None)
            note = self._connector.run(tree.keep(self.ref, head, cosigned.note))
            self._demand(cosigned, note, checkpoint)
            unwitnessed = list(cosigned.failed)
        done, failed = publish(note, self._publishers, self._require)
        return Checkpointed(self.name, self.origin, checkpoint.size, checkpoint.root, note, done, failed, unwitnessed)

    def _demand(self, cosigned: Cosigned, note: bytes, checkpoint: Checkpoint) -> None:
        """Raises if too few witnesses cosigned: CosignaturesMissing if they cosigned a newer checkpoint meanwhile."""
        try:
            cosigned.demand(note)
        except WitnessRefused as error:
            newest = self._connector.run(tree.newest_kept(self.ref))
            if error.ahead is None or newest is None or newest.size < error.ahead:
                raise
            raise CosignaturesMissing(
                f"a newer checkpoint, of {error.ahead} entries, was cosigned before this one of {checkpoint.size}"
            ) from None

    def _advance(self, states: Sequence[State], head: Head) -> None:
        for state in states:
            state.advance(head, self._prove(state.head.size, head.size) if state.head.size <= head.size else ())

    def _prove(self, old: int, new: int) -> list[bytes]:
        return self._connector.run(tree.consistency_proof(self.ref, old, new))

    def _trusted(self, kept: Sequence[Kept]) -> list[Head]:
        """The newest kept head that our own keys signed, if there is one: no other of the database is believed."""
        for each in kept:
            try:
                note = parse_note(each.note)
                checkpoint = Checkpoint.of(note)
            except NoteRefused:
                continue
            if verified_by(note, self._verifiers):
                return [Head(checkpoint.size, checkpoint.root, None)]
        return []

    def _missing(self, checkpoint: Checkpoint, kept: Kept | None) -> list[Signer]:
        """The keys whose signature the kept checkpoint of that size lacks."""
        if kept is None:
            return self._signers
        note = parse_note(kept.note)
        if note.text != checkpoint.text:
            raise SigningRefused("forked", f"another root is kept of the first {kept.size} entries of {self.name!r}")
        signed = verified_by(note, self._verifiers)
        pairs = zip(self._signers, self._verifiers, strict=True)
        return [signer for signer, verifier in pairs if verifier not in signed]


def checkpoint(
    settings: Settings,
    keys: Sequence[AnyKey],
    *,
    publish: Sequence[AnyPublisher] = (),
    require: int | None = None,
    cosign: Cosign | None = None,
    new_state: bool = False,
) -> Checkpointed:
    """One checkpoint of the ledger `settings.name`, on connections of its own. See Checkpointer."""
    connector = Connector(settings)
    try:
        checkpointer = Checkpointer(
            connector, keys, publish=publish, require=require, cosign=cosign, new_state=new_state
        )
        return checkpointer.checkpoint()
    finally:
        connector.close()
