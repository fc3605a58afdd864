"""Which processes serve a folder: told by a mark in their command line, and by their working directory.

A pid file may be gone with its folder, or name a stranger. The mark says for which folder a process was started. Where
the system tells a process's working directory (Linux), that says more: a folder that was moved keeps its servers, a
copy has none, and a folder that was deleted has left them behind.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PREFIX = "auditledger.folder="
"""The mark is this and the folder. It is an argument that no server needs."""
_GONE = " (deleted)"
"""How Linux ends the name of a working directory that was deleted."""
_PROC = Path("/proc")
_LOOK = ["sh", "-c", 'readlink "$0" && stat -L -c "%d %i" "$0"']


class Marked(NamedTuple):
    """A process with a mark: the folder for which it was started, as it was called then."""

    pid: int
    folder: str


def marked(pid: int) -> Marked | None:
    """The process, if it has a mark; None for a stranger, a zombie and none at all."""
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
    """Every server process of this machine that has a mark, without the children that it forked (a rewrite)."""
    if not _has_proc():
        yield from _ps(None)
        return
    found = [each for name in os.listdir(_PROC) if name.isdecimal() and (each := marked(int(name)))]  # noqa: PTH208
    pids = {each.pid for each in found}
    yield from (each for each in found if _parent(each.pid) not in pids)


def serves(process: Marked, folder: Path) -> bool:
    """Is this folder the process's own? By the mark alone where the working directory cannot be known."""
    where = _working_directory(process.pid)
    if where is None:
        return process.folder == str(folder)
    name, identity = where
    return not name.endswith(_GONE) and identity == _identity(folder)


def lost(process: Marked, folder: Path) -> bool:
    """Was the process's folder deleted, and did it stand at `folder`?"""
    where = _working_directory(process.pid)
    if where is None:  # known by the mark alone: what serves no folder of that name any more has lost it
        return process.folder == str(folder) and not folder.exists()
    name, _ = where
    return name.endswith(_GONE) and str(folder) in (process.folder, name.removesuffix(_GONE))


def _has_proc() -> bool:
    return (_PROC / "self" / "cmdline").exists()


def _working_directory(pid: int) -> tuple[str, tuple[int, int]] | None:
    """Its name, and its device and inode. None: not to be known.

    Even root may not see it (in containers without CAP_SYS_PTRACE); the account that the process runs as may.
    """
    link = _PROC / str(pid) / "cwd"
    try:
        found = link.stat()
        return os.readlink(link), (found.st_dev, found.st_ino)  # noqa: PTH115 - a Path would take "(deleted)" for a name
    except FileNotFoundError:
        return None
    except PermissionError:
        if os.geteuid() != 0:
            return None
    try:
        owner = (_PROC / str(pid)).stat()
        ran = subprocess.run(
            [*_LOOK, link], user=owner.st_uid, group=owner.st_gid, extra_groups=[], capture_output=True, check=True
        )
        name, numbers = os.fsdecode(ran.stdout).rstrip("\n").rsplit("\n", 1)
        device, inode = map(int, numbers.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return name, (device, inode)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _parent(pid: int) -> int:
    try:
        after_name = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(after_name[1])
    except (OSError, ValueError, IndexError):
        return 0


def _ps(pid: str | None) -> list[Marked]:
    """Without /proc. The mark is the last argument, so that a folder with spaces in its name is read whole."""
    which = ["-p", pid] if pid is not None else ["-A"]
    listed = subprocess.run(["ps", "-wwo", "pid=,command=", *which], capture_output=True, check=False).stdout
    rows = (line.split(None, 1) for line in os.fsdecode(listed).splitlines() if PREFIX in line)
    return [Marked(int(row[0]), row[1].partition(PREFIX)[2]) for row in rows if not row[1].startswith("ps ")]
