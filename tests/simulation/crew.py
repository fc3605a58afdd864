"""The processes at work. Forked from one that has imported everything: starting one takes a moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any, NamedTuple

from tests.simulation.life import DIVERGED, Role, live

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.simulation.actors"])


class Member(NamedTuple):
    role: Role
    act: Callable[..., None]
    args: tuple[Any, ...] = ()


class Crew:
    """Whoever dies by our hand is started again by our hand; whoever ends without being asked has failed."""

    def __init__(self, members: list[Member]) -> None:
        self.members = {member.role.name: member for member in members}
        self._processes: dict[str, ForkServerProcess] = {}
        self._lock = threading.Lock()

    def start(self, *names: str) -> None:
        with self._lock:
            for name in names or self.members:
                if name not in self._processes:
                    role, act, args = self.members[name]
                    process = CONTEXT.Process(target=live, args=(act, role, args), name=name)
                    process.start()
                    self._processes[name] = process

    def instruct(self, name: str, *args: Any) -> None:
        """From its next start on it does its work with these."""
        self.members[name] = self.members[name]._replace(args=args)

    def kill(self, name: str) -> bool:
        """SIGKILL. Was there a process to kill?"""
        with self._lock:
            process = self._processes.get(name)
            if process is None or not process.is_alive():
                return False
            process.kill()
            process.join()
            del self._processes[name]
            return True

    def pause(self, name: str, paused: bool = True) -> bool:
        """SIGSTOP, or SIGCONT. Was there a process to pause?"""
        process = self._processes.get(name)
        if process is None or not process.is_alive() or process.pid is None:
            return False
        os.kill(process.pid, signal.SIGSTOP if paused else signal.SIGCONT)
        return True

    def end(self, names: list[str], timeout: float) -> list[str]:
        """SIGTERM, and waits. Those who did not end by themselves in time; they are killed."""
        for name in names:
            process = self._processes.get(name)
            if process is not None and process.is_alive():
                process.terminate()
        deadline = time.monotonic() + timeout
        late = []
        for name in names:
            process = self._processes.get(name)
            if process is None:
                continue
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                late.append(name)
                self._dump(process)
                self.kill(name)
        return late

    def wait(self, name: str, timeout: float) -> int | None:
        """The exit code of one that should end by itself; None if it does not."""
        process = self._processes[name]
        process.join(timeout)
        return process.exitcode

    def forget(self, name: str) -> None:
        """It has ended; it may be started again."""
        self._processes.pop(name, None)

    def failed(self) -> dict[str, str]:
        """Who ended as nobody should, and how."""
        return {
            name: f"{'an IntegrityError' if process.exitcode == DIVERGED else 'exit code'} {process.exitcode}"
            for name, process in list(self._processes.items())
            if process.exitcode not in (None, 0)
        }

    def kill_all(self) -> None:
        for name in list(self._processes):
            self.kill(name)
            self.forget(name)

    @staticmethod
    def _dump(process: ForkServerProcess) -> None:
        """Where it hangs, into its stderr."""
        if process.pid is not None:
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.2)
