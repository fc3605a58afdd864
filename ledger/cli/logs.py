"""Logging of long-running commands on stderr: text lines, or one JSON object per line."""

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
    is_eager=True, callback=_choose, help="Format of stderr; json: one object per line.",
)  # fmt: skip
"""The option --log-format. It also applies to the final error line."""


@contextmanager
def logging_to_stderr(form: str) -> Iterator[logging.Logger]:
    """Logs the package's records to stderr while the block runs. form: `text` or `json`.

    With `json` also the records of other packages, which Python would write there as plain text.
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
    """Formats a record as JSON, with the fields of `extra`, and the traceback as `traceback`."""

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
    """Escapes and redacts: messages may contain text of entries, and URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(one_line(super().format(record)))
