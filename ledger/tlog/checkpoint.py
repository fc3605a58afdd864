"""Checkpoints: a log's size and root in a signed note (C2SP tlog-checkpoint). Pure: no input or output.

checkpoint = Checkpoint("example.com/audit/main", size, root)
note = sign(checkpoint.text, [signer])
open_checkpoint(note, "example.com/audit/main", [Verifier.parse(vkey)])
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ledger.errors import InvalidSetting, NoteRefused, UsageError
from ledger.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE
from ledger.tlog.note import (
    COSIGNATURE,
    ED25519,
    Note,
    Verifier,
    base64_bytes,
    base64_text,
    decimal,
    is_name,
    parse_note,
    verified_by,
)


class Checkpoint(msgspec.Struct, frozen=True):
    """What a log says of itself: its origin, how many leaves it has, and the root over them (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def log(self) -> str:
        """The last part of its origin, by which an owner of several logs tells them apart."""
        return self.origin.rpartition("/")[2]

    @property
    def text(self) -> bytes:
        """The note's text (tlog-checkpoint, "Note text"), without extension lines.

        Raises UsageError if the members cannot stand in one. Our origins are their keys' names: no spaces, no plus.
        """
        if not is_name(self.origin):
            raise UsageError(f"{self.origin!r} cannot be an origin: no spaces, no plus sign, not empty")
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_SIZE or (not self.size and self.root != EMPTY_ROOT):
            raise UsageError(f"there is no tree of {self.size} leaves with such a root")
        return f"{self.origin}\n{self.size}\n{base64_text(self.root)}\n".encode()

    @classmethod
    def of(cls, note: Note | bytes) -> Checkpoint:
        """The checkpoint of a note, whoever signed it. Raises NoteRefused if it is none."""
        return cls.parse((note if isinstance(note, Note) else parse_note(note)).text)

    @classmethod
    def parse(cls, text: bytes) -> Checkpoint:
        """The checkpoint of a note's text; extension lines are passed over. Raises NoteRefused if it is none."""
        try:
            lines = text.decode().split("\n")
        except UnicodeDecodeError:
            raise NoteRefused("the checkpoint is not UTF-8") from None
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise NoteRefused("a checkpoint has at least three lines, none of them empty")
        origin, size, root = lines[0], decimal(lines[1]), base64_bytes(lines[2])
        if size is None:
            raise NoteRefused(f"the checkpoint's size is not a number: {lines[1][:40]!r}")
        if root is None or len(root) != HASH_SIZE:
            raise NoteRefused(f"the checkpoint's root is not the base64 of {HASH_SIZE} bytes: {lines[2][:80]!r}")
        if size == 0 and root != EMPTY_ROOT:
            raise NoteRefused("the checkpoint is of size 0, but its root is not the empty tree's")
        return cls(origin, size, root)


def open_checkpoint(
    data: bytes,
    origin: str | None,
    verifiers: Iterable[Verifier],
    witnesses: Iterable[Verifier] = (),
    quorum: int = 0,
) -> Checkpoint:
    """The checkpoint of a signed note.

    origin: the log it must be of; None: any that one of the keys is named for. verifiers: the log's keys: one whose
    name is the origin must have signed. witnesses: keys of type 0x04; at least `quorum` different ones must have
    cosigned. Signatures of keys that are not given are ignored; a false one of a given key refuses the note.
    Raises NoteRefused, and InvalidSetting if the keys given cannot do.
    """
    note = parse_note(data)
    checkpoint = Checkpoint.of(note)
    if origin is not None and checkpoint.origin != origin:
        raise NoteRefused(f"the checkpoint is of {checkpoint.origin!r}, not of {origin!r}")
    signed = verified_by(note, verifiers)
    if not any(verifier.kind == ED25519 and verifier.name == checkpoint.origin for verifier in signed):
        raise NoteRefused(f"the checkpoint of {checkpoint.origin!r} is not signed by a key given for that log")
    cosigned = cosigned_by(note, witnesses, quorum)
    if len(cosigned) < quorum:
        raise NoteRefused(f"{len(cosigned)} of the witnesses cosigned the checkpoint, not {quorum}")
    return checkpoint


def cosigned_by(note: Note, witnesses: Iterable[Verifier], quorum: int = 0) -> list[Verifier]:
    """The witnesses that cosigned a checkpoint's note.

    A key counts once, whatever its names: a cosignature does not say under which name it was made (tlog-cosignature,
    "Ed25519 signed message"). Raises NoteRefused if one is false, InvalidSetting if `quorum` can never be met.
    """
    keys = {}
    for witness in witnesses:
        if witness.kind != COSIGNATURE:
            raise InvalidSetting(f"{witness.vkey} is not a witness's key: its type is not 0x04")
        keys[witness] = witness.public_key
    if len(set(keys.values())) < quorum:
        raise InvalidSetting(f"{quorum} witnesses are asked for, and {len(set(keys.values()))} are given")
    cosigned: dict[bytes, Verifier] = {}
    for witness in verified_by(note, keys):
        cosigned.setdefault(witness.public_key, witness)
    return list(cosigned.values())
