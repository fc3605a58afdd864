"""The command line, called in this process or as one of its own."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import Ledger
from ledger.cli import main

AUDITLEDGER = str(Path(sys.executable).parent / "auditledger")


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON object."""
        return json.loads(self.out)

    @property
    def jsons(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one line of an error; a hint may follow it."""
        lines = [line for line in self.err.splitlines() if not line.startswith("No database is set:")]
        assert lines and lines[0].startswith("error: "), self
        assert all(re.fullmatch(r"Try '.*'\.", line) for line in lines[1:]), self
        return lines[0].removeprefix("error: ")


def run(*arguments: str, stdin: bytes = b"") -> Ran:
    """The command, in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), "utf-8")
        stack.callback(setattr, sys, "stdin", before)
        code = main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Ran(code, *texts)


class Cli:
    """`run` with the URLs of a test's own servers."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return run(*self.urls, *arguments, stdin=stdin)

    def well(self, *arguments: str, stdin: bytes = b"") -> Ran:
        ran = self(*arguments, stdin=stdin)
        assert ran.code == 0, ran
        return ran


def cli_of(ledger: Ledger, *, redis: bool = True) -> Cli:
    settings = ledger.settings
    urls = ["--database-url", settings.database_url or ""]
    return Cli(*urls, *(("--redis-url", settings.redis_url or "") if redis else ()))


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own; killed at the end if it has not ended."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([AUDITLEDGER, *arguments], **(pipes | options)) as popen:
        try:
            yield popen
        finally:
            if popen.poll() is None:
                popen.kill()


def ended(popen: subprocess.Popen[str], timeout: float = 30) -> Ran:
    out, err = popen.communicate(timeout=timeout)
    return Ran(popen.returncode, out or "", err or "")
