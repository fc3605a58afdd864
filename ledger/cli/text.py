"""Text for people: nothing in it may steer a terminal, give away a password, or need the rest of the package."""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ledger.cli.standard_streams import speaks_utf8

_PASSWORD = re.compile(r"(?i)(\bpassword\s*=\s*)('[^']*'|[^\s&'\"]+)")
_URL_OR_WORD = re.compile(r"[^\s'\"]+")
_SCHEME = re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://", re.IGNORECASE)


def plain(text: str) -> str:
    """The text with everything that is not printable escaped: control characters, bidi overrides, lone surrogates.

    What stands in an entry was written by somebody else: printed as it is, it could rewrite the reader's screen.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


# Within JSON these are legal as they are, but a terminal may obey them (C1 controls, bidi overrides).
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII = re.compile("[\x7f-\U0010ffff]")


def safe_json(text: str, stream: object) -> str:
    """JSON in which nothing steers a terminal, and nothing is beyond ASCII unless the stream is UTF-8."""
    unsafe = _STEERING if speaks_utf8(stream) else _NOT_ASCII
    return unsafe.sub(lambda found: _json_escaped(found[0]), text)


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def redacted(text: str) -> str:
    """The text without what a URL or a connection string says of users and passwords."""
    return _PASSWORD.sub(r"\1…", _URL_OR_WORD.sub(_without_credentials, text))


def _without_credentials(found: re.Match[str]) -> str:
    """One match instead of a search from each place: a text of any length takes time in proportion."""
    word = found[0]
    end = word.rfind("@")
    scheme = _SCHEME.search(word, 0, max(end, 0))
    return word if scheme is None else f"{word[: scheme.end()]}…{word[end:]}"


def one_line(text: str) -> str:
    """The text on one line; of a long one (the end of a server's log) its first and its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 4:
        lines = [lines[0], lines[-1]]
    return plain(" ".join(lines))


def note(text: str) -> None:
    """One line of progress or of news, on stderr, after what stdout has so far."""
    with suppress(OSError, ValueError):  # whoever prints results next is told
        sys.stdout.flush()
    _say("info", text, redacted(one_line(text)))


def error_line(text: str) -> None:
    """What a command ends with that failed, on stderr."""
    _say("error", text, f"error: {redacted(one_line(text))}")


def json_line(level: str, message: str, logger: str = "ledger", **more: Any) -> str:
    """One log line: time (UTC, microseconds), level, logger, message, then the fields of `more`."""
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    fields = {"time": now, "level": level, "logger": logger, "message": message} | more
    return safe_json(json.dumps(fields, ensure_ascii=False, separators=(",", ":")), sys.stderr)


class _Form:
    json_lines = False


def use_json_lines(on: bool) -> None:
    """Write what `note` and `error_line` say as JSON, as --log-format json does."""
    _Form.json_lines = on


def writes_json_lines() -> bool:
    return _Form.json_lines


def _say(level: str, text: str, as_line: str) -> None:
    if _Form.json_lines:
        as_line = json_line(level, redacted(one_line(text)))
    with suppress(OSError, ValueError):  # what cannot be told is no reason to fail
        print(as_line, file=sys.stderr, flush=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
