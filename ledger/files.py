"""Files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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


def write_private(path: Path, text: str) -> None:
    """Replace a file, 0600, in one step: a reader, or a crash, sees the old content or the new."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with open(open_private(new, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
