"""The operating system below the servers: the account that runs them, their programs, and their processes.

Postgres refuses to run as root, so root runs both servers under another account. But `home` is 0700, and it and the
virtual environment may be below folders such as /root that only root can enter, and whose permissions must not change:

*   A server is started with its data folder as working directory, entered while the child is still root (Popen changes
    to `cwd` before it changes user), and gets `/proc/self/cwd` as its data folder. That link bypasses the parent
    folders. `-D .` would not work: Postgres turns it into an absolute path.
*   Postgres finds its libraries and time zones from the real path of its executable. If the account cannot execute the
    installed program, a copy is made in /var/lib/auditledger, one per version, readable by all, without secrets.
    Nothing else is written outside `home`.

Without root the servers start the same way, under the current account and without copies.

The processes that serve a folder are found by a mark in their command line and by their working directory. A pid file
may be lost with its folder, or name another process. The mark is the folder for which a process was started. On Linux
the working directory is known too: it follows a folder that was moved, and shows one that was deleted.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import InvalidSetting

COPIES = Path("/var/lib/auditledger")


@dataclass(frozen=True, slots=True)
class Account:
    """User and group of the operating system that a server runs as."""

    uid: int
    gid: int


def account_for(folder: Path, home: Path) -> Account | None:
    """The account for the server whose data is in `folder`; None for the current one.

    For root: the owner of `folder`, else of `home`, else `postgres`, else `nobody`. Raises InvalidSetting.
    """
    if os.geteuid() != 0:
        return None
    for path in (folder, home):
        with suppress(FileNotFoundError):
            owner = path.stat()
            if owner.st_uid != 0:
                return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return Account(user.pw_uid, user.pw_gid)
    raise InvalidSetting("Postgres does not run as root: create the user postgres or nobody")


def here(folder: Path, account: Account | None) -> str:
    """The path of `folder` for a program whose working directory it is. Raises InvalidSetting."""
    if Path("/proc/self/cwd").exists():
        return "/proc/self/cwd"
    if account is not None:
        raise InvalidSetting("without /proc, root cannot start the embedded servers: use another account")
    return str(folder)


def child_options(folder: Path, account: Account | None) -> dict[str, Any]:
    """Arguments for subprocess: in `folder`, as `account`, in a session of its own (no Ctrl-C from the terminal).

    Of the environment, which may contain secrets, only PATH and LD_LIBRARY_PATH are passed on. The locale is fixed
    because the logs are searched for messages.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    options: dict[str, Any] = {"cwd": folder, "env": kept | {"LC_ALL": "C"}, "start_new_session": True, "umask": 0o077}
    if account is not None:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return options


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed distribution with a server's program. program: a glob below its package."""

    distribution: str
    package: str
    program: str

    def installed(self) -> Path:
        """The path of the installed program. The package is not imported. Raises InvalidSetting."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for program in Path(folder).glob(self.program):
                return program
        raise InvalidSetting(
            f"{self.distribution} is not installed: pip install 'auditledger[embedded]', "
            "or give LEDGER_DATABASE_URL and LEDGER_REDIS_URL"
        )

    def executable_by(self, account: Account | None) -> Path:
        """A path of the program that `account` can execute: installed, or a copy. Raises InvalidSetting, OSError."""
        program = self.installed()
        if account is None or _can_execute(program, account):
            return program
        return self._copied(program)

    def _copied(self, program: Path) -> Path:
        package = next(folder for folder in program.parents if folder.name == self.package)
        copy = COPIES / f"{self.distribution}-{metadata.version(self.distribution)}"
        if not copy.exists():
            COPIES.mkdir(exist_ok=True)
            COPIES.chmod(0o755)
            new = Path(tempfile.mkdtemp(prefix="new-", dir=COPIES))
            try:
                # Programs find their shared libraries beside the package, by a relative path.
                for part in (package, package.with_name(f"{package.name}.libs")):
                    if part.exists():
                        shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "*.py*"))
                _make_readable(new)
                os.sync()  # else a power loss could leave empty files under the final name
                new.rename(copy)
            except OSError:
                if not copy.exists():  # else a concurrent start made it
                    raise
            finally:
                shutil.rmtree(new, ignore_errors=True)
        return copy / program.relative_to(package.parent)


def _can_execute(program: Path, account: Account) -> bool:
    try:
        subprocess.run([program, "--version"], capture_output=True, check=False, **child_options(Path("/"), account))
    except PermissionError:
        return False
    return True


def _make_readable(tree: Path) -> None:
    """Makes files and folders readable by all, and keeps programs executable."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for file in (Path(folder, name) for name in files):
            file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)


# ------------------------------------------------------------------------------------------------------------ processes

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
