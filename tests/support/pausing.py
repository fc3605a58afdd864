"""The command line as a process that stops itself once, as SIGSTOP does, holding whatever it holds at that moment.

    python -m tests.support.pausing AFTER COMMAND …

AFTER: a part of the statement or script after which it stops; or one of MOMENTS.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from ledger import Entry, Projection, Writes
from ledger.cli import main
from ledger.drivers import postgres, run
from ledger.effects import CopyIn
from ledger.tlog.file_signer import FileSigner

COPY, PIPELINE, SIGNING = MOMENTS = "the middle of a COPY", "the middle of a pipeline", "signing"


class OneByOne(Projection):
    """A view that is written with one statement an entry."""

    name = "one_by_one"
    tables = ("one_by_one",)
    schema = "create table one_by_one (ledger_id int not null, position bigint not null)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        tx.execute_many("insert into one_by_one values (%s, %s)", [(ledger_id, entry.position) for entry in entries])


class Freezing:
    """Stops the process where it is told to, the first time that it comes there."""

    def __init__(self, after: str) -> None:
        self.after = after
        self.done = False
        self.perform = run._perform

    def freeze(self) -> None:
        if not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.3)  # another thread may be the one that takes the signal, a moment later

    def performing(self, effect: Any, *sides: Any) -> Any:
        if self.after == COPY and isinstance(effect, CopyIn):
            data = b"".join(effect.data)
            effect = CopyIn(effect.sql, self.halfway([data[:-40], data[-40:]]))
        brought = self.perform(effect, *sides)
        if self.after in repr(effect):
            self.freeze()
        return brought

    def halfway(self, items: Sequence[Any]) -> Any:
        yield from items[: len(items) // 2]
        self.freeze()
        yield from items[len(items) // 2 :]

    def writing_row(self) -> Any:
        def write_row(copy: psycopg.Copy, row: Any) -> None:
            written(copy, row)
            if self.after == COPY:
                self.freeze()

        written = psycopg.Copy.write_row
        return write_row

    def executing(self) -> Any:
        def execute_many(tx: postgres.Transaction, sql: str, params: Any) -> None:
            executed(tx, sql, self.halfway(params) if self.after == PIPELINE else params)

        executed = postgres.Transaction.execute_many
        return execute_many

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
        patch.setattr(run, "_perform", freezing.performing)
        patch.setattr(psycopg.Copy, "write_row", freezing.writing_row())
        patch.setattr(postgres.Transaction, "execute_many", freezing.executing())
        patch.setattr(FileSigner, "sign", freezing.signing())
        return main(arguments)


if __name__ == "__main__":
    raise SystemExit(main_freezing(sys.argv[1], sys.argv[2:]))
