"""A signer's state outside the database: the size, root and entry hash that each key signed last.

A signer that trusted the database would sign whatever a superuser made of it. So each key has a state file, and a
checkpoint is signed only with a proof that it continues the one before (RFC 6962, section 2.1.2). The state is written
before the signature is made: after a crash it may be ahead of what was published, never behind.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from ledger.drivers import forks
from ledger.errors import InvalidSetting, ProofRefused, SigningRefused, Unavailable, UsageError
from ledger.files import replace_file
from ledger.format.decode import Hash
from ledger.store.tree import EMPTY_HEAD, Head
from ledger.tlog.merkle import MAX_SIZE, check_consistency

LONGEST = 4096
"""Bytes of a key file or state file that are read at most."""
_POLL = 0.02


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state file: JSON. root, hash: 64 hex."""

    origin: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]
    root: Hash
    hash: Hash


class State:
    """The state of one key, while its file is locked."""

    def __init__(self, path: Path, origin: str) -> None:
        self.path = path
        self.origin = origin
        self.head = _read_state(path, origin)

    def advance(self, head: Head, proof: Sequence[bytes]) -> None:
        """Stores a head that is about to be signed; it is durable when this returns.

        proof: the consistency proof from the state's size to the head's. Raises SigningRefused if it does not hold.
        """
        if head.size < self.head.size:
            raise SigningRefused(
                "truncated", f"{self.path} says that {self.head.size} entries were signed, there are {head.size}"
            )
        try:
            check_consistency(self.head.size, self.head.root, head.size, head.root, proof)
        except ProofRefused as error:
            raise SigningRefused("rewritten", f"{error} ({self.path} remembers them)") from error
        if head != self.head:
            self.put(head)

    def put(self, head: Head) -> None:
        """Stores a head without a proof: another key's, in a rotation."""
        _write_state(self.path, self.origin, head)
        self.head = head


def create_state(path: Path, origin: str) -> None:
    """Creates the state of a key that has signed nothing, if there is no file."""
    if not path.exists():
        _write_state(path, origin, EMPTY_HEAD)


@contextmanager
def locked(paths: Sequence[Path], origin: str, timeout: float) -> Iterator[list[State]]:
    """Gives the states in these files, and keeps other signers from reading and writing them meanwhile.

    timeout: seconds to wait for another signer. Raises Unavailable after that, InvalidSetting for a file that is
    missing or no state of this origin.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as held:
        for path in sorted(set(paths)):  # in one order: two signers of the same two keys do not wait for each other
            held.enter_context(forks.held(_lock(path, deadline)))
        yield [State(path, origin) for path in dict.fromkeys(paths)]


def _lock(path: Path, deadline: float) -> int:
    """A descriptor of the file that holds its lock.

    `put` replaces the file: a lock on a file that was replaced meanwhile protects nothing, so it is tried again. Once a
    holder has replaced the file, others may go on from that; the holder writes nothing more.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidSetting(
                f"the state file {path} cannot be read: {error.strerror}. Without it nobody would notice that what was "
                "signed before is gone: bring it back. If the key is new, or the file is lost for good, --new-state "
                "begins another, and checks the whole ledger and the newest checkpoint that it keeps"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise Unavailable(f"another signer holds {path}: nothing was signed, trying again is safe") from None
            time.sleep(_POLL)
        except FileNotFoundError:
            pass  # deleted at this moment: the next round raises
        os.close(descriptor)


def _read_state(path: Path, origin: str) -> Head:
    try:
        with path.open("rb") as file:
            stored = msgspec.json.decode(file.read(LONGEST), type=_Stored)
        head = Head(stored.size, bytes.fromhex(stored.root), bytes.fromhex(stored.hash))
        whole = head.size > 0 or head == EMPTY_HEAD
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise InvalidSetting(f"{path} is not a signer's state file: bring back the one that was there")
    if stored.origin != origin:
        raise InvalidSetting(f"{path} is the state of {stored.origin!r}, not of {origin!r}")
    return head


def _write_state(path: Path, origin: str, head: Head) -> None:
    if head.hash is None:
        raise UsageError("a signer remembers a head with the hash of its newest entry")
    stored = _Stored(origin, head.size, head.root.hex(), head.hash.hex())
    replace_file(path, msgspec.json.encode(stored) + b"\n")
