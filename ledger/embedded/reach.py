"""As root: who runs the servers, and how that account reaches a folder and programs it may not be able to enter.

Postgres refuses to run as root, so root hands both servers to another account. But `home` is 0700, and it and the
virtual environment may lie below folders such as /root that only root can enter; their permissions are not ours to
widen. Two things make it work all the same:

*   A server is started with its data folder as working directory, entered while the child is still root (Popen goes
    to `cwd` before it changes user), and is told that its data is at `/proc/self/cwd`. That link leads straight to
    the folder, past its parents. `-D .` would not do: Postgres turns it into an absolute path and walks that.
*   Programs have no such way in: Postgres finds its libraries and its time zones from the real path of its own
    executable. If the account cannot execute what is installed, a copy is made in /var/lib/auditledger, once for each
    version, readable by all; it holds nothing secret. This is the only thing ever written outside `home`.

An ordinary user is started the same way, save that no account changes and nothing is copied.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ledger.errors import InvalidSetting

COPIES = Path("/var/lib/auditledger")


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user and group that a server runs as."""

    uid: int
    gid: int


def account_for(folder: Path, home: Path) -> Account | None:
    """The account for the server whose data is in `folder`; None means: the one we are.

    As root it is the owner of `folder`, else of `home`, else `postgres`, else `nobody`. Raises InvalidSetting.
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
    raise InvalidSetting("Postgres does not run as root, and there is neither a user postgres nor a user nobody")


def here(folder: Path, account: Account | None) -> str:
    """What to call `folder` in the command line of a program whose working directory it is. Raises InvalidSetting."""
    if Path("/proc/self/cwd").exists():
        return "/proc/self/cwd"
    if account is not None:
        raise InvalidSetting("without /proc the embedded servers cannot be started by root: use another account")
    return str(folder)


def child_options(folder: Path, account: Account | None) -> dict[str, Any]:
    """Arguments for subprocess: in `folder`, as `account`, out of reach of the terminal's Ctrl-C.

    Of our environment, which may hold secrets, only what it takes to find programs and libraries is handed on. The
    locale is fixed because messages are searched for in the logs.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    options: dict[str, Any] = {"cwd": folder, "env": kept | {"LC_ALL": "C"}, "start_new_session": True, "umask": 0o077}
    if account is not None:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return options


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed distribution of which we use one program. `program` is a glob below its package."""

    distribution: str
    package: str
    program: str

    def installed(self) -> Path:
        """Where the program is installed. The package is found without being imported. Raises InvalidSetting."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for program in Path(folder).glob(self.program):
                return program
        raise InvalidSetting(
            f"{self.distribution} is not installed: pip install 'auditledger[embedded]', "
            "or give LEDGER_DATABASE_URL and LEDGER_REDIS_URL"
        )

    def executable_by(self, account: Account | None) -> Path:
        """The program where `account` can execute it: as installed, else a copy. Raises InvalidSetting, OSError."""
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
                # Shared libraries lie beside the package, where the programs look for them relative to themselves.
                for part in (package, package.with_name(f"{package.name}.libs")):
                    if part.exists():
                        shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "*.py*"))
                _make_readable(new)
                os.sync()  # or a loss of power could leave empty programs under the final name
                new.rename(copy)
            except OSError:
                if not copy.exists():  # else another start was faster
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
    """As after an installation with the usual umask, whatever it was."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for file in (Path(folder, name) for name in files):
            file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
