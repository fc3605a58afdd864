"""Small disks to fill up: a tmpfs mounted over a server's folder, where this machine lets us mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

FILLER = "filler"


class Disk:
    """The disk that a server's folder is on. Small, if it could be mounted; then it can be full."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self.refused = _mount(folder, megabytes)
        """Why it could not be mounted, empty if it is."""

    def fill(self) -> None:
        """Nothing more can be written, but into what is there already."""
        for size in (1 << 20, 4096):
            with suppress(OSError), (self.folder / FILLER).open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(size))

    def free(self) -> None:
        (self.folder / FILLER).unlink(missing_ok=True)

    def unmount(self) -> None:
        if not self.refused:
            subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)


def _mount(folder: Path, megabytes: int) -> str:
    """Mounts a tmpfs over a folder, with the folder's content in it. Why not, where that cannot be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root of a Linux may mount a tmpfs"
    owner = folder.stat()
    beside = folder.with_name(f"{folder.name}-before")
    folder.rename(beside)
    folder.mkdir(mode=0o700)
    os.chown(folder, owner.st_uid, owner.st_gid)
    options = f"size={megabytes}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        folder.rmdir()
        beside.rename(folder)
        return mounted.stderr.strip() or "mount failed"
    subprocess.run(["cp", "-a", f"{beside}/.", folder], check=True)
    shutil.rmtree(beside)
    return ""
