"""Safe text output: escapes terminal controls, redacts passwords. Needs no other part of the package."""

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
    """The text with all that is not printable escaped: control characters, bidi overrides, lone surrogates.

    The text of an entry is untrusted and could control the reader's terminal.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


# Legal in JSON without an escape, but a terminal may obey them (C1 controls, bidi overrides).
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII = re.compile("[\x7f-\U0010ffff]")


def safe_json(text: str, stream: object) -> str:
    """JSON with terminal controls escaped, and all beyond ASCII unless the stream is UTF-8."""
    unsafe = _STEERING if speaks_utf8(stream) else _NOT_ASCII
    return unsafe.sub(lambda match: _json_escaped(match[0]), text)


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[index : index + 2].hex()}" for index in range(0, len(units), 2))


def redacted(text: str) -> str:
    """The text with users and passwords in URLs and connection strings replaced."""
    return _PASSWORD.sub(r"\1…", _URL_OR_WORD.sub(_without_credentials, text))


def _without_credentials(match: re.Match[str]) -> str:
    """Searches a word from its end, so that long texts take linear time."""
    word = match[0]
    end = word.rfind("@")
    scheme = _SCHEME.search(word, 0, max(end, 0))
    return word if scheme is None else f"{word[: scheme.end()]}…{word[end:]}"


def one_line(text: str) -> str:
    """The text on one line; of more than four lines the first and the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 4:
        lines = [lines[0], lines[-1]]
    return plain(" ".join(lines))


def note(text: str) -> None:
    """Prints one line of information on stderr, after flushing stdout."""
    with suppress(OSError, ValueError):  # the next write to stdout raises it
        sys.stdout.flush()
    _say("info", text, redacted(one_line(text)))


def error_line(text: str) -> None:
    """Prints the error of a failed command on stderr."""
    _say("error", text, f"error: {redacted(one_line(text))}")


def json_line(level: str, message: str, logger: str = "ledger", **more: Any) -> str:
    """One log line: time (UTC, microseconds), level, logger, message, then the fields of `more`."""
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    fields = {"time": now, "level": level, "logger": logger, "message": message} | more
    return safe_json(json.dumps(fields, ensure_ascii=False, separators=(",", ":")), sys.stderr)


class _Form:
    json_lines = False


def use_json_lines(on: bool) -> None:
    """Makes `note` and `error_line` write JSON, for --log-format json."""
    _Form.json_lines = on


def writes_json_lines() -> bool:
    return _Form.json_lines


def _say(level: str, text: str, as_line: str) -> None:
    if _Form.json_lines:
        as_line = json_line(level, redacted(one_line(text)))
    with suppress(OSError, ValueError):  # stderr is closed or full: not a reason to fail
        print(as_line, file=sys.stderr, flush=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
