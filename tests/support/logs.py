"""A log in memory, made with the package's pure modules: what proofs, tiles and checkpoints are tested on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from ledger.checkpoints.proof import Consistency, Proof
from ledger.events import GENESIS
from ledger.format import canonical
from ledger.tlog import merkle, tiles
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import Node, leaf_hash
from ledger.tlog.note import Verifier, cosign, sign
from ledger.tlog.tiles import Extended, Tile, bundles_of, encode_bundle, extend

STAMP = b"2026-11-22T16:00:00.000007Z"
TIME = int(datetime(2026, 11, 22, 16, tzinfo=UTC).timestamp())


class Log:
    """Chained envelopes from position 1, their tree's tiles as a table would hold them, and keys that sign it."""

    def __init__(self, size: int = 0, name: str = "main") -> None:
        self.name = name
        self.signer = FileSigner(f"log.example/audit/{name}", b"log key".ljust(32))
        self.cosigners = [
            FileSigner(f"witness{number}.example", b"witness key %d".ljust(33) % number) for number in (1, 2)
        ]
        self.envelopes: list[bytes] = []
        self.tree = Extended(0, {}, [])
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.append(size)

    @property
    def key(self) -> Verifier:
        return Verifier.parse(self.signer.vkey)

    @property
    def witnesses(self) -> list[Verifier]:
        return [Verifier.parse(cosigner.vkey).cosigner for cosigner in self.cosigners]

    def body(self, index: int) -> bytes:
        return canonical.body_bytes(None, b'{"number":%d}' % index, None, index.to_bytes(16, "big"))

    def append(self, count: int, actor: str = "user:42") -> None:
        prev = canonical.digest(self.envelopes[-1]) if self.envelopes else GENESIS
        new = []
        for index in range(len(self.envelopes), len(self.envelopes) + count):
            envelope = canonical.envelope_from(
                *(self.name, index + 1, str(UUID(int=index)).encode(), STAMP, STAMP, actor, "user"),
                *("invoice.updated", "invoice", f"inv_{index}", canonical.digest(self.body(index)), prev),
            )
            prev = canonical.digest(envelope)
            new.append(envelope)
        self.grow(new)

    def grow(self, new: list[bytes]) -> None:
        """More envelopes, as they are."""
        self.envelopes += new
        self.tree = extend(self.tree.edge, self.tree.size, list(map(leaf_hash, new)))
        self.tiles |= {tile[:2]: hashes for tile, hashes in self.tree.tiles}

    def nodes(self, ranges: list[merkle.Range]) -> dict[Node, bytes]:
        return tiles.hashes_of(merkle.nodes_of(ranges), self.tiles)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        size = self.tree.size if size is None else size
        return Checkpoint(self.signer.name, size, merkle.root(size, self.nodes([(0, size)])))

    def note(self, size: int | None = None, witnesses: int = 2) -> bytes:
        """The checkpoint at that size, signed, and cosigned by so many witnesses."""
        text = self.checkpoint(size).text
        return sign(text, [self.signer], [cosign(text, cosigner, TIME) for cosigner in self.cosigners[:witnesses]])

    def path(self, index: int, size: int | None = None) -> list[bytes]:
        size = self.tree.size if size is None else size
        return merkle.inclusion_proof(index, size, self.nodes(merkle.inclusion_ranges(index, size)))

    def consistency(self, old: int, new: int) -> list[bytes]:
        return merkle.consistency_proof(old, new, self.nodes(merkle.consistency_ranges(old, new)))

    def proof(self, index: int, size: int | None = None, body: bool = False) -> Proof:
        envelope = self.envelopes[index]
        return Proof(
            envelope, self.body(index) if body else None, index, tuple(self.path(index, size)), self.note(size)
        )

    def consistency_proof(self, old: int, new: int) -> Consistency:
        return Consistency(tuple(self.consistency(old, new)), self.note(old), self.note(new))

    def publish(self, folder: Path) -> None:
        """The layout of tlog-tiles, as a web server would serve it: every tile and bundle, and the checkpoint."""
        for tile in (*tiles.tiles_of(self.tree.size), *bundles_of(self.tree.size)):
            path = folder / tile.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content(tile))
        (folder / "checkpoint").write_bytes(self.note())

    def content(self, tile: Tile) -> bytes:
        if tile.level == tiles.ENTRIES:
            start = tile.index * tiles.FULL
            return encode_bundle(self.envelopes[start : start + tile.width])
        return self.tiles[tile[:2]][: tile.width * merkle.HASH_SIZE]


INSTALL_PYTHON = "not installed: pip install 'auditledger[verifiers]'"


def false(hashes: list[bytes]) -> list[bytes]:
    """The same with one bit of the last one changed."""
    return [*hashes[:-1], bytes([hashes[-1][0] ^ 1]) + hashes[-1][1:]]
