"""Signed notes and their keys: C2SP signed-note and tlog-cosignature. Pure: no input or output, no clock.

A note is a text under which stand signatures, each with its key's name and id. Two types of keys are known: 0x01,
Ed25519 over the text (a log's), and 0x04, Ed25519 over the text and the time (a witness's: "cosignature/v1").
Signatures of keys that were not given are ignored, as signed-note demands; one that does not verify under its key
refuses the note.

Stricter than the document where that costs no one anything: base64 must be what an encoder writes, so that every
change of a byte shows.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

import msgspec

from ledger.errors import InvalidSetting, NoteRefused, UsageError

ED25519 = 0x01
"""The type of a key that signs a note's text (signed-note, "Signature types")."""
COSIGNATURE = 0x04
"""The type of a key that signs a checkpoint and the time (tlog-cosignature)."""
MAX_NOTE = 1_000_000
"""Bytes of a note that are read at most."""
MAX_SIGNATURES = 100
"""Signatures of a note that are read at most."""
PRIVATE = "PRIVATE+KEY+"
"""How the text of a private key begins."""
KEY_ID = re.compile("[0-9a-f]{8}")
"""The id of a key in its text."""

_DASH = "\u2014 "
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f]")
_MAX_TIME = 2**63 - 1


class Signer(Protocol):
    """A key that signs: in a file (FileSigner) or wherever else it is kept.

    name: the key's name. vkey: its public half as text, of type 0x01.
    """

    @property
    def name(self) -> str: ...
    @property
    def vkey(self) -> str: ...

    def sign(self, message: bytes, /) -> bytes:
        """The raw Ed25519 signature (RFC 8032) of the message: 64 bytes."""


class Signature(msgspec.Struct, frozen=True):
    """A line under a note. data: what stands after the key's id."""

    name: str
    key_id: int
    data: bytes

    @property
    def line(self) -> bytes:
        """As it stands in the note, with its line break."""
        return f"{_DASH}{self.name} {base64_text(self.key_id.to_bytes(4, 'big') + self.data)}\n".encode()

    @property
    def time(self) -> int:
        """Of a cosignature: when it was made, in seconds since 1970 UTC. Raises NoteRefused if it is not one."""
        time = int.from_bytes(self.data[:8], "big")
        if len(self.data) != 72 or time > _MAX_TIME:
            raise NoteRefused(f"the signature of {self.name!r} is no cosignature/v1")
        return time


class Note(msgspec.Struct, frozen=True):
    """A note in its parts. text: with its last line break, without the blank line."""

    text: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return self.text + b"\n" + b"".join(signature.line for signature in self.signatures)


class Verifier(msgspec.Struct, frozen=True):
    """The public half of a key. kind: ED25519 or COSIGNATURE; public_key: 32 bytes (RFC 8032)."""

    name: str
    kind: int
    public_key: bytes

    @property
    def key_id(self) -> int:
        """signed-note, "Signatures": what tells it from other keys of that name."""
        digest = sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key).digest()
        return int.from_bytes(digest[:4], "big")

    @property
    def vkey(self) -> str:
        """Its text: `<name>+<id>+<base64 of type and public key>`."""
        return f"{self.name}+{self.key_id:08x}+{base64_text(bytes([self.kind]) + self.public_key)}"

    @property
    def cosigner(self) -> Verifier:
        """The same key as a witness's, of type 0x04."""
        return Verifier(self.name, COSIGNATURE, self.public_key)

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """The key of a vkey. Raises InvalidSetting if the text is none, or of a type that is not known here."""
        if PRIVATE in vkey:
            raise InvalidSetting("this is a private key: give its public half, and keep this one to yourself")
        name, _, rest = vkey.partition("+")
        key_id, _, key = rest.partition("+")
        data = base64_bytes(key)
        if not is_name(name) or not KEY_ID.fullmatch(key_id) or data is None:
            raise InvalidSetting(f"{shown(vkey)} is not a public key: it should be <name>+<8 hex digits>+<base64>")
        if data[:1] not in (b"\x01", b"\x04") or len(data) != 33:
            raise InvalidSetting(
                f"the key {shown(name)} is of a type other than 0x01 and 0x04, which alone are known here"
            )
        verifier = cls(name, data[0], data[1:])
        if int(key_id, 16) != verifier.key_id:
            raise InvalidSetting(
                f"the key {shown(name)} does not fit its own id, {key_id}: it was changed or miscopied"
            )
        return verifier

    def verifies(self, text: bytes, signature: Signature) -> bool:
        """Returns whether it is this key's signature of the text."""
        if (signature.name, signature.key_id) != (self.name, self.key_id):
            return False
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - takes long to load
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        data = signature.data
        try:
            if self.kind == COSIGNATURE:
                text, data = cosigned_message(text, signature.time), data[8:]
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(data, text)
        except (InvalidSignature, NoteRefused, ValueError):
            return False
        return True


def is_name(text: str) -> bool:
    """Returns whether it may be a key's name (signed-note, "Format"): not empty, no Unicode space, no plus sign."""
    return (
        bool(text)
        and "+" not in text
        and not any(character.isspace() or character < " " or "\ud800" <= character <= "\udfff" for character in text)
    )


def parse_note(data: bytes) -> Note:
    """The parts of a note; nothing is verified. Raises NoteRefused for what signed-note, "Format", does not allow."""
    if len(data) > MAX_NOTE:
        raise NoteRefused(f"a note of {len(data)} bytes; at most {MAX_NOTE} are read")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise NoteRefused("the note is not UTF-8") from None
    if _CONTROLS.search(whole):
        raise NoteRefused("the note holds control characters")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise NoteRefused("the note does not end with a blank line and whole lines of signatures")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise NoteRefused(f"a note with {len(signatures)} signatures; at most {MAX_SIGNATURES} are read")
    return Note((text + "\n").encode(), tuple(map(_signature, signatures)))


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Signature lines alone, as a witness answers with. Raises NoteRefused as `parse_note` does."""
    note = parse_note(b"\n\n" + data)
    if note.text != b"\n":
        raise NoteRefused("there is more than signature lines")
    return note.signatures


def sign(text: bytes, signers: Iterable[Signer], signatures: Sequence[Signature] = ()) -> bytes:
    """The note of a text, signed by all signers, below `signatures` that it has already from other keys.

    Raises UsageError for a text that cannot be a note's, NoteRefused if a signer's signature is not its key's.
    """
    if not text.endswith(b"\n"):
        raise UsageError("a note's text ends with a line break")
    made = []
    for signer in signers:
        verifier = Verifier.parse(signer.vkey)
        if verifier.kind != ED25519:
            raise UsageError(f"the key {signer.name} is for cosignatures: it does not sign notes")
        made.append(_checked(verifier, text, Signature(verifier.name, verifier.key_id, signer.sign(text))))
    keys = {(signature.name, signature.key_id) for signature in made}
    kept = [signature for signature in signatures if (signature.name, signature.key_id) not in keys]
    note = Note(text, (*kept, *made))
    try:
        parse_note(note.encode())
    except NoteRefused as error:
        raise UsageError(f"this text cannot be signed: {error}") from None
    return note.encode()


def cosign(text: bytes, signer: Signer, time: int) -> Signature:
    """A witness's cosignature/v1 of a checkpoint's text. time: seconds since 1970 UTC.

    Its key is `signer`'s as type 0x04: `Verifier.parse(signer.vkey).cosigner`.
    Raises NoteRefused if the signer's signature is not its key's.
    """
    if not 0 <= time <= _MAX_TIME:
        raise UsageError(f"{time} is not a time that a cosignature can hold")
    verifier = Verifier.parse(signer.vkey).cosigner
    signed = signer.sign(cosigned_message(text, time))
    return _checked(verifier, text, Signature(verifier.name, verifier.key_id, time.to_bytes(8, "big") + signed))


def cosigned_message(text: bytes, time: int) -> bytes:
    """What a cosignature/v1 signs (tlog-cosignature, "Ed25519 signed message")."""
    return b"cosignature/v1\ntime %d\n%b" % (time, text)


def verified_by(note: Note, verifiers: Iterable[Verifier]) -> list[Verifier]:
    """Those of the keys that signed the note, each once, in the order given. None of them: the note proves nothing.

    Raises NoteRefused if a signature of one of them does not verify.
    """
    known: dict[tuple[str, int], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise InvalidSetting(f"two different keys have the name and id of {verifier.vkey}")
    signers = set()
    for signature in note.signatures:
        signed = known.get((signature.name, signature.key_id))
        if signed is not None:
            _checked(signed, note.text, signature)
            signers.add(signed)
    return [verifier for verifier in known.values() if verifier in signers]


def base64_text(data: bytes) -> str:
    """Base64 of RFC 4648, section 4."""
    return b64encode(data).decode()


def base64_bytes(text: str) -> bytes | None:
    """The bytes of base64 as an encoder writes it; None for any other text, other spellings of the same bytes too."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one; so is a text that is not ASCII
        return None
    return data if base64_text(data) == text else None


def decimal(text: str) -> int | None:
    """A size or index in ASCII decimal without leading zeros, below 2**63; None for any other text."""
    if not re.fullmatch("0|[1-9][0-9]{0,18}", text) or int(text) > _MAX_TIME:
        return None
    return int(text)


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    data = base64_bytes(encoded)
    if not line.startswith(_DASH) or not is_name(name) or data is None or len(data) < 5:
        raise NoteRefused(f"{shown(line)} is not a signature line")
    return Signature(name, int.from_bytes(data[:4], "big"), data[4:])


def _checked(verifier: Verifier, text: bytes, signature: Signature) -> Signature:
    if not verifier.verifies(text, signature):
        raise NoteRefused(f"the signature of {verifier.name!r} (key {verifier.key_id:08x}) does not verify")
    return signature


def shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")
