"""Finds the processes that serve a folder, by a mark in their command line and by their working directory.

A pid file may be lost with its folder, or name another process. The mark is the folder for which a process was started.
On Linux the working directory is known too: it follows a folder that was moved, and shows one that was deleted.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PREFIX = "auditledger.folder="
"""The mark is this prefix and the folder. It is an argument without effect on the server."""
_GONE = " (deleted)"
"""Linux' suffix for the name of a deleted working directory."""
_PROC = Path("/proc")
_LOOK = ["sh", "-c", 'readlink "$0" && stat -L -c "%d %i" "$0"']


class Marked(NamedTuple):
    """A process with a mark. folder: for which it was started, by its name at that time."""

    pid: int
    folder: str


def marked(pid: int) -> Marked | None:
    """The process, if it exists, has a mark and is no zombie; else None."""
    if not _has_proc():
        listed = _ps(str(pid))
        return listed[0] if listed else None
    try:
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    marks = [each for each in arguments if each.startswith(PREFIX.encode())]
    return Marked(pid, os.fsdecode(marks[0]).removeprefix(PREFIX)) if marks else None


def all_marked() -> Iterator[Marked]:
    """All marked server processes of this machine, without their forked children (such as an AOF rewrite)."""
    if not _has_proc():
        yield from _ps(None)
        return
    processes = [each for name in os.listdir(_PROC) if name.isdecimal() and (each := marked(int(name)))]  # noqa: PTH208
    pids = {each.pid for each in processes}
    yield from (each for each in processes if _parent(each.pid) not in pids)


def serves(process: Marked, folder: Path) -> bool:
    """Whether the process serves the folder. By the mark alone if its working directory is unknown."""
    directory = _working_directory(process.pid)
    if directory is None:
        return process.folder == str(folder)
    name, identity = directory
    return not name.endswith(_GONE) and identity == _identity(folder)


def lost(process: Marked, folder: Path) -> bool:
    """Whether the process served `folder`, which was deleted."""
    directory = _working_directory(process.pid)
    if directory is None:  # by the mark alone
        return process.folder == str(folder) and not folder.exists()
    name, _ = directory
    return name.endswith(_GONE) and str(folder) in (process.folder, name.removesuffix(_GONE))


def _has_proc() -> bool:
    return (_PROC / "self" / "cmdline").exists()


def _working_directory(pid: int) -> tuple[str, tuple[int, int]] | None:
    """The process' working directory: its name, and its device and inode. None if unknown.

    Root may not see it (in containers without CAP_SYS_PTRACE); the account that the process runs as may.
    """
    link = _PROC / str(pid) / "cwd"
    try:
        status = link.stat()
        return os.readlink(link), (status.st_dev, status.st_ino)  # noqa: PTH115 - keeps " (deleted)"
    except FileNotFoundError:
        return None
    except PermissionError:
        if os.geteuid() != 0:
            return None
    try:
        owner = (_PROC / str(pid)).stat()
        done = subprocess.run(
            [*_LOOK, link], user=owner.st_uid, group=owner.st_gid, extra_groups=[], capture_output=True, check=True
        )
        name, numbers = os.fsdecode(done.stdout).rstrip("\n").rsplit("\n", 1)
        device, inode = map(int, numbers.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return name, (device, inode)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _parent(pid: int) -> int:
    try:
        after_name = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(after_name[1])
    except (OSError, ValueError, IndexError):
        return 0


def _ps(pid: str | None) -> list[Marked]:
    """Marked processes by ps, without /proc. The mark is the last argument, because the folder may contain spaces."""
    which = ["-p", pid] if pid is not None else ["-A"]
    listed = subprocess.run(["ps", "-wwo", "pid=,command=", *which], capture_output=True, check=False).stdout
    rows = (line.split(None, 1) for line in os.fsdecode(listed).splitlines() if PREFIX in line)
    return [Marked(int(row[0]), row[1].partition(PREFIX)[2]) for row in rows if not row[1].startswith("ps ")]
