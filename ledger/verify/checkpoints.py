"""Checkpoints against the ledger that they are of, and against one another: the rules of a verification. Pure.

A checkpoint was signed when the ledger had `size` entries. Anyone who kept one can tell whether that
ledger is still the beginning of this one:

    truncated       the ledger has fewer entries than it had then
    rewritten       its entries up to there are others now
    forked          two signed checkpoints contradict one another: the holder of the key signed two histories
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ledger.errors import InvalidSetting, NoteRefused
from ledger.format.findings import MOST, Findings
from ledger.tlog.checkpoint import Checkpoint, open_checkpoint
from ledger.tlog.note import COSIGNATURE, ED25519, Verifier, parse_note, verified_by


class Trust(msgspec.Struct, frozen=True):
    """Whose signatures count. keys: of the log (type 0x01). witnesses: type 0x04, of whom `quorum` must have cosigned.

    `given` makes one from what a user gives.
    """

    keys: tuple[Verifier, ...] = ()
    witnesses: tuple[Verifier, ...] = ()
    quorum: int = 0

    @classmethod
    def given(
        cls, keys: Iterable[str | Verifier], witnesses: Iterable[str | Verifier] = (), quorum: int | None = None
    ) -> Trust:
        """keys, witnesses: as vkeys or parsed. quorum: None for all of the witnesses.

        Raises InvalidSetting for a malformed key, one of the wrong type, and a quorum that can never be met.
        """
        logs, cosigners = tuple(map(_verifier, keys)), tuple(map(_verifier, witnesses))
        for kind, whose, given in ((ED25519, "log", logs), (COSIGNATURE, "witness", cosigners)):
            for key in given:
                if key.kind != kind:
                    raise InvalidSetting(f"{key.vkey} is not the key of a {whose}: its type is not 0x{kind:02x}")
        count = len({witness.public_key for witness in cosigners})
        wanted = count if quorum is None else quorum
        if not 0 <= wanted <= count:
            raise InvalidSetting(f"{wanted} witnesses are asked for, and {count} are given")
        return cls(logs, cosigners, wanted)

    def open(self, note: bytes, ledger: str | None = None) -> Checkpoint:
        """The checkpoint of a signed note, of that ledger. Raises NoteRefused if it is not signed as demanded."""
        checkpoint = open_checkpoint(note, None, self.keys, self.witnesses, self.quorum)
        if ledger is not None and checkpoint.log != ledger:
            raise NoteRefused(f"the checkpoint is of {checkpoint.origin!r}, not of a ledger {ledger!r}")
        return checkpoint


class Claim(msgspec.Struct, frozen=True):
    """A checkpoint, and who brought it. source: as a finding names it. signed: by a key that is trusted."""

    checkpoint: Checkpoint
    source: str
    signed: bool

    @property
    def size(self) -> int:
        return self.checkpoint.size

    def __str__(self) -> str:
        return f"{self.source}, of {self.size} entries"


def numbered(notes: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Checkpoints without names, as `given_claims` takes them."""
    return [(f"checkpoint {number}", note) for number, note in enumerate(notes, 1)]


def given_claims(notes: Iterable[tuple[str, bytes]], trust: Trust, ledger: str) -> list[Claim]:
    """The checkpoints that a user gives, with their sources' names. Raises NoteRefused, which names the source."""
    claims = []
    for source, note in notes:
        if not trust.keys:
            raise InvalidSetting("a checkpoint says nothing without the key that signed it: give the log's public key")
        try:
            claims.append(Claim(trust.open(note, ledger), source, True))
        except NoteRefused as error:
            raise NoteRefused(f"{source}: {error}") from None
    return sorted(claims, key=lambda claim: claim.size)


def kept_claim(note: bytes, keys: Sequence[Verifier], ledger: str) -> Claim:
    """A checkpoint that the ledger itself keeps. Signed by keys that are not given, it is still compared.

    Raises NoteRefused if it is none of this ledger, or a signature of a key given is false.
    """
    parsed = parse_note(note)
    checkpoint = Checkpoint.of(parsed)
    if checkpoint.log != ledger:
        raise NoteRefused(f"it is of {checkpoint.origin!r}, not of ledger {ledger!r}")
    signed = any(key.name == checkpoint.origin for key in verified_by(parsed, keys))
    return Claim(checkpoint, "the checkpoint kept", signed)


class Comparison:
    """Compares claims, in the order of their sizes, with the ledger's own tree.

    newest: how many entries the ledger has, counted by the position of the newest.
    """

    def __init__(self, newest: int, findings: Findings) -> None:
        self.newest = newest
        self.findings = findings
        # How far the ledger is known to be what was signed; whatever a later checkpoint denies was changed after that.
        self.sound = 0
        self.holding: dict[str, Claim] = {}
        self.denied: list[Claim] = []

    def take(self, claim: Claim, root: bytes | None) -> None:
        """root: the ledger's at the claim's size; None if that cannot be known, for want of entries before it."""
        if claim.size > self.newest:
            self._deny(claim, "truncated", f"{claim}, is of more entries than there are: the newest is {self.newest}")
        elif root is None:
            self._deny(claim, "rewritten", f"{claim}, cannot hold: entries before it are missing")
        elif claim.checkpoint.root != root:
            since = f"the change lies after entry {self.sound}" if self.sound else "it may lie anywhere before"
            self._deny(claim, "rewritten", f"{claim}, names a root that these entries do not have: {since}")
        elif claim.signed:
            self.sound = claim.size
            self.holding[claim.checkpoint.origin] = claim

    def end(self) -> None:
        """Adds signed checkpoints that the ledger denies and that contradict another signed one.

        One that holds, of no fewer entries, was signed over other entries than they were. What lies beyond it could be
        its continuation, so there only two of one size contradict each other for certain.
        """
        same_size: dict[tuple[str, int], Claim] = {}
        for claim in self.denied:
            checkpoint = claim.checkpoint
            other = self.holding.get(checkpoint.origin)
            if other is None or other.size < claim.size:
                other = same_size.setdefault((checkpoint.origin, claim.size), claim)
                if other.checkpoint.root == checkpoint.root:
                    continue
            detail = f"two checkpoints of {checkpoint.origin} that contradict one another are signed: {claim}; {other}"
            self.findings.add(claim.size, "forked", detail)

    def _deny(self, claim: Claim, kind: str, detail: str) -> None:
        self.findings.add(claim.size, kind, detail)
        if claim.signed and len(self.denied) < MOST:
            self.denied.append(claim)


def _verifier(key: str | Verifier) -> Verifier:
    return key if isinstance(key, Verifier) else Verifier.parse(key)
