"""What a log and a witness say to one another: C2SP tlog-witness, "add-checkpoint". Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from ledger.errors import ProofRefused
from ledger.tlog.merkle import HASH_SIZE
from ledger.tlog.note import base64_bytes, base64_text, decimal

PATH = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
"""The media type of a 409 that says which size the witness has cosigned."""
MAX_PROOF = 63
"""Hashes of a consistency proof that may be sent."""

Prove: TypeAlias = Callable[[int], Sequence[bytes]]
"""Gives the consistency proof (RFC 6962, section 2.1.2) from an older size of the log to the checkpoint's."""


class Cosigned(NamedTuple):
    """What asking witnesses brought.

    note: with their cosignatures. demand: called with the note as it is kept then, raises where they are too few.
    failed: who did not cosign: (witness, problem).
    """

    note: bytes
    demand: Callable[[bytes], None]
    failed: Sequence[tuple[str, str]] = ()


Cosign: TypeAlias = Callable[[bytes, Prove], Cosigned]
"""Asks witnesses to cosign a signed note; raises nothing for what they answer."""


class Request(msgspec.Struct, frozen=True):
    """The body of add-checkpoint. old: the size the proof begins at; note: the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Its bytes."""
        lines = [f"old {self.old}", *map(base64_text, self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """The request of a body that `encode` could have made; the note itself is not looked at.

        Raises ProofRefused for any other.
        """
        head, blank, note = body.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise ProofRefused("the request's lines before the checkpoint are not ASCII") from None
        old = decimal(first.removeprefix("old "))
        if not blank or not first.startswith("old ") or old is None:
            raise ProofRefused("the request does not begin with 'old ', a size, hashes and a blank line")
        if len(lines) > MAX_PROOF:
            raise ProofRefused(f"the request holds {len(lines)} hashes; at most {MAX_PROOF} are read")
        proof = [base64_bytes(line) for line in lines]
        hashes = tuple(entry for entry in proof if entry is not None and len(entry) == HASH_SIZE)
        if len(hashes) != len(proof):
            raise ProofRefused(f"a line of the request's proof is not the base64 of {HASH_SIZE} bytes")
        return cls(old, hashes, note)


class Answer(msgspec.Struct, frozen=True):
    """What a witness answered. kind: the media type."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"
