"""What must hold of the outbox once it is drained: by what recorders noted, and by the rows in which they counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg

from tests.simulation.notes import Line, all_lines
from tests.simulation.recorders import CONTRADICTED, COUNT
from tests.simulation.violation import Violation
from tests.simulation.voices import id_of

if TYPE_CHECKING:
    from tests.simulation.check import Books


def recorded(books: Books) -> Iterator[Violation]:
    """What was recorded after the last restore is there; an event that contradicts another is not."""
    ids = {entry.id for entry in books.entries}
    for part, line in _since_restored(books):
        if line.get("recorded"):
            numbers = range(line["n"], line["n"] + line["count"])
            missing = [number for number in numbers if id_of(part, number) not in ids]
            if missing:
                yield Violation("lost", f"{part} {missing}: recorded, and not in the ledger")
    for entry in books.entries:
        if entry.action == CONTRADICTED:
            yield Violation("other", f"entry {entry.position} contradicts what was recorded under its id")


def counts(books: Books, connection: psycopg.Connection) -> Iterator[Violation]:
    """The entries about a row are the numbers that it has had, each once, in order."""
    at: dict[int, int] = dict(connection.execute("select row, number from counts").fetchall())
    said: dict[int, list[int]] = {row: [] for row in at}
    for entry in books.entries:
        if entry.resource_type == COUNT:
            row, number = map(int, (entry.resource_id or "").split("/"))
            said[row].append(number)
    for row, last in at.items():
        times = Counter(said[row])
        missing = [number for number in range(1, last + 1) if number not in times]
        if missing:
            yield Violation("lost", f"row {row} counted to {last}: {missing[:10]} have no entries")
        doubled = [number for number, count in times.items() if count > 1 or number > last]
        if doubled:
            yield Violation("doubled", f"row {row} counted to {last}: {doubled[:10]} were undone, or have two entries")
        if said[row] != sorted(said[row]):
            yield Violation("misordered", f"the entries about row {row}: {said[row]}")
    for part, line in _since_restored(books):
        if "counted" in line:
            row, number = map(int, line["counted"].split("/"))
            if number > at[row]:
                yield Violation("lost", f"{part} {line['n']}: {line['counted']} was counted, and is gone")


def rejected(books: Books, connection: psycopg.Connection) -> Iterator[Violation]:
    """What contradicts another event was set aside, and nothing else was; nothing waits."""
    rows = connection.execute("select id, action, reason from ledger.rejected").fetchall()
    for id_, action, reason in rows:
        if action != CONTRADICTED:
            yield Violation("lost", f"event {id_} was set aside: {reason}")
    aside = {id_ for id_, *_ in rows}
    for part, line in _since_restored(books):
        if line.get("contradicted") and id_of(part, line["n"] + line["count"] - 1) not in aside:
            yield Violation("lost", f"{part} {line['n']}: what contradicts it was not set aside")
    [(waiting,)] = connection.execute("select count(*) from ledger.outbox").fetchall()
    if waiting:
        yield Violation("lost", f"{waiting} events wait, and everything had been sealed")


def _since_restored(books: Books) -> Iterator[tuple[str, Line]]:
    """The lines of all who say something, noted after the last restore: what came before may be lost by definition."""
    last = max((restore.t for restore in books.restores), default=0.0)
    for part, its in all_lines(books.folder / "said"):
        yield from ((part, line) for line in its if line["t"] > last)
