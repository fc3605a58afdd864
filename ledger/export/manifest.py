"""The bundle: an exported ledger as a folder (format.md, "Bundle"). Its files, its manifest, and their reading.

envelopes.jsonl   line i is exactly an envelope
bodies.jsonl      line i is exactly its body; an empty line where it was erased
manifest.json     what the two should hold (class Manifest)
quarantined.jsonl rows that do not hold and are quarantined, as they stand; missing where there are none

Beside them lie the ledger's newest checkpoint and the tree that it signs, where there is one (public_log.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ledger.errors import EvidenceRefused, UsageError
from ledger.format.decode import Hash, Name, Position

ENVELOPES, BODIES, MANIFEST = "envelopes.jsonl", "bodies.jsonl", "manifest.json"
LONGEST = 1024 * 1024
"""Bytes of a line; those of the format are far shorter."""
LONGEST_ROW = 2**30
"""Bytes of a row that is quarantined, whose body may be as long as Postgres takes it."""
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """manifest.json. Hashes in hex. first, last: positions; last is first - 1 where there are no entries.

    prev: the hash of the entry before the first; head: the tail's hash. entries: lines of each file; erased: how many
    of those in bodies.jsonl are empty.
    """

    version: Literal[1]
    ledger: Name
    first: Position
    last: _Count
    entries: _Count
    erased: _Count
    prev: Hash
    head: Hash

    def encode(self) -> bytes:
        """The file's bytes; other spellings of the same values do not pass."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


_manifest_of = msgspec.json.Decoder(Manifest).decode


class Line(NamedTuple):
    """A line without its line break; whole: it had one."""

    text: bytes
    whole: bool


def open_file(path: Path) -> BinaryIO:
    """A file of a bundle, to be read. Raises EvidenceRefused if there is none; OSError if it cannot be read.

    What is there may be anything: to open a pipe as usual would wait for somebody who writes to it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise EvidenceRefused(f"{path}: {error.strerror}") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EvidenceRefused(f"{path} is not a file")
    return os.fdopen(descriptor, "rb")


def read_manifest(path: Path) -> tuple[Manifest, bool]:
    """The manifest, and whether it is byte for byte as an export writes it. Raises EvidenceRefused, OSError."""
    with open_file(path) as file:
        content = file.read(LONGEST)
    try:
        manifest = _manifest_of(content)
    except ValueError as error:
        raise EvidenceRefused(f"{path} is not a manifest of format version 1: {error}") from None
    return manifest, content == manifest.encode()


def lines_of(file: BinaryIO, path: Path, longest: int = LONGEST) -> Iterator[Line]:
    while text := file.readline(longest):
        if len(text) == longest:
            raise EvidenceRefused(f"{path} has a line of more than {longest} bytes: no bundle has")
        yield Line(text.removesuffix(b"\n"), text.endswith(b"\n"))


def unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be used: {error.strerror or error}")
