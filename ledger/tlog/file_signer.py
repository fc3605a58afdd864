"""Keys in files: a log's, and a witness's. Pure: no input or output."""

from __future__ import annotations

from ledger.errors import InvalidSetting
from ledger.tlog.note import (
    COSIGNATURE,
    ED25519,
    KEY_ID,
    PRIVATE,
    Verifier,
    base64_bytes,
    base64_text,
    is_name,
    shown,
)


class FileSigner:
    """A key from the text that Go's sumdb/note keeps it in: `PRIVATE+KEY+<name>+<id>+<base64 of 0x01 and the seed>`."""

    def __init__(self, name: str, seed: bytes) -> None:
        """seed: 32 bytes (RFC 8032, section 5.1.5). Raises InvalidSetting for what can be no key's name."""
        if not is_name(name):
            raise InvalidSetting(f"{shown(name)} cannot be a key's name: no spaces, no plus sign, not empty")
        if len(seed) != 32:
            raise InvalidSetting(f"a key's seed has 32 bytes, not {len(seed)}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, ED25519, self._key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> FileSigner:
        """The key of its text, with or without a line break. Raises InvalidSetting, which shows nothing of the key."""
        line = text.removesuffix("\n")
        name, _, rest = line.removeprefix(PRIVATE).partition("+")
        key_id, _, key = rest.partition("+")
        data = base64_bytes(key)
        if not line.startswith(PRIVATE) or not is_name(name) or not KEY_ID.fullmatch(key_id) or data is None:
            raise InvalidSetting(f"not a private key: it should be {PRIVATE}<name>+<8 hex digits>+<base64>")
        if data[:1] != b"\x01" or len(data) != 33:
            raise InvalidSetting("the private key is not of type 0x01 (Ed25519)")
        signer = cls(name, data[1:])
        if int(key_id, 16) != signer.verifier.key_id:
            raise InvalidSetting("the private key does not fit its own id: it was changed or miscopied")
        return signer

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def vkey(self) -> str:
        return self.verifier.vkey

    @property
    def private_text(self) -> str:
        """What `parse` reads: to be kept secret. Without a line break."""
        return f"{PRIVATE}{self.name}+{self.verifier.key_id:08x}+{base64_text(bytes([ED25519]) + self._seed)}"

    def __repr__(self) -> str:
        return f"FileSigner({self.vkey!r})"

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def new_key(name: str, seed: bytes) -> tuple[str, str]:
    """A key of that name: its private text and vkey. seed: 32 random bytes. Raises InvalidSetting for a bad name."""
    signer = FileSigner(name, seed)
    return signer.private_text, signer.vkey


def new_cosigner(name: str, seed: bytes) -> tuple[str, str]:
    """A witness's key: its private text (without a line break) and its vkey of type 0x04. seed: 32 random bytes.

    The text is a log key's with the type 0x04, so that neither is taken for the other. Raises InvalidSetting for a name
    that no key can have.
    """
    verifier = FileSigner(name, seed).verifier.cosigner
    key = base64_text(bytes([COSIGNATURE]) + seed)
    return f"{PRIVATE}{name}+{verifier.key_id:08x}+{key}", verifier.vkey


def parse_cosigner(text: str) -> FileSigner:
    """The key of `new_cosigner`'s text, with or without a line break. Raises InvalidSetting; it shows nothing of it."""
    line = text.removesuffix("\n")
    name, _, rest = line.removeprefix(PRIVATE).partition("+")
    data = base64_bytes(rest.partition("+")[2])
    if data is not None and len(data) == 33 and data[0] == ED25519:
        raise InvalidSetting("this is a log's key, not a witness's: make one with 'auditledger witness keygen'")
    if data is None or len(data) != 33 or data[0] != COSIGNATURE or new_cosigner(name, data[1:])[0] != line:
        raise InvalidSetting("not a witness's private key: make one with 'auditledger witness keygen'")
    return FileSigner(name, data[1:])
