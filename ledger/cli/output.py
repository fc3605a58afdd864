"""What commands print: JSON, lines for pipes, tables for terminals, progress bars."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from ledger.cli.standard_streams import speaks_ascii
from ledger.cli.text import plain, safe_json, writes_json_lines
from ledger.events import Entry, Receipt
from ledger.format.times import timestamp

_LONG = 96
"""Characters of a JSON text in a human-readable line."""
_WIDE = 130
"""Columns that a terminal needs for a table of entries."""
Advance = Callable[[int, int], None]
"""Called with (done, total); total may be an estimate."""


# ------------------------------------------------------------------------------------------------------------- JSON


class _EntryObject(msgspec.Struct):
    position: int
    id: str
    recorded_at: str
    occurred_at: str
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    before: msgspec.Raw
    after: msgspec.Raw
    metadata: msgspec.Raw
    hash: str


def write_json(value: Any) -> None:
    """Writes one line of JSON to stdout, in UTF-8 or ASCII. Invalid UTF-8 in file names is escaped."""
    try:
        text = (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(_escaped(value)).decode()
    if not speaks_ascii(sys.stdout):
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(safe_json(text, sys.stdout) + "\n")


def write_note(data: bytes) -> None:
    """Writes a signed note or a proof to stdout: the exact bytes, or escaped text on a terminal."""
    if sys.stdout.isatty():
        for each in data.decode(errors="backslashreplace").splitlines():
            line(each)
    else:
        click.echo(data, nl=False)


def _escaped(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_escaped(key): _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
        case _:
            return value


def entry_json(entry: Entry) -> bytes:
    """An entry as a line of JSON. The body's JSON texts are those stored, so numbers keep all digits."""
    return msgspec.json.encode(
        _EntryObject(
            entry.position,
            str(entry.id),
            time_text(entry.recorded_at),
            time_text(entry.occurred_at),
            entry.actor,
            entry.actor_type,
            entry.action,
            entry.resource_type,
            entry.resource_id,
            raw_json(entry.before_json),
            raw_json(entry.after_json),
            raw_json(entry.metadata_json),
            entry.hash.hex(),
        )
    )


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": str(receipt.id),
        "position": receipt.position,
        "hash": receipt.hash.hex(),
        "recorded_at": time_text(receipt.recorded_at),
    }


def raw_json(text: str | None) -> msgspec.Raw:
    """A stored JSON text for embedding in a line of JSON. Line breaks between its tokens are removed."""
    # Line breaks inside strings are escaped, so every raw one is between tokens.
    return msgspec.Raw(b"null" if text is None else text.replace("\n", " ").replace("\r", " ").encode())


def print_receipt(receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        write_json(receipt_object(receipt))
    else:
        line(f"position {receipt.position}", f"id {receipt.id}", f"hash {receipt.hash.hex()}")


def time_text(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ`; `invalid` for a forged time that no datetime can hold."""
    return "invalid" if moment is None else timestamp(moment).decode()


# ----------------------------------------------------------------------------------------------------- lines, tables


def line(*parts: str) -> None:
    """Prints one line on stdout, its parts separated by two spaces."""
    sys.stdout.write("  ".join(plain(part) for part in parts).rstrip() + "\n")


def entry_line(entry: Entry, *, occurred: bool = False) -> None:
    """Prints one entry on one line. occurred: with its occurred_at instead of its recorded_at."""
    moment = entry.occurred_at if occurred else entry.recorded_at
    who_and_what = (f"{each:<20}" for each in (entry.actor, entry.action, resource_text(entry)))
    line(f"{entry.position:>6}", short_time(moment), *who_and_what, body_text(entry))


def entry_table(entries: Sequence[Entry]) -> None:
    """Prints entries as a table on a wide terminal, else as lines."""
    if not sys.stdout.isatty() or shutil.get_terminal_size().columns < _WIDE:
        for entry in entries:
            entry_line(entry, occurred=True)
        return
    table(
        ("#", "Occurred", "Actor", "Action", "Resource", "Body"),
        [
            (str(entry.position), short_time(entry.occurred_at), entry.actor, entry.action, resource_text(entry),
             body_text(entry))
            for entry in entries
        ],
        right=(0,),
    )  # fmt: skip


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Prints a table on a terminal, else aligned lines without a header. right: columns that are right-aligned."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in cells) for column in range(len(columns))] if cells else []
        for row in cells:
            line(*(cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)))
        return
    from ledger.cli.terminal import print_table  # noqa: PLC0415 - rich takes long to load

    print_table(columns, cells, right)


def short_time(moment: datetime) -> str:
    """UTC, to the millisecond."""
    if moment is None:
        return "invalid"
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def resource_text(entry: Entry) -> str:
    return f"{entry.resource_type}:{entry.resource_id}" if entry.resource_type is not None else "-"


def body_text(entry: Entry) -> str:
    """The change from before to after, shortened."""
    if entry.erased:
        return "(erased)"
    match entry.before_json, entry.after_json:
        case None, None:
            return ""
        case None, str(after):
            return cut(after)
        case str(before), None:
            return f"{cut(before, _LONG // 2)} -> nothing"
        case before, after:
            return f"{cut(str(before), _LONG // 2)} -> {cut(str(after), _LONG // 2)}"


def cut(text: str, most: int = _LONG) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int, thing: str) -> str:
    """`1 entry`, `2 entries`."""
    if number == 1:
        return f"1 {thing}"
    return f"{number:,} {thing[:-1]}ies" if thing.endswith("y") else f"{number:,} {thing}s"


def seconds_text(seconds: float) -> str:
    """A human-readable time span."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    for unit, size in (("days", 172_800), ("h", 7_200), ("min", 0)):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.1f} {unit}"
    raise AssertionError(seconds)


# ---------------------------------------------------------------------------------------------------------- progress


@contextmanager
def progress(label: str, unit: str = "entries") -> Iterator[Advance]:
    """A progress bar on stderr if that is a terminal. Yields a function of (done, total)."""
    if not sys.stderr.isatty() or writes_json_lines():
        yield lambda done, total: None
        return
    from ledger.cli.terminal import progress_bar  # noqa: PLC0415 - rich takes long to load

    with progress_bar(plain(label), unit) as advance:
        yield advance


@contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """`progress` whose function takes the amount of each step."""
    done = 0
    with progress(label) as advance:

        def step(more: int) -> None:
            nonlocal done
            done += more
            advance(done, max(done, total))

        yield step


def write_all(entries: Iterable[Entry], *, as_json: bool, flush: bool = False) -> None:
    """Prints entries one by one, as JSON or text lines. flush: after each entry."""
    for entry in entries:
        write_json(entry_json(entry)) if as_json else entry_line(entry)
        if flush:
            sys.stdout.flush()
