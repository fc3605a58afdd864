"""Text for people: nothing in it may steer a terminal, give away a password, or need the rest of the package."""

from __future__ import annotations

import re
import sys

_PASSWORD = re.compile(r"(?i)(\bpassword\s*=\s*)('[^']*'|[^\s&'\"]+)")
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"]*@", re.IGNORECASE)


def plain(text: str) -> str:
    """The text with everything that is not printable escaped: control characters, bidi overrides, lone surrogates.

    What stands in an entry was written by somebody else: printed as it is, it could rewrite the reader's screen.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def redacted(text: str) -> str:
    """The text without what a URL or a connection string says of users and passwords."""
    return _PASSWORD.sub(r"\1…", _CREDENTIALS.sub(r"\1…@", text))


def one_line(text: str) -> str:
    """The text on one line; of a long one (the end of a server's log) its first and its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 4:
        lines = [lines[0], lines[-1]]
    return plain(" ".join(lines))


def note(text: str) -> None:
    """One line of progress or of news, on stderr, after what stdout has so far."""
    sys.stdout.flush()
    print(redacted(one_line(text)), file=sys.stderr, flush=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
