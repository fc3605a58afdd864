"""Keys in files, and their rotation.

Key files hold the text of Go's sumdb/note (tlog/note.py); nobody but their owner may read them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ledger.checkpoints.state import LONGEST, create_state, locked
from ledger.errors import InvalidSetting, LedgerError, Unavailable
from ledger.events import Event
from ledger.files import new_private
from ledger.format.actions import KEY_ROTATED, KEY_TYPE
from ledger.tlog.file_signer import FileSigner, new_key
from ledger.tlog.note import ED25519, Signer, Verifier


class Key(NamedTuple):
    """A key with the file that remembers what it signed last."""

    signer: Signer
    state: Path


AnyKey: TypeAlias = "Key | str | os.PathLike[str]"
"""A Key, or the path of a key file, whose state lies beside it."""


# ------------------------------------------------------------------------------------------------------------- keys


def create_key(path: Path, name: str) -> FileSigner:
    """Creates a key of that name in a new file of mode 0600, with a state file beside it, and its folder if missing.

    name: the log's origin, `<origin>/<ledger>`. Raises InvalidSetting, also if one of the files exists.
    """
    text, _ = new_key(name, os.urandom(32))
    path.parent.mkdir(parents=True, exist_ok=True)
    state = state_beside(path)
    if state.exists():
        raise InvalidSetting(f"{state} is there already, the state of another key: move it away, or name another file")
    try:
        with new_private(path) as file:
            file.write(f"{text}\n".encode())
    except FileExistsError:
        raise InvalidSetting(f"{path} is there already: a key is never overwritten; name another file") from None
    create_state(state, name)
    return FileSigner.parse(text)


def read_key(path: Path) -> FileSigner:
    """The key in a file. Raises InvalidSetting if it holds none, or others than its owner may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(LONGEST)
    except OSError as error:
        raise InvalidSetting(
            f"the key {path} cannot be read: {error.strerror}; 'auditledger keygen' makes one"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidSetting(
            f"the key {path} can be read by others than its owner (mode {stat.S_IMODE(mode):04o}): whoever may have "
            f"read it can sign in its place; make a new one, or 'chmod 600 {path}' if you know that nobody did"
        )
    try:
        return FileSigner.parse(data.decode())
    except UnicodeDecodeError:
        raise InvalidSetting(f"{path} is not a private key") from None
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error}") from None


class Guarded:
    """A signer whose failures, such as a key management service's, are Unavailable."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def name(self) -> str:
        return self._signer.name

    @property
    def vkey(self) -> str:
        return self._signer.vkey

    def sign(self, message: bytes) -> bytes:
        try:
            return self._signer.sign(message)
        except LedgerError:
            raise
        except Exception as error:
            raise Unavailable(f"the key {self.name} could not sign: {type(error).__name__}: {error}") from error


def key_of(key: AnyKey) -> Key:
    """The key itself, or that of a file. Raises InvalidSetting."""
    if isinstance(key, Key):
        return key
    if not isinstance(key, str | os.PathLike):
        raise InvalidSetting(
            f"a key is the path of its file, or Key(signer, state file) for any other, not {type(key).__name__}"
        )
    path = Path(key)
    return Key(read_key(path), state_beside(path))


def state_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def verifier_of(signer: Signer) -> Verifier:
    """A signer's public key. Raises InvalidSetting if its name and vkey differ, or it does not sign notes."""
    verifier = Verifier.parse(signer.vkey)
    if verifier.name != signer.name or verifier.kind != ED25519:
        raise InvalidSetting(f"the key {signer.name!r} has the vkey {signer.vkey}: of another name or type")
    return verifier


def origin_of(keys: Sequence[Key], ledger: str) -> str:
    """The origin that keys sign for: their name. Raises InvalidSetting if they do not sign for that ledger together.

    format.md, "Merkle tree and checkpoint": the origin is `<origin>/<ledger>`.
    """
    if not keys:
        raise InvalidSetting("no key to sign with: give one, 'auditledger keygen' makes it")
    verifiers = [verifier_of(key.signer) for key in keys]
    names = {verifier.name for verifier in verifiers}
    if len(names) > 1:
        raise InvalidSetting(f"keys that sign together have the same name, which is the log's; not {sorted(names)}")
    if len(set(verifiers)) < len(verifiers):
        raise InvalidSetting(f"the key {verifiers[0].name} is given more than once")
    [name] = names
    if not name.endswith(f"/{ledger}"):
        raise InvalidSetting(f"the key {name} does not sign for ledger {ledger!r}: its name would end with '/{ledger}'")
    return name


def rotating(old: Signer, new: Signer, actor: str | None = None, actor_type: str = "user") -> Event:
    """The event that records that a new key replaces an old one. actor: by default the old key itself.

    Raises InvalidSetting if they are not two keys of one log.
    """
    before, after = verifier_of(old), verifier_of(new)
    if before.name != after.name or before == after:
        raise InvalidSetting(f"a rotation needs two different keys of one name, not {before.vkey} and {after.vkey}")
    who = (f"key:{before.key_id:08x}", "key") if actor is None else (actor, actor_type)
    return Event(
        who[0],
        KEY_ROTATED,
        KEY_TYPE,
        f"{after.key_id:08x}",
        who[1],
        metadata={"old": before.vkey, "new": after.vkey},
        idempotency_key=f"{KEY_ROTATED} {before.vkey} {after.vkey}",
    )


def hand_over(old: Key, new: Key, timeout: float) -> None:
    """Copies the old key's state to the new key, unless that has signed more itself.

    timeout: as in `locked`. Raises as `locked` does.
    """
    origin = verifier_of(new.signer).name
    create_state(new.state, origin)
    with locked([old.state, new.state], origin, timeout) as (before, after):
        if before.head.size > after.head.size:
            after.put(before.head)
