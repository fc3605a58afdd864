"""The command line as a process that stops itself once, as SIGSTOP does, holding whatever it holds at that moment.

    python -m tests.freezing AFTER COMMAND …

AFTER: a part of the statement or script after which it stops; or `the middle of a COPY`, or `signing`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import psycopg
import pytest

from ledger import drive
from ledger.cli import main
from ledger.effects import CopyIn
from ledger.note import FileSigner

COPY, SIGNING = "the middle of a COPY", "signing"


class Freezing:
    """Stops the process where it is told to, the first time that it comes there."""

    def __init__(self, after: str) -> None:
        self.after = after
        self.done = False
        self.perform = drive._perform

    def freeze(self) -> None:
        if not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGSTOP)

    def performing(self, effect: Any, *sides: Any) -> Any:
        if self.after == COPY and isinstance(effect, CopyIn):
            effect = CopyIn(effect.sql, self.halfway(list(effect.data)))
        brought = self.perform(effect, *sides)
        if self.after in repr(effect):
            self.freeze()
        return brought

    def halfway(self, data: list[bytes]) -> Any:
        yield data[0][:-40]
        self.freeze()
        yield data[0][-40:]
        yield from data[1:]

    def writing_row(self) -> Any:
        def write_row(copy: psycopg.Copy, row: Any) -> None:
            written(copy, row)
            if self.after == COPY:
                self.freeze()

        written = psycopg.Copy.write_row
        return write_row

    def signing(self) -> Any:
        def sign(signer: FileSigner, message: bytes) -> bytes:
            if self.after == SIGNING:
                self.freeze()
            return signed(signer, message)

        signed = FileSigner.sign
        return sign


def main_freezing(after: str, arguments: list[str]) -> int:
    freezing = Freezing(after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "_perform", freezing.performing)
        patch.setattr(psycopg.Copy, "write_row", freezing.writing_row())
        patch.setattr(FileSigner, "sign", freezing.signing())
        return main(arguments)


if __name__ == "__main__":
    raise SystemExit(main_freezing(sys.argv[1], sys.argv[2:]))
