"""Handles standard streams that are closed, full, unread or in an unusual encoding."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


def prepare() -> None:
    """Reopens closed descriptors 0 to 2. Otherwise the next file or socket would get one, and be written to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # Python's mark of a closed descriptor
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        with suppress(AttributeError):  # a replaced stream may lack it
            getattr(sys, name).reconfigure(errors="backslashreplace")


def settle() -> None:
    """Discards output that cannot be written. Otherwise Python tries again at exit, and exits with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def speaks_ascii(stream: Any) -> bool:
    """Whether the stream's encoding extends ASCII; UTF-16 does not."""
    try:
        return "{}".encode(stream.encoding or "utf-8") == b"{}"
    except (AttributeError, LookupError):
        return True


def speaks_utf8(stream: Any) -> bool:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
