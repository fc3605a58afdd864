"""The three streams, as the caller left them: closed, full, a pipe that nobody reads, an odd encoding."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


def prepare() -> None:
    """Before anything is opened: a closed descriptor would be given to the next file or socket, and written to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # so Python says that it was closed
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        with suppress(AttributeError):  # not every stream that a caller puts there has it
            getattr(sys, name).reconfigure(errors="backslashreplace")


def settle() -> None:
    """At the end: what could not be written goes nowhere. Python would try it again, and exit as if it had crashed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def speaks_ascii(stream: Any) -> bool:
    """Is what is ASCII the same bytes in the stream's encoding? Not in UTF-16."""
    try:
        return "{}".encode(stream.encoding or "utf-8") == b"{}"
    except (AttributeError, LookupError):
        return True


def speaks_utf8(stream: Any) -> bool:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
