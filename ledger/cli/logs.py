"""What the long-running commands log, on stderr: lines for people, or JSON, one object a line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

import click

from ledger.cli.context import Shared
from ledger.cli.text import json_line, one_line, redacted, use_json_lines

_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


def _choose(context: click.Context, option: click.Parameter, value: str) -> None:
    context.ensure_object(Shared).log_format = value
    use_json_lines(value == "json")


log_format = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, expose_value=False,
    is_eager=True, callback=_choose, help="How stderr is written; json: one object a line.",
)  # fmt: skip
"""For commands that run for long. Their last error line is in that form too."""


@contextmanager
def logging_to_stderr(form: str) -> Iterator[logging.Logger]:
    """The package's log lines on stderr for as long as the block runs. form: `text` or `json`.

    With `json` those of others too (the drivers', a projection's), which Python would write there as they are.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if form == "json" else _OneLine("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("ledger")
    level = log.level
    handled = logging.getLogger() if form == "json" else log
    handled.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield log
    finally:
        handled.removeHandler(handler)
        log.setLevel(level)


class JsonLine(logging.Formatter):
    """A record as JSON. What was given as `extra` stands beside the message, the traceback under `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        more = {key: _fit(value) for key, value in record.__dict__.items() if key not in _PLAIN}
        if record.exc_info:
            more["traceback"] = redacted(self.formatException(record.exc_info))
        return json_line(record.levelname.lower(), redacted(one_line(record.getMessage())), record.name, **more)


def _fit(value: object) -> object:
    if isinstance(value, bool | int | None) or (isinstance(value, float) and isfinite(value)):
        return value
    return redacted(one_line(str(value)))


class _OneLine(logging.Formatter):
    """Entries' text may be in a message, and a URL in an error."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(one_line(super().format(record)))
