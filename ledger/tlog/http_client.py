"""Answers of HTTP servers that are not ours: no longer than they may be, and no later.

Python's own client reads for as long as a server goes on: through any number of `100 Continue`, all that follows a
chunk of negative size, a byte every few seconds.
"""

from __future__ import annotations

import io
import time
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any, cast
from urllib.parse import SplitResult


def connection_to(parts: SplitResult, timeout: float, most: int) -> HTTPConnection:
    """A connection to the host of an http(s) URL, not opened yet.

    timeout: seconds for each step, and for the whole of an answer once it was begun. most: bytes of an answer, its head
    among them. Beyond them the answer's reading raises OSError.
    """
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    connection.response_class = cast(Any, partial(_Response, most, timeout))
    return connection


class _Response(HTTPResponse):
    def __init__(self, most: int, timeout: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), most, timeout))


class _Bounded(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, most: int, timeout: float) -> None:
        super().__init__()
        self._raw = raw
        self._left = most
        self._deadline = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = cast(int | None, self._raw.readinto(buffer))
        self._left -= count or 0
        if self._left < 0:
            raise OSError("its answer is too long")
        if time.monotonic() > self._deadline:
            raise TimeoutError("its answer takes too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
