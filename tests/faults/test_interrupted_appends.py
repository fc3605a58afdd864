"""Exceptions from a signal handler (Ctrl-C, Celery's soft time limit) at any moment of an append."""

from __future__ import annotations

import dis
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from ledger import Ledger
from ledger.events import Receipt
from tests.support.helpers import checked, event, events, receipt_of

TIMEOUT_SECONDS = 20.0
FILES = ("ledger/store/group_commit.py", "ledger/store/turns.py")
INTERRUPTED = ("_take_turn", "_lead", "_end", "_commit", "commit", "take", "_move", "give_up")
"""Functions of these files."""
CHECKED = ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME")
"""The instructions after which Python calls the handlers of signals."""


class Interrupted(BaseException):
    pass


class Caller(threading.Thread):
    """A thread that appends. after: how many moments pass, in INTERRUPTED, before one at which it is interrupted."""

    def __init__(self, ledger: Ledger, *, after: int | None = None) -> None:
        super().__init__(daemon=True)
        self.ledger, self.left = ledger, after
        self.receipt: Receipt | None = None
        self.error: BaseException | None = None
        self.interrupted = False
        self._before: dict[FrameType, str] = {}

    def run(self) -> None:
        if self.left is not None:
            sys.settrace(self._trace)
        try:
            self.receipt = self.ledger.append(event(1))
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, what: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.endswith(FILES) or code.co_name not in INTERRUPTED:
            return None
        frame.f_trace_opcodes = True
        if what == "opcode" and self.left is not None:
            before = self._before.get(frame, "")
            self._before[frame] = dis.opname[code.co_code[frame.f_lasti]]
            self.left -= before in CHECKED
            if self.left < 0:
                self.left, self.interrupted = None, True
                raise Interrupted
        return self._trace


@pytest.mark.parametrize("many", [False, True], ids=["alone", "among others"])
def test_nobody_waits_for_a_thread_that_was_interrupted(ledger: Ledger, many: bool) -> None:
    receipts = [ledger.append(event(0))]
    moment, missed = 0, 0
    while missed < 5:  # among others it may be another one that leads: then it has fewer moments
        callers = [Caller(ledger, after=moment), *(Caller(ledger) for _ in range(3 if many else 0))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(TIMEOUT_SECONDS)
            assert not caller.is_alive(), f"interrupted at moment {moment}, another thread waits for ever"
        last = Caller(ledger)
        last.start()
        last.join(TIMEOUT_SECONDS)
        assert last.receipt is not None, f"interrupted at moment {moment}: {last.error or 'the next waits for ever'}"
        receipts += [each.receipt for each in (*callers, last) if each.receipt is not None]
        missed = 0 if callers[0].interrupted else missed + 1
        moment += 1
    assert moment > 10
    receipts.append(ledger.append_many(events(5)).last)  # type: ignore[arg-type]
    there = {entry.position: receipt_of(entry) for entry in checked(ledger)}
    assert [each for each in receipts if there[each.position] != each] == []
