"""Reads the file of an import line by line, in constant memory. Errors name the line."""

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
from ledger.store.drafts import BATCH

LONGEST = {"events": 4 * 1024 * 1024, "cloudtrail": 64 * 1024 * 1024}
"""Bytes of a line, by format. An event's body has at most 256 KiB; an AWS log file is one line with all records."""
_VALUES = 4_000_000
"""JSON values in a line. A decoded value takes some 70 bytes of memory; in real records one has 35 bytes of text."""
_REPORT = 500
"""Lines between two updates of the progress bar."""


class BadLine(UsageError):
    """A line that is not an event."""


class _EventLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Event's fields, in its order. The time is text, because msgspec rounds to microseconds and format.md cuts off."""

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


_decode_event = msgspec.json.Decoder(_EventLine, float_hook=exact_float).decode


class Import:
    """One file that is imported. read: number of events read so far."""

    def __init__(self, file: str, format_: str) -> None:
        self.name = "stdin" if file == "-" else file
        self.read = 0
        self._events_of = _cloudtrail_events if format_ == "cloudtrail" else _events
        self._longest = LONGEST[format_]
        self._place_read = (1, 1)
        # Place and id or key of recent events, for errors: append_many reads ahead of what it records.
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
        """Appends all events. Raises BadLine, Interrupted, LedgerError; each says how far the import came."""
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
                error.add_note(f"Read so far: up to {self._place(self._place_read)}.")
                raise

    def _open(self, file: str) -> BufferedReader:
        if file == "-":
            if sys.stdin is None:
                raise UsageError("stdin is closed, but '-' was given")
            return cast(BufferedReader, sys.stdin.buffer)
        opened = self._stack.enter_context(Path(file).open("rb"))  # noqa: SIM115 - the stack closes it
        self._size = Path(file).stat().st_size
        return opened

    def events(self, advance: Callable[[int, int], None]) -> Iterator[Event]:
        """The file's events, not validated. advance: called with (bytes read, bytes in total). Raises BadLine."""
        for number, text in enumerate(self._numbered(), start=1):
            if number % _REPORT == 0 and self._size:
                advance(self._raw.tell(), self._size)
            self._place_read = number, 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - a byte order mark
            if not text.strip():
                continue
            try:
                for record, event in enumerate(self._events_of(text), start=1):
                    self._place_read = number, record
                    if self._stop.is_set():
                        raise Interrupted(f"interrupted before {self._place(self._place_read)}")
                    self.read += 1
                    self._recent.append((self._place_read, event.id or event.idempotency_key))
                    yield event
            except RecursionError:
                raise BadLine(f"{self._place(self._place_read)}: too deeply nested") from None
            except (ValueError, TypeError) as error:
                raise BadLine(f"{self._place(self._place_read)}: {error}") from error

    def _numbered(self) -> Iterator[bytes]:
        while True:
            try:
                text = self._lines.readline(self._longest + 1)
            except (EOFError, zlib.error, OSError) as error:
                kind = "the gzip data is damaged or cut short" if self._lines is not self._raw else "cannot be read"
                raise BadLine(f"after {self._place(self._place_read)}: {kind}: {error}") from error
            if len(text) > self._longest:
                raise BadLine(f"after {self._place(self._place_read)}: a line of more than {self._longest} bytes")
            if len(text) > 2 * _VALUES and sum(map(text.count, (b",", b"[", b"{"))) > _VALUES:
                raise BadLine(f"after {self._place(self._place_read)}: a line of more than {_VALUES} values")
            if not text:
                return
            yield text

    def _place(self, place: tuple[int, int]) -> str:
        """place: numbers of line and record, from 1."""
        line, record = place
        return f"line {line}{f', record {record}' if record > 1 else ''} of {self.name}"

    def _place_of(self, number: int) -> str:
        """The place of a recent event. number: of the event, from 1."""
        return self._place(self._recent[number - self.read - 1][0])

    def _place_of_id(self, conflict: IdempotencyConflict) -> str:
        """The place of the event whose id the conflict names."""
        for place, key in reversed(self._recent):
            entry_id = entry_id_for(key) if isinstance(key, str) else key
            if entry_id is not None and str(entry_id) in str(conflict):
                return self._place(place)
        return f"before {self._place(self._place_read)}"

    def _interruptible(self) -> ExitStack:
        """Ctrl-C ends the import between two events, so that the error can name the place; a second Ctrl-C at once."""
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
    fields = _decode_event(text)
    refuse_duplicates(text, fields)
    values = msgspec.structs.astuple(fields)
    if values[-1] is not None:
        try:
            values = (*values[:-1], moment_of(values[-1]))
        except ValueError as error:
            raise ValueError(f"occurred_at: {error}") from None
    yield Event(*values)


def _cloudtrail_events(text: bytes) -> Iterator[Event]:
    """One record a line, or AWS's own files: one object with all records."""
    value = exact_json(text)
    if isinstance(value, dict) and isinstance(value.get("Records"), list):
        for number, record in enumerate(value["Records"], start=1):
            try:
                event = event_of(record)
            except ValueError as error:
                raise ValueError(f"record {number}: {error}") from error
            yield event
    else:
        yield event_of(value)


def _with_notes(error: LedgerError, original: BaseException) -> LedgerError:
    for note in getattr(original, "__notes__", ()):
        error.add_note(note)
    return error
