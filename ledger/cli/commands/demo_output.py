"""What the demo prints: numbered steps, text, entries, and the command to continue with."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from ledger.cli.app import PROGRAM
from ledger.cli.context import HOME
from ledger.cli.output import entry_line, line
from ledger.errors import LedgerError
from ledger.events import Entry


class DemoFailed(LedgerError):
    """A step of the demo had an unexpected result."""


class Steps:
    """Prints the demo's steps. quiet: print nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._number = 0

    def begin(self, title: str, command: str = "") -> None:
        """Prints the heading of the next step. command: how to do the same."""
        self._number += 1
        if self.quiet:
            return
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        heading = f"\n{self._number:>2}. {title}"
        if colour:
            heading, command = click.style(heading, bold=True, fg="cyan"), command and click.style(command, dim=True)
        sys.stdout.write(f"{heading}   {command}\n" if command else f"{heading}\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        if not self.quiet:
            line(text)

    def entry(self, entry: Entry) -> None:
        if not self.quiet:
            entry_line(entry)

    def expect(self, condition: bool, otherwise: str) -> None:
        """Raises DemoFailed with the text `otherwise` if the condition is false."""
        if not condition:
            raise DemoFailed(f"the demo failed at step {self._number}: {otherwise}")


def command_line() -> str:
    """The command that runs this program in the user's folder, on the ledger in its `.ledger`."""
    called = Path(sys.argv[0])
    installed = shutil.which(PROGRAM)
    if called.name != PROGRAM or (installed is not None and called.exists() and called.samefile(installed)):
        words = [PROGRAM]
    else:  # such as make's .venv/bin/auditledger; absolute if make changed the folder (make -C)
        same_folder = Path(os.environ.get("PWD") or ".").resolve() == Path.cwd().resolve()
        words = [sys.argv[0] if same_folder else str(called.absolute())]
    if any(os.environ.get(name) for name in ("LEDGER_DATABASE_URL", "LEDGER_REDIS_URL", "LEDGER_HOME")):
        words += ["--home", HOME]
    if os.environ.get("LEDGER_NAME", "main") != "main":
        words += ["--ledger", "main"]
    return shlex.join(words)
