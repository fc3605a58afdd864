"""Files written so that a crash loses nothing: private, replaced in one step, on disk when a call returns."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".new"
"""How the names of files end that are not whole yet. A process that is killed may leave one behind."""


def open_private(path: Path, flags: int) -> int:
    """Open a file, creating it 0600 if it is missing, and return its descriptor (not inherited by other programs).

    What root creates belongs to the owner of the folder it lies in: so a server may read its configuration, and the
    owner of `home` is not locked out of it by one start as root. No symbolic link is followed, because those owners
    could lay one to trick root into writing elsewhere.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor


@contextmanager
def new_private(path: Path) -> Iterator[BinaryIO]:
    """A new file, 0600, that outlasts a loss of power once the block has ended. Raises FileExistsError, OSError."""
    with open(open_private(path, os.O_WRONLY | os.O_EXCL), "wb") as file:
        yield file
        _flush(file)
    sync(path.parent)


def replace_file(path: Path, content: bytes, *, public: bool = False) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new, and the new once this returns.

    Several processes may do so at once. public: with the permissions of the umask instead of 0600. Raises OSError.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with unfinished.open("xb") if public else open(open_private(unfinished, os.O_WRONLY | os.O_EXCL), "wb") as file:
            file.write(content)
            _flush(file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
