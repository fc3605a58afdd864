"""What a process must not take over from its parent when it is forked. Knows nothing of the ledger.

A child of a fork inherits its parent's sockets, and locks that a thread held which the child does not have. So:

    Rule 1  Whatever holds such things registers here, and its `after_fork` begins anew in the child.
    Rule 2  A descriptor that the child must not use is cut: in the child it becomes /dev/null. Nothing that still has
            the connection can reach the parent's server with it, whatever it tries, a finaliser's farewell included.
    Rule 3  What the parent had is kept in the child for ever and never finalised: a pool that is finalised waits for
            locks and threads that are not there, an asyncio transport takes itself off an epoll that is the parent's.
    Rule 4  In the parent nothing happens.

Python calls us after os.fork(), so after multiprocessing's, gunicorn's and Celery's. Of a fork in C, as uWSGI makes it,
Python is not told: `process()`, which is called wherever a ledger is entered, sees it by the process id.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

from ledger.errors import UsageError


class Inheritor(Protocol):
    """Something that a child of a fork must not use as it is."""

    def after_fork(self) -> object:
        """Called in the child, which has one thread: begins anew. Returns what it had, which is kept for ever."""


class Process:
    """A process, told from its parents and children even where an id is used again."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.renewing = threading.Lock()


_here = Process()
_inheritors: WeakSet[Inheritor] = WeakSet()
_inherited: list[object] = []


def register(inheritor: Inheritor) -> None:
    """From now on its `after_fork` is called in each child, for as long as it lives."""
    _inheritors.add(inheritor)


def process() -> Process:
    """The process that runs, which has nothing of its parent's any more."""
    if _here.pid != os.getpid():
        with _here.renewing:  # several threads may be the first
            if _here.pid != os.getpid():
                _begin_anew()
    return _here


def cut(descriptor: int) -> None:
    """Makes it /dev/null in this process: the parent's socket or file stays as it is."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


class Begun:
    """A conversation that goes on over many calls, in the process that began it alone."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = process()

    @property
    def inherited(self) -> bool:
        """Was it begun by a parent of this process?"""
        return process() is not self._process

    def check(self) -> None:
        """Raises UsageError where it was inherited."""
        if self.inherited:
            raise UsageError(f"{self._what} was begun before a fork, by the parent, and goes on there: begin another")


@contextmanager
def held(descriptor: int) -> Iterator[None]:
    """A descriptor with a file lock (flock), which is given up and closed at the block's end.

    Children do not hold the lock; nor does one that was forked in C, once the lock was given up here.
    """
    holder = _Held(descriptor)
    register(holder)
    try:
        yield
    finally:
        _inheritors.discard(holder)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


class _Held:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def after_fork(self) -> object:
        cut(self._descriptor)
        return None


def _begin_anew() -> None:
    global _here  # noqa: PLW0603 - one process, one of it
    import ctypes  # noqa: PLC0415 - only where there was a fork

    if not _inherited:  # never finalised, not even at the interpreter's end
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_inherited))
    for inheritor in list(_inheritors):
        _inherited.append(inheritor.after_fork())
    _here = Process()


os.register_at_fork(after_in_child=_begin_anew)
