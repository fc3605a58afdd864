"""Reads the file of an import, line by line, in constant memory, and says of what fails where it stood."""

from __future__ import annotations

import gzip
import signal
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from uuid import UUID

import msgspec

from ledger.cli.commands.cloudtrail import event_of
from ledger.cli.context import Interrupted
from ledger.cli.duplicates import refuse_duplicates
from ledger.cli.output import progress
from ledger.cli.params import exact_float, exact_json, moment_of
from ledger.client import Ledger
from ledger.errors import IdempotencyConflict, InvalidEvent, LedgerError, UsageError
from ledger.events import Appended, Event
from ledger.format.canonical import entry_id_for
from ledger.store.batches import BATCH

LONGEST = {"events": 4 * 1024 * 1024, "cloudtrail": 64 * 1024 * 1024}
"""Bytes of a line, by format: an event's body has at most 256 KiB, an AWS log file is one line with all its records."""
_VALUES = 4_000_000
"""JSON values in a line: a decoded one takes some 70 bytes, however short it was. In real records one has 35 bytes."""
_REPORT = 500
"""Lines between two steps of the progress bar."""


class BadLine(UsageError):
    """A line that is no event."""


class _Said(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Event's fields in its order, its time as text: msgspec would round what is finer than microseconds, and format.md
    cuts it off.
    """

    actor: str
    action: str
    resource_type: str | None = None
    resource_id: str | None = None
    actor_type: str = "user"
    before: Any = None
    after: Any = None
    metadata: Any = None
    id: UUID | None = None
    idempotency_key: str | None = None
    occurred_at: str | None = None


_decode_said = msgspec.json.Decoder(_Said, float_hook=exact_float).decode


class Import:
    """One file on its way into a ledger. `read` counts its events."""

    def __init__(self, file: str, format_: str) -> None:
        self.name = "stdin" if file == "-" else file
        self.read = 0
        self._events_of = _cloudtrail_events if format_ == "cloudtrail" else _events
        self._longest = LONGEST[format_]
        self._at = (1, 1)
        # Where the last few batches' events stood, and by which id or key: append_many reads ahead of what it records.
        self._recent: deque[tuple[tuple[int, int], UUID | str | None]] = deque(maxlen=4 * BATCH)
        self._stop = threading.Event()
        self._stack = ExitStack()
        self._size = 0
        try:
            self._raw = self._open(file)
            is_gzip = self._raw.peek(2)[:2] == b"\x1f\x8b"
        except OSError as error:
            self._stack.close()
            raise UsageError(f"{self.name} cannot be read: {error.strerror or error}") from error
        self._lines = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if is_gzip else self._raw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, ledger: Ledger) -> Appended:
        """Appends all events. Raises UsageError naming the bad line, Interrupted; both say what was recorded."""
        with progress(f"Importing {Path(self.name).name}", "bytes") as advance, self._interruptible():
            try:
                return ledger.append_many(self.events(advance))
            except InvalidEvent as error:
                number = int("".join(filter(str.isdigit, error.path.partition(":")[0])))
                what = f"{error.path.partition(': ')[2]}: {error.problem}"
                raise _with_notes(BadLine(f"{self._place_of(number)}: {what}"), error) from error
            except IdempotencyConflict as error:
                raise _with_notes(BadLine(f"{self._place_of_id(error)}: {error}"), error) from error
            except (BadLine, Interrupted):
                raise
            except LedgerError as error:
                error.add_note(f"Read so far: up to {self._place(self._at)}.")
                raise

    def _open(self, file: str) -> BufferedReader:
        if file == "-":
            if sys.stdin is None:
                raise UsageError("stdin is closed: there is nothing to read from '-'")
            return cast(BufferedReader, sys.stdin.buffer)
        opened = self._stack.enter_context(Path(file).open("rb"))  # noqa: SIM115 - the stack closes it
        self._size = Path(file).stat().st_size
        return opened

    def events(self, advance: Callable[[int, int], None]) -> Iterator[Event]:
        """Its events, unchecked. advance: called with bytes done and bytes to do. Raises BadLine."""
        for number, text in enumerate(self._numbered(), start=1):
            if number % _REPORT == 0 and self._size:
                advance(self._raw.tell(), self._size)
            self._at = number, 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - a byte order mark is no part of the line
            if not text.strip():
                continue
            try:
                for record, event in enumerate(self._events_of(text), start=1):
                    self._at = number, record
                    if self._stop.is_set():
                        raise Interrupted(f"interrupted before {self._place(self._at)}")
                    self.read += 1
                    self._recent.append((self._at, event.id or event.idempotency_key))
                    yield event
            except RecursionError:
                raise BadLine(f"{self._place(self._at)}: too deeply nested") from None
            except (ValueError, TypeError) as error:
                raise BadLine(f"{self._place(self._at)}: {error}") from error

    def _numbered(self) -> Iterator[bytes]:
        while True:
            try:
                text = self._lines.readline(self._longest + 1)
            except (EOFError, zlib.error, OSError) as error:
                kind = "the gzip data is damaged or cut short" if self._lines is not self._raw else "cannot be read"
                raise BadLine(f"after {self._place(self._at)}: {kind}: {error}") from error
            if len(text) > self._longest:
                raise BadLine(f"after {self._place(self._at)}: a line of more than {self._longest} bytes")
            if len(text) > 2 * _VALUES and sum(map(text.count, (b",", b"[", b"{"))) > _VALUES:
                raise BadLine(f"after {self._place(self._at)}: a line of more than {_VALUES} values")
            if not text:
                return
            yield text

    def _place(self, at: tuple[int, int]) -> str:
        """at: line and record, from 1 each."""
        line, record = at
        return f"line {line}{f', record {record}' if record > 1 else ''} of {self.name}"

    def _place_of(self, number: int) -> str:
        """Where an event stood. number: from 1; of one in the last few batches."""
        return self._place(self._recent[number - self.read - 1][0])

    def _place_of_id(self, conflict: IdempotencyConflict) -> str:
        """Where the event stood whose id the conflict names."""
        for at, said in reversed(self._recent):
            entry_id = entry_id_for(said) if isinstance(said, str) else said
            if entry_id is not None and str(entry_id) in str(conflict):
                return self._place(at)
        return f"before {self._place(self._at)}"

    def _interruptible(self) -> ExitStack:
        """Ctrl-C ends the import between two events, so that it can be said how far it came; a second one at once."""
        stack = ExitStack()
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)

            def stop(*_: object) -> None:
                self._stop.set()
                signal.signal(signal.SIGINT, before)

            signal.signal(signal.SIGINT, stop)
            stack.callback(partial(signal.signal, signal.SIGINT, before))
        return stack


def _events(text: bytes) -> Iterator[Event]:
    said = _decode_said(text)
    refuse_duplicates(text, said)
    values = msgspec.structs.astuple(said)
    if values[-1] is not None:
        try:
            values = (*values[:-1], moment_of(values[-1]))
        except ValueError as error:
            raise ValueError(f"occurred_at: {error}") from None
    yield Event(*values)


def _cloudtrail_events(text: bytes) -> Iterator[Event]:
    """One record a line, or AWS's own files: one object with all records."""
    found = exact_json(text)
    if isinstance(found, dict) and isinstance(found.get("Records"), list):
        for number, record in enumerate(found["Records"], start=1):
            try:
                event = event_of(record)
            except ValueError as error:
                raise ValueError(f"record {number}: {error}") from error
            yield event
    else:
        yield event_of(found)


def _with_notes(error: LedgerError, original: BaseException) -> LedgerError:
    for note in getattr(original, "__notes__", ()):
        error.add_note(note)
    return error
