"""Children of a fork that do something with what they inherited, and say what came of it."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 30.0
"""A child that takes longer hangs, and is killed."""


class Child:
    """A forked process that runs `work`; what it returns can be pickled.

    hidden: forked in C, so that Python's own hooks do not run, as uWSGI does it. It ends by os._exit, as
    multiprocessing ends its children.
    """

    def __init__(self, work: Callable[[], Any], *, hidden: bool = False) -> None:
        self._reader, writer = os.pipe()
        self.pid = _fork(hidden)
        if self.pid:
            os.close(writer)
            return
        try:
            said = (True, work())
        except BaseException as error:
            said = (False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(said))
        os._exit(0)

    def result(self) -> Any:
        """What it returned. Raises AssertionError where it raised, hung or left otherwise than well."""
        with os.fdopen(self._reader, "rb") as pipe:
            said = b""
            end = time.monotonic() + SECONDS
            while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                some = os.read(pipe.fileno(), 1 << 16)
                if not some:
                    break
                said += some
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGABRT)  # faulthandler, which pytest enables, says where it is
                os.waitpid(self.pid, 0)
                raise AssertionError("the child hung")
            time.sleep(0.005)
        assert said, "the child ended without a word"
        well, value = pickle.loads(said)  # noqa: S301 - from our own child
        assert well, value
        return value


def in_child(work: Callable[[], T], *, hidden: bool = False) -> T:
    """Runs it in a child; its result."""
    result: T = Child(work, hidden=hidden).result()
    return result


def _fork(hidden: bool) -> int:
    if hidden:
        return int(ctypes.PyDLL(None).fork())
    with warnings.catch_warnings():  # Python 3.12 warns where there are threads, which is what is tested here
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()
