"""What must hold once everything is well again: by what actors noted, and by the ledger itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias
from uuid import UUID

import psycopg

from ledger import Entry, Ledger
from ledger.errors import LedgerError
from ledger.format.actions import OWN_ACTIONS
from ledger.format.canonical import envelope
from tests.simulation import outbox
from tests.simulation.notes import Line, Restore, all_lines, lines, restores, standing
from tests.simulation.readers import LONE
from tests.simulation.recorders import COUNT
from tests.simulation.transactions import ORDER
from tests.simulation.views import stream_equals_store, views_equal_replay
from tests.simulation.violation import Violation
from tests.simulation.voices import COUNTER, id_of, keyed_id_of
from tests.simulation.world import World
from tests.support.helpers import checked


class Books(NamedTuple):
    """All that is known: entries as they stand, those that restores took away, and the actors' notes."""

    folder: Path
    entries: list[Entry]
    restores: list[Restore]
    lost: set[tuple[int, str]]
    """(position, hash): promised or shown once, lost by definition."""

    @property
    def at(self) -> dict[int, Entry]:
        return {entry.position: entry for entry in self.entries}


Check: TypeAlias = Callable[[Books], Iterable[Violation]]


def whole_ledger(world: World, folder: Path, key: str, notes: Sequence[bytes]) -> tuple[list[Entry], list[Violation]]:
    """Everything. key, notes: the log's public key and its checkpoints, as somebody elsewhere kept them."""
    with Ledger(world.direct) as ledger:
        report = ledger.verify(checkpoints=notes, keys=[key])
        found = [Violation("other", f"verify: {finding}") for finding in report.findings]
        try:
            entries = checked(ledger)
        except (AssertionError, LedgerError) as error:
            return [], [*found, Violation("other", f"the chain: {error!r}")]
        books = Books(folder, entries, restores(folder), lost_entries(folder))
        for check in CHECKS:
            found += check(books)
        with world.database() as connection:
            found += orders(books, connection)
            found += outbox.counts(books, connection)
            found += outbox.rejected(books, connection)
        found += stream_equals_store(ledger, entries)
        found += views_equal_replay(ledger, entries)
    return entries, found


def lost_entries(folder: Path) -> set[tuple[int, str]]:
    return {(line["position"], line["hash"]) for line in lines(folder / "lost")}


# ---------------------------------------------------------------------------------------------- what appenders hold


def receipts(books: Books) -> Iterator[Violation]:
    """Every receipt is true, nothing promised is missing, and each voice's entries stand in the order it said them."""
    at = books.at
    for part, its in all_lines(books.folder / "said"):
        before = 0
        for line in standing(its, books.restores):
            entry = at.get(line["position"])
            if entry is None:
                yield Violation("lost", f"{part} {line['n']}: promised at {line['position']}, which is not there")
            elif entry.hash.hex() != line["hash"] or not _is_what_was_said(entry, part, line):
                yield Violation("false", f"{part} {line['n']}: promised at {line['position']}, which is {entry.id}")
            if line["position"] <= before:
                yield Violation("misordered", f"{part} {line['n']}: at {line['position']}, after one at {before}")
            if line["recorded_at"] > line["now"] + 5:
                yield Violation("other", f"{part} {line['n']}: recorded in the future of the database: {line}")
            before = line["position"]


def nothing_else(books: Books) -> Iterator[Violation]:
    """Every entry was said by somebody, once; of a batch none is missing, and none is out of its place."""
    ids = Counter(entry.id for entry in books.entries)
    yield from (Violation("doubled", f"id {id_} is recorded {count} times") for id_, count in ids.items() if count > 1)
    positions = {entry.id: entry.position for entry in books.entries}
    known: set[UUID] = set()
    for part, its in all_lines(books.folder / "said"):
        make = _maker(part)
        last = max((line["n"] + line["count"] for line in its), default=0)
        known.update(make(part, number) for number in range(last + 50))
        for line in standing(its, books.restores):
            if line["count"] > 1:
                yield from _whole_batch(part, line, positions)
    for entry in books.entries:
        ours = entry.action.startswith(OWN_ACTIONS) or entry.resource_type in (ORDER, COUNT) or entry.action == MARK
        if entry.id not in known and not ours:
            yield Violation("doubled", f"entry {entry.position} was said by nobody: {entry.id}")


def _is_what_was_said(entry: Entry, part: str, line: Line) -> bool:
    """Is the entry the event that the receipt was given for (of a batch, the last)?

    An order is known by its number, and what was counted by that.
    """
    if "counted" in line:
        return (entry.resource_type, entry.resource_id) == (COUNT, line["counted"])
    if entry.resource_type == ORDER:
        return entry.resource_id == f"{part}/{line['n']}"
    return entry.id == _maker(part)(part, line["n"] + line["count"] - 1)


def _maker(part: str) -> Callable[[str, int], UUID]:
    """What gives a voice's events their ids."""
    return keyed_id_of if part.endswith("keyed") else id_of


MARK = "simulation.restored"
"""The one event that the simulation says itself: the first after a restore."""


def _whole_batch(part: str, line: Line, positions: dict[UUID, int]) -> Iterator[Violation]:
    found = [positions.get(id_of(part, line["n"] + offset)) for offset in range(line["count"])]
    there = [position for position in found if position is not None]
    if len(there) < len(found):
        yield Violation("lost", f"{part}: of the batch from {line['n']} on {len(found) - len(there)} are missing")
    if there != sorted(there):
        yield Violation("misordered", f"{part}: the batch from {line['n']} on stands at {there}")


def conditions(books: Books) -> Iterator[Violation]:
    """What was recorded under a condition was recorded where it held."""
    counts = [entry.position for entry in books.entries if (entry.resource_type, entry.resource_id) == COUNTER]
    for part, its in all_lines(books.folder / "said"):
        for line in standing(its, books.restores):
            position, since, expected = line["position"], line.get("since"), line.get("expected")
            if since is not None and any(since < other < position for other in counts):
                yield Violation("misordered", f"{part} {line['n']}: at {position}, though it changed after {since}")
            if expected is not None and expected < position != expected + 1:
                yield Violation("misordered", f"{part} {line['n']}: at {position}, expected after {expected}")


def orders(books: Books, connection: psycopg.Connection) -> Iterator[Violation]:
    """An order is there if and only if its entry is."""
    rows = {f"{part}/{number}" for part, number in connection.execute("select part, number from orders")}
    said = Counter(entry.resource_id for entry in books.entries if entry.resource_type == ORDER)
    yield from (Violation("lost", f"order {each} has no entry") for each in sorted(rows - set(said)))
    yield from (Violation("doubled", f"entry without an order: {each}") for each in sorted(set(said) - rows, key=str))
    yield from (Violation("doubled", f"order {each} has {count} entries") for each, count in said.items() if count > 1)
    last = max((restore.t for restore in books.restores), default=0.0)
    for part, its in all_lines(books.folder / "said"):
        for line in its:
            this = f"{part}/{line['n']}"
            if line.get("undone") and this in rows:
                yield Violation("doubled", f"order {this} was undone, and is there")
            if line.get("ordered") and line["t"] > last and this not in rows:
                yield Violation("lost", f"order {this} was there, and is gone")


def erasures(books: Books) -> Iterator[Violation]:
    """What an officer was told of erasures and holds is true."""
    at = books.at
    for name, its in all_lines(books.folder / "erased"):
        for line in standing(its, books.restores):
            entry = at.get(line["position"])
            if entry is None or entry.hash.hex() != line["hash"]:
                yield Violation("lost", f"{name}: promised at {line['position']}: {line}")
            elif "erased" in line and not at[line["erased"]].erased:
                yield Violation("other", f"entry {line['erased']} was erased by entry {entry.position}, and has a body")


# ------------------------------------------------------------------------------------------------ what readers saw


def followers(books: Books) -> Iterator[Violation]:
    """Each saw every entry; within a session in order, none twice, none left out."""
    for name, its in all_lines(books.folder / "followed"):
        yield from _true_entries(books, name, its)
        yield from _saw_all(books, name, its)
        for before, line in pairwise(its):
            if line["session"] == before["session"] and line["position"] != before["position"] + 1:
                kind = "doubled" if line["position"] == before["position"] else "misordered"
                yield Violation(kind, f"{name}: {line['position']} after {before['position']}")


def readers(books: Books) -> Iterator[Violation]:
    """What `tail` and `read` returned is there: a crash took nothing back that was shown."""
    for name, its in all_lines(books.folder / "shown"):
        yield from _true_entries(books, name, its)


def consumers(books: Books) -> Iterator[Violation]:
    """Each group saw every entry at least once; a lone consumer what is new to its group in order."""
    by_group: dict[str, list[Line]] = {}
    for name, its in all_lines(books.folder / "consumed"):
        yield from _true_entries(books, name, its)
        by_group.setdefault(name.partition("-")[0], []).extend(its)
    for group, its in by_group.items():
        yield from _saw_all(books, f"group {group}", its)
    steps = [
        (before["position"], line["position"])
        for before, line in pairwise(line for line in by_group.get(LONE, []) if line["tries"] == 1)
        if line["session"] == before["session"] and line["position"] <= before["position"]
    ]
    if len(steps) > len(lines(books.folder / "forgot")) + len(books.restores):
        yield Violation("misordered", f"group {LONE} went back more often than Redis forgot anything: {steps}")


def _true_entries(books: Books, name: str, its: Sequence[Line]) -> Iterator[Violation]:
    true = {(entry.position, entry.hash.hex()) for entry in books.entries} | books.lost
    for line in its:
        if (line["position"], line["hash"]) not in true:
            yield Violation("other", f"{name} was shown an entry {line['position']} that never was: {line['hash']}")


def _saw_all(books: Books, name: str, its: Sequence[Line]) -> Iterator[Violation]:
    seen = {(line["position"], line["hash"]) for line in its}
    missing = [entry.position for entry in books.entries if (entry.position, entry.hash.hex()) not in seen]
    if missing:
        yield Violation("lost", f"{name} never saw {len(missing)} entries: {missing[:10]}")


# --------------------------------------------------------------------------------------------------- checkpoints


def checkpoints(books: Books) -> Iterator[Violation]:
    """Every checkpoint that came out has the root that its entries make: RFC 6962, computed here once more."""
    wanted: dict[int, set[str]] = {}
    for _, its in all_lines(books.folder / "signed"):
        for line in its:
            if all(line["size"] <= each.base for each in books.restores if each.t > line["t"]):
                wanted.setdefault(line["size"], set()).add(line["root"])
    roots = dict(_roots(books.entries, set(wanted)))
    for size, said in wanted.items():
        if said != {roots.get(size)}:
            yield Violation("other", f"checkpoints of size {size} have the roots {said}, not {roots.get(size)}")


def _roots(entries: Sequence[Entry], sizes: set[int]) -> Iterator[tuple[int, str]]:
    perfect: list[tuple[int, bytes]] = []  # (height, hash) of the perfect subtrees, the largest first
    for size, entry in enumerate(entries, 1):
        node = (0, hashlib.sha256(b"\0" + envelope(entry)).digest())
        while perfect and perfect[-1][0] == node[0]:
            node = (node[0] + 1, _parent(perfect.pop()[1], node[1]))
        perfect.append(node)
        if size in sizes:
            root = perfect[-1][1]
            for _, left in reversed(perfect[:-1]):
                root = _parent(left, root)
            yield size, root.hex()


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


CHECKS: tuple[Check, ...] = (
    receipts,
    nothing_else,
    conditions,
    outbox.recorded,
    erasures,
    followers,
    readers,
    consumers,
    checkpoints,
)
