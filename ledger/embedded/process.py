"""One server process on one folder: found, started, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from ledger.embedded.access import Access, Keyring
from ledger.embedded.host import (
    PREFIX,
    Account,
    Marked,
    Wheel,
    account_for,
    all_marked,
    child_options,
    here,
    lost,
    marked,
    serves,
)
from ledger.errors import Unavailable
from ledger.files import open_private

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
FULL_BYTES = 32 * 1024 * 1024
"""Less free space is not enough for a new database, or for a WAL segment."""

PASSING = (
    "Address already in use",  # the port was taken after our check
    "pre-existing shared memory block",  # after kill -9 of a postmaster, until its children end
)
"""Messages in the log of a failed start after which another attempt can succeed."""

_children: set[int] = set()
"""Servers that this process started and has not reaped."""


class Server(ABC):
    """What Postgres and Valkey have in common. All methods but `answers` need the lock of `home`."""

    name: ClassVar[str]
    wheel: ClassVar[Wheel]
    pid_file: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    abort_signal: ClassVar[signal.Signals]
    """Ends the server and its children at once, for one whose folder was deleted."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / self.name
        self.log = home / f"{self.name}.log"
        self.mark = f"{PREFIX}{self.folder}"

    @abstractmethod
    def prepare(self, access: Access) -> None:
        """Prepares the folder for a start."""

    @abstractmethod
    def command(self, access: Access) -> list[str]:
        """The program and its arguments, including `self.mark`. The working directory will be the folder."""

    @abstractmethod
    def accepts(self, access: Access) -> bool:
        """Whether a server on this port answers with this password."""

    def account(self) -> Account | None:
        """The account that the server runs as. Raises InvalidSetting."""
        return account_for(self.folder, self.home)

    def program(self) -> Path:
        """The server's program, executable by its account. Raises InvalidSetting, OSError."""
        return self.wheel.executable_by(self.account())

    def here(self) -> str:
        """The folder's path in the server's command line. Raises InvalidSetting."""
        return here(self.folder, self.account())

    def give(self, folder: Path) -> None:
        """Make `folder` the server's own."""
        account = self.account()
        if account is not None:
            os.chown(folder, account.uid, account.gid)

    def answers(self, keyring: Keyring) -> bool:
        """Is the server of this folder alive and serving?

        Both are asked: a process may be alive and hang; and a copy of `home` names the port of the original.
        """
        return self.pid() is not None and self.accepts(keyring[self.name])

    def start(self, keyring: Keyring) -> Access:
        """Starts the server if it is not running, waits until it answers, returns its access.

        A process that does not answer yet, as in a long recovery, is waited for. After a timeout it keeps running, and
        a later start finds it. Raises Unavailable, OSError.
        """
        deadline = time.monotonic() + START_SECONDS
        pid = self.pid()
        log_end = -1
        while time.monotonic() < deadline:
            if pid is None or not self._is_alive(pid):
                if log_end >= 0 and not any(reason in self._log_from(log_end) for reason in PASSING):
                    break
                log_end = self._log_size()
                pid = self._launch(keyring.choose_port(self.name))
            elif self.answers(keyring):
                return keyring[self.name]
            time.sleep(POLL_SECONDS)
        raise self.failure("did not start", max(log_end, 0))

    def stop(self) -> bool:
        """Stops the server and waits for its end. False if it was not running. Raises Unavailable."""
        pid = self.pid()
        if pid is None:
            return False
        self._end(pid, self.stop_signal)
        return True

    def stop_orphans(self) -> bool:
        """Ends servers of this folder, or of another one at its path, that was deleted. False if there was none.

        Raises Unavailable.
        """
        orphans = [process.pid for process in all_marked() if self._is_mine(process) and lost(process, self.folder)]
        for pid in orphans:
            self._end(pid, self.abort_signal)
        return bool(orphans)

    def pid(self) -> int | None:
        """The process that serves this folder, None if there is none."""
        try:
            pid = int((self.folder / self.pid_file).read_text(encoding="ascii").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            pid = 0
        if pid and self._is_alive(pid):
            return pid
        # The pid file of a running server may have been deleted; a second server must not start on its folder.
        pids = (each.pid for each in all_marked() if serves(each, self.folder)) if self.folder.exists() else ()
        return next((pid for pid in pids if self._is_alive(pid)), None)

    def _is_mine(self, process: Marked) -> bool:
        """Whether this account may end the process: it runs as this account, or this account is root."""
        with suppress(OSError):
            return os.geteuid() in (0, Path(f"/proc/{process.pid}").stat().st_uid)
        return os.geteuid() == 0

    def _end(self, pid: int, by: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, by)
        deadline = time.monotonic() + STOP_SECONDS
        while self._lives(pid):
            if time.monotonic() > deadline:
                raise self.failure(f"did not stop within {STOP_SECONDS:g} seconds", 0)
            time.sleep(POLL_SECONDS)

    def run(self, command: Sequence[str], folder: Path, text: str = "") -> None:
        """Runs a program in `folder` to its end, with output to the log. Raises Unavailable if it fails."""
        log_end = self._log_size()
        with self._output(folder) as options:
            done = subprocess.run(command, input=text.encode(), check=False, **options)
        if done.returncode != 0:
            raise self.failure(f"could not be set up: {Path(command[0]).name} failed", log_end)

    def failure(self, problem: str, log_begin: int) -> Unavailable:
        """The error, with the last lines of the log, which contains no passwords."""
        lines = "\n".join(self._log_from(log_begin).splitlines()[-12:])
        with suppress(OSError):
            if shutil.disk_usage(self.home).free < FULL_BYTES:
                problem += " (its disk is full)"
        return Unavailable(f"the embedded {self.name} {problem}; the end of its log, {self.log}:\n{lines}")

    def _launch(self, access: Access) -> int:
        self.prepare(access)
        # No server of ours runs here, so the pid file is stale, and Postgres would not start if another process had its
        # pid. Children of a killed postmaster are still detected, by their shared memory.
        (self.folder / self.pid_file).unlink(missing_ok=True)
        command = self.command(access)
        with self._output(self.folder) as options:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        process.returncode = 0  # It outlives us: Popen must not wait for it, nor warn.
        _children.add(process.pid)
        return process.pid

    def _is_alive(self, pid: int) -> bool:
        """Whether `pid` is a process that serves this folder, and no zombie."""
        process = self._lives(pid)
        return process is not None and serves(process, self.folder)

    def _lives(self, pid: int) -> Marked | None:
        """The process, if it is a marked server and no zombie."""
        if pid in _children:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    _children.discard(pid)
        return marked(pid)

    @contextmanager
    def _output(self, folder: Path) -> Iterator[dict[str, Any]]:
        """Arguments for subprocess: in `folder`, as the server's account, output to the log. Raises Unavailable."""
        log = open_private(self.log, os.O_WRONLY | os.O_APPEND)
        try:
            yield child_options(folder, self.account()) | {"stdout": log, "stderr": log}
        except OSError as error:
            raise Unavailable(
                f"the embedded {self.name} cannot be executed: {error.filename}: {error.strerror}"
            ) from error
        finally:
            os.close(log)

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_from(self, begin: int) -> str:
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")
        return ""
