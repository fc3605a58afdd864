"""Writes a ledger into a folder as a bundle (format.md, "Bundle"), from one snapshot of its database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ledger.drivers.connections import connect
from ledger.drivers.run import drive
from ledger.effects import Plan, SqlScript
from ledger.errors import ChainBroken, InvalidSetting, UsageError
from ledger.events import GENESIS
from ledger.export.manifest import BODIES, ENVELOPES, MANIFEST, Manifest, unusable
from ledger.export.public_log import LayoutWriter, sorted_files
from ledger.export.quarantined import QUARANTINED, QuarantinedRow
from ledger.files import sync
from ledger.format.findings import Link, Record
from ledger.format.quarantine_record import Mark, body_as_it_stands, digests, flaws, leaf_of, row_json
from ledger.migrate import migrate
from ledger.settings import Settings
from ledger.store import ledgers, quarantine, stored_rows, tree
from ledger.store.durability import commit_and_flush
from ledger.store.stored_rows import SQL, Source
from ledger.tlog.merkle import Node

_STEP = 1_000
"""Entries between two calls of `progress`."""


def export(
    settings: Settings, folder: Path, *, first: int = 1, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """Writes the ledger `settings.name` from position `first` to its tail into `folder`, which must be new or empty.

    Where it has a checkpoint and is written whole, the newest one and the tree that it signs are written beside the
    bundle (public_log.py), for a static web server to serve.
    One snapshot, in constant memory. The folder appears when it is complete and on disk, or not at all. What stands in
    the database is written as it stands: whether it is sound is for `verify_bundle` to say. What is quarantined is also
    written as its columns stand.
    progress: called with how many entries are written, and about how many there are.
    Raises UsageError for an unfit folder, InvalidSetting for a `first` that is not there, UnknownLedger,
    SchemaMismatch, Unavailable; ChainBroken if a forged entry has no lines and is not quarantined, or the ledger no
    tail.
    """
    if first < 1:
        raise InvalidSetting("positions begin at 1")
    folder = folder.absolute()
    with _writing(folder) as draft, ExitStack() as stack:
        files = [stack.enter_context((draft / name).open("wb")) for name in (ENVELOPES, BODIES)]
        connection = connect(settings)
        stack.callback(connection.close)
        manifest = drive(_export(settings.name, first, files, draft, progress), connection)
        (draft / MANIFEST).write_bytes(manifest.encode())
    return manifest


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place once the block has ended well."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: a bundle needs a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield draft
            # Only now: by then most is on disk already, and syncing each of many small files takes little.
            for path in sorted_files(draft):
                sync(path)
            for below, _, _ in os.walk(draft):
                sync(Path(below))
            draft.replace(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise unusable(folder, error) from error


def _export(
    name: str, first: int, files: Sequence[BinaryIO], folder: Path, progress: Callable[[int, int], None] | None
) -> Plan[Manifest]:
    yield SqlScript(SQL["begin"])
    yield from migrate.check_schema(migrate.load_migrations())
    ledger = yield from ledgers.find_ledger(name)
    tail = yield from stored_rows.tail_of(ledger)
    if tail is None or tail.stored is None:
        raise ChainBroken(0, f"ledger {name!r} has no tail: verify it")
    if first > tail.position + 1:
        raise InvalidSetting(f"ledger {name!r} ends at position {tail.position}: there is nothing from {first} on")
    source = yield from stored_rows.source_of(ledger)
    prev = yield from _hash_before(source, first)
    kept = (yield from tree.newest_kept(ledger)) if first == 1 else None
    layout = None if kept is None else LayoutWriter(folder, kept.note, kept.size)
    known: dict[int, list[Mark]] = {}
    for mark in (yield from quarantine.all_marks(ledger, source.entries)):
        known.setdefault(mark.position, []).append(mark)
    leaves = yield from _leaves(source, [position for position in known if kept is not None and position <= kept.size])
    lines = _Lines(name, files, layout, progress, tail.position - first + 1, Passing(name, known, leaves, first, prev))
    yield from stored_rows.records(source, first, lines.take)
    yield from commit_and_flush()  # what the snapshot showed is durable
    lines.end(tail.position)
    if lines.passing.rows:
        (folder / QUARANTINED).write_bytes(b"".join(lines.passing.rows))
    if layout is not None:
        layout.end()
    return Manifest(1, name, first, tail.position, lines.entries, lines.erased, prev.hex(), tail.stored.hex())


def _hash_before(source: Source, first: int) -> Plan[bytes]:
    """The hash of the entry before `first`; what it should have been where that entry is gone cannot be known."""
    if first == 1:
        return GENESIS
    before = yield from stored_rows.newest(source, first - 1, first - 1)
    if before is None or before.stored is None:
        raise ChainBroken(first - 1, "is missing, and the bundle's first `prev` with it: verify the ledger")
    return before.stored


def _leaves(source: Source, positions: Sequence[int]) -> Plan[dict[int, bytes]]:
    """The leaves that entries at these positions have, by position."""
    hashes = yield from tree.nodes(source.ledger, [Node(0, position - 1) for position in positions])
    return {node.index + 1: hash_ for node, hash_ in hashes.items()}


class Passing:
    """What is quarantined, entry by entry: its row as it stands, and what its leaf is of.

    known: the records about it, by position. leaves: of entries that have one in the tree. first, prev: where the
    bundle begins.
    """

    def __init__(
        self,
        ledger: str,
        known: Mapping[int, Sequence[Mark]],
        leaves: Mapping[int, bytes],
        first: int,
        prev: bytes,
    ) -> None:
        self.ledger = ledger
        self.known = known
        self.leaves = leaves
        self.rows: list[bytes] = []
        self.before = Link(first - 1, prev, prev, None)

    def mark_of(self, position: int, records: Sequence[Record]) -> Mark | None:
        """The record by which what stands at the position is passed over; None if it holds, or there is none."""
        present = digests(records)
        named = [mark for mark in self.known.get(position, ()) if mark.names(present)]
        if not named or not flaws(self.ledger, position, records, self.before):
            return None
        self.rows += [QuarantinedRow.encode(row_json(each), body_as_it_stands(each)) for each in records]
        self.before = Link(position, named[-1].hash, named[-1].hash, self.before.recorded)
        return named[-1]


class _Lines:
    """Writes both files' lines, and the public log's files, record by record."""

    def __init__(
        self,
        ledger: str,
        files: Sequence[BinaryIO],
        layout: LayoutWriter | None,
        progress: Callable[[int, int], None] | None,
        total: int,
        passing: Passing,
    ) -> None:
        self.ledger = ledger
        self.passing = passing
        self._group: list[Record] = []
        self.layout = layout
        self.envelopes, self.bodies = files
        self.progress = progress
        self.total = total
        self.entries = 0
        self.erased = 0

    def take(self, record: Record) -> None:
        """The next row; more than one at a position where somebody has broken an index."""
        if self._group and self._group[0].position != record.position:
            self._write_group()
        self._group.append(record)

    def end(self, last: int) -> None:
        """last: the tail's position."""
        if self._group:
            self._write_group()
        self._pass_holes(last + 1)

    def _write_group(self) -> None:
        records, self._group = self._group, []
        position = records[0].position
        self._pass_holes(position)
        mark = self.passing.mark_of(position, records) if position in self.passing.known else None
        if mark is not None and self.layout is not None:
            data = leaf_of(records[0].envelope(self.ledger), mark)
            self.layout.take(position, data, self.passing.leaves.get(position))
        for record in records:
            self._write(record, mark)

    def _pass_holes(self, until: int) -> None:
        """Missing entries that are quarantined have no lines, but leaves."""
        while self.passing.before.position + 1 < until:
            position = self.passing.before.position + 1
            mark = self.passing.mark_of(position, ())
            if mark is None:
                return
            if self.layout is not None:
                self.layout.take(position, mark.hash, self.passing.leaves.get(position))

    def _write(self, record: Record, mark: Mark | None) -> None:
        envelope, body = record.envelope(self.ledger), record.body()
        if mark is None:
            if envelope is None:
                problem = "it has no envelope (a NULL, or a time out of range)"
                raise ChainBroken(record.position, problem, self.ledger)
            if body is not None and b"\n" in body:
                raise ChainBroken(
                    record.position, "its body holds a line break, which no bundle can carry", self.ledger
                )
            self.passing.before = Link(record.position, record.hash, None, record.recorded)
        elif body is not None and b"\n" in body:
            body = None  # the row as it stands has it
        try:
            if envelope is None:
                return
            if self.layout is not None and mark is None:
                self.layout.take(record.position, envelope)
            self.envelopes.write(envelope + b"\n")
            self.bodies.write((body or b"") + b"\n")
        except OSError as error:
            raise unusable(Path(self.envelopes.name).parent, error) from error
        self.entries += 1
        self.erased += body is None
        if self.progress is not None and (self.entries % _STEP == 0 or self.entries == self.total):
            self.progress(self.entries, max(self.entries, self.total))
