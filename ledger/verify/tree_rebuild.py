"""Makes a ledger's Merkle tree anew from its envelopes, and compares it with the tiles that are kept. Pure.

A range of entries, which may be checked in a process of its own, is hashed by `Leaves` down to one hash for each full
tile; `Regrown` puts ranges together, in constant memory: a tree over tiles is a tree again, one level of tiles up.

    Leaves       entry by entry; then `tile_findings` compares level 0, and `grown()` is what the rest needs
    Regrown      range by range: the upper levels' tiles, and the root at any size asked for
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ledger.format.findings import Findings
from ledger.tlog.merkle import EMPTY_ROOT, HASH_SIZE, leaf_hash, node_hash, root_nodes, split_hashes
from ledger.tlog.tiles import FULL, HEIGHT, LEVELS, Extended, Tile, edge_root, extend, hashes_of


class Grown(NamedTuple):
    """What a range of leaves came to.

    start: the first leaf, at a tile's beginning. end: the leaf after the last that has all others before it.
    whole: False if entries are missing after that. folded: the hashes of the full tiles, joined. rest: the leaf
    hashes of the last, partial tile. parts: for sizes within the range, the hash over the leaves of the partial tile.
    """

    start: int
    end: int
    whole: bool
    folded: bytes
    rest: bytes
    parts: dict[int, bytes]


class Leaves:
    """The leaf hashes of a range of entries.

    start: the first leaf. known: where that is not a tile's first, the hashes of those before it in its tile, joined.
    """

    def __init__(self, start: int, known: bytes = b"") -> None:
        self.start = start - len(known) // HASH_SIZE
        self.hashes = split_hashes(known)
        self.whole = True
        self.quarantined: set[int] = set()

    @property
    def end(self) -> int:
        return self.start + len(self.hashes)

    def add(self, position: int, envelope: bytes | None, quarantined: bool = False) -> None:
        """The entry at a position; after a gap there is no tree. envelope: None if a forged entry has none."""
        if position - 1 == self.end and self.whole:
            if quarantined:
                self.quarantined.add(len(self.hashes))
            self.hashes.append(leaf_hash(envelope or b""))
        else:
            self.whole = False

    def add_hashes(self, position: int, hashes: bytes) -> None:
        """The same for sound entries, of which the first is at `position`. hashes: of their leaves, joined."""
        if position - 1 == self.end and self.whole:
            self.hashes += split_hashes(hashes)
        else:
            self.whole = False

    def tile_findings(self, rows: Mapping[int, bytes | None], kept: int, findings: Findings) -> None:
        """Compares the tiles of level 0, by index. kept: how many leaves the tiles are of."""
        for start in range(self.start, min(self.end, kept), FULL):
            index = start // FULL
            tile = Tile(0, index, min(FULL, kept - start))
            offset = start - self.start
            self._keep_leaves(offset, rows.get(index) or b"")
            have = b"".join(self.hashes[offset : offset + tile.width])
            row = rows.get(index)
            if row is None or len(row) != tile.width * HASH_SIZE:
                findings.add(start + 1, "tree_mismatch", _no_tile(tile, row))
            elif not row.startswith(have):
                for index_in_tile in _wrong(row, have):
                    detail = "its leaf in the kept tree is not the hash of its envelope"
                    findings.add(start + index_in_tile + 1, "tree_mismatch", detail)

    def _keep_leaves(self, offset: int, row: bytes) -> None:
        """An entry that had its leaf before it was changed and quarantined keeps that; the root tells if it is true."""
        for place in self.quarantined & set(range(offset, offset + len(row) // HASH_SIZE)):
            self.hashes[place] = row[(place - offset) * HASH_SIZE :][:HASH_SIZE]

    def grown(self, sizes: Iterable[int]) -> Grown:
        """sizes: of trees whose roots are wanted; those that end in this range are looked at."""
        tree = extend({}, 0, self.hashes)
        parts = {}
        for size in sizes:
            width = size % FULL
            if width and self.start <= size - width and size <= self.end:
                offset = size - width - self.start
                parts[size] = edge_root({0: b"".join(self.hashes[offset : offset + width])}, width)
        folded = b"".join(hashes for tile, hashes in tree.tiles if tile.level == 1)
        return Grown(self.start, self.end, self.whole, folded, tree.edge.get(0, b""), parts)


class Step(NamedTuple):
    """What a range added. roots: of the trees of the sizes asked for. tiles: the upper ones that it filled."""

    roots: dict[int, bytes]
    tiles: list[tuple[Tile, bytes]]


class Regrown:
    """The tree, range by range.

    size: how many leaves it has. broken: entries are missing after those, so that there is nothing more to know.
    """

    def __init__(self, edge: Mapping[int, bytes] | None = None, size: int = 0) -> None:
        """edge, size: where to go on from (tiles.edge_tiles); else at the beginning."""
        edge = edge or {}
        self.size = size
        self.broken = False
        self.known = edge.get(0, b"")
        """The leaf hashes of the partial tile: where the next range begins, in the middle of a tile."""
        self._upper = Extended(size // FULL, {level - 1: hashes for level, hashes in edge.items() if level}, [])

    def take(self, grown: Grown, sizes: Iterable[int]) -> Step:
        """The next range, and the sizes that end in it."""
        step = Step({}, [])
        if self.broken or grown.start != self.size // FULL * FULL:
            self.broken = True
            return step
        folded = split_hashes(grown.folded)
        done = 0
        for size in sorted(sizes):
            if self.size <= size <= grown.end:
                upto = size // FULL - grown.start // FULL
                self._add(folded[done:upto], step)
                done = upto
                step.roots[size] = self._root(grown.parts.get(size))
        self._add(folded[done:], step)
        self.size, self.known, self.broken = grown.end, grown.rest, not grown.whole
        return step

    def partial_tiles(self) -> list[tuple[Tile, bytes]]:
        """The upper tiles that are not full."""
        upper = self._upper
        places = ((level, (upper.size >> (HEIGHT * level)) // FULL, hashes) for level, hashes in upper.edge.items())
        return [(Tile(level + 1, index, len(hashes) // HASH_SIZE), hashes) for level, index, hashes in places]

    def _add(self, folded: list[bytes], step: Step) -> None:
        self._upper = extend(self._upper.edge, self._upper.size, folded)
        step.tiles.extend(
            (Tile(tile.level + 1, tile.index), hashes) for tile, hashes in self._upper.tiles if tile.width == FULL
        )

    def _root(self, part: bytes | None) -> bytes:
        size, edge = self._upper.size, self._upper.edge
        if not size:
            return EMPTY_ROOT if part is None else part
        whole = edge_root(edge, size)
        if part is None:
            return whole
        rows = {(level, (size >> (HEIGHT * level)) // FULL): hashes for level, hashes in edge.items()}
        nodes = hashes_of(root_nodes(size), rows)
        result = part
        for node in reversed(root_nodes(size)):
            result = node_hash(nodes[node], result)
        return result


def upper_finding(tile: Tile, hashes: bytes, row: bytes | None, kept: int) -> str | None:
    """What is wrong with a kept tile above level 0; None if nothing is.

    tile, hashes: as the entries make it. row: as it is kept. kept: how many leaves the kept tiles are of.
    """
    width = min(FULL, (kept >> (HEIGHT * tile.level)) - tile.index * FULL)
    if width <= 0:
        return None
    stored = tile._replace(width=width)
    if row is None or len(row) != width * HASH_SIZE:
        return _no_tile(stored, row)
    if row[: len(hashes)] != hashes[: len(row)]:
        return f"{stored.path} does not have the hashes of the tiles below it"
    return None


def rows_of(kept: int) -> dict[int, int]:
    """How many tiles each level has in a tree of so many leaves."""
    widths = ((level, kept >> (HEIGHT * level)) for level in range(LEVELS))
    return {level: -(-width // FULL) for level, width in widths if width}


def _no_tile(tile: Tile, row: bytes | None) -> str:
    if row is None:
        return f"{tile.path} is missing"
    return f"{tile.path} has {len(row)} bytes, not {tile.width * HASH_SIZE}"


def _wrong(row: bytes, have: bytes) -> list[int]:
    offsets = range(0, len(have), HASH_SIZE)
    return [
        offset // HASH_SIZE
        for offset in offsets
        if row[offset : offset + HASH_SIZE] != have[offset : offset + HASH_SIZE]
    ]
