"""Jobs that sign: a checkpoint, published and cosigned; and a key that takes another's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import Entry, Ledger
from ledger.checkpoints.keys import create_key, read_key, state_beside
from ledger.checkpoints.publishers import AnyPublisher
from ledger.checkpoints.state import locked
from ledger.store import tree
from ledger.store.tree import Head
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.note import parse_note, verified_by
from ledger.tlog.tiles import FULL
from ledger.tlog.witness_client import Witnesses
from tests.faults.crashing.jobs import Job, Tell, World, again, check_receipts
from tests.support.helpers import checked

NAME = "log.example/audit/main"


@dataclass
class Sign(Job):
    """A checkpoint of a tree that has grown by more than a tile, cosigned, and published in a folder and in Redis.

    witness: whom to ask, as URL+VKEY.
    """

    witness: str = ""

    count = FULL + 1

    @property
    def key(self) -> Path:
        return self.folder / "main.key"

    def prepare(self, world: World) -> None:
        world.ledger.append_many(self.events(self.count))

    def run(self, tell: Tell) -> None:
        publish: list[AnyPublisher] = [self.folder / "log", "redis"]
        with Ledger(self.settings) as ledger:
            cosign = Witnesses([self.witness])
            tell(again(lambda: ledger.checkpoint(self.key, publish=publish, cosign=cosign)).note)

    def look(self, world: World) -> None:
        """No signature came out that the key does not remember; what came out last, and the tiles, are the ledger's."""
        notes = self.notes(world)[-3:]
        if notes:
            report = world.ledger.verify(checkpoints=notes, keys=[read_key(self.key).vkey], incremental=True)
            assert report.ok, report.findings
        with locked([state_beside(self.key)], NAME, 1.0) as [state]:
            assert all(_size(note) <= state.head.size for note in notes)

    def notes(self, world: World) -> list[bytes]:
        """All that came out, by their sizes."""
        kept = [each.note for each in world.ledger.run(tree.all_kept(world.ledger.ref))]
        published = [path.read_bytes() for path in (self.folder / "log/checkpoints").glob("[0-9]*")]
        return sorted(kept + published, key=_size)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        self.look(world)
        tail = world.ledger.tail()
        notes = [note for (note,) in told]
        assert len(set(notes)) == 1, "two notes of one checkpoint"
        assert _size(notes[0]) == tail.position
        assert (self.folder / "log/checkpoint").read_bytes() == notes[0]
        kept = world.ledger.run(tree.newest_kept(world.ledger.ref))
        assert kept is not None
        assert kept.note == notes[0]
        with locked([state_beside(self.key)], NAME, 1.0) as [state]:
            assert state.head == Head(tail.position, kept.root, tail.hash)


@dataclass
class Rotate(Job):
    """A new key takes the place of the one before it, and both sign."""

    keys: Sequence[Path] = ()

    def prepare(self, world: World) -> None:
        # Few, because the run that fills a tile, of 256 entries, has an effect more than the others.
        world.ledger.append(self.event(0))
        keys = sorted(self.folder.glob("*.key"))
        if not keys:
            keys.append(self.folder / "0000.key")
            create_key(keys[0], NAME)
            world.ledger.checkpoint(keys[0])
        new = self.folder / f"{len(keys):04}.key"
        create_key(new, NAME)
        self.keys = keys[-1], new

    def run(self, tell: Tell) -> None:
        with Ledger(self.settings) as ledger:
            tell("rotated", again(lambda: ledger.rotate_key(*self.keys)))
            again(lambda: ledger.checkpoint(*self.keys))

    def look(self, world: World) -> None:
        """A key that the ledger says has taken over remembers what the one before it signed."""
        kept = world.ledger.run(tree.newest_kept(world.ledger.ref))
        assert kept is not None
        if self._said(checked(world.ledger)):
            with locked([state_beside(self.keys[1])], NAME, 1.0) as [state]:
                assert state.head.size >= kept.size

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        entries = checked(world.ledger)
        check_receipts(entries, told)
        assert len(self._said(entries)) == 1
        kept = world.ledger.run(tree.newest_kept(world.ledger.ref))
        assert kept is not None
        assert kept.size == len(entries)
        verifiers = [read_key(key).verifier for key in self.keys]
        assert verified_by(parse_note(kept.note), verifiers) == verifiers
        report = world.ledger.verify(checkpoints=[kept.note], keys=[each.vkey for each in verifiers], incremental=True)
        assert report.ok, report.findings
        with locked([state_beside(key) for key in self.keys], NAME, 1.0) as [old, new]:
            assert old.head == new.head == Head(kept.size, kept.root, entries[-1].hash)

    def _said(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that say so."""
        old, new = (read_key(key).vkey for key in self.keys)
        return [entry for entry in entries if entry.metadata == {"old": old, "new": new}]


def _size(note: bytes) -> int:
    return Checkpoint.of(note).size
