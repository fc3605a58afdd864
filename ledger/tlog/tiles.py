"""The Merkle tree in tiles, and entries in bundles, as C2SP tlog-tiles lays them out. Pure: no input or output.

A tile at level l holds up to 256 consecutive hashes of the tree's level 8 * l, joined; a full one has a hash of its own
in the tile above. Only the last tile of a level may be partial, and those partial tiles, the edge, are all that must be
known to go on:

    grown = extend(edge, size, [leaf_hash(envelope) for envelope in envelopes])
    grown.tiles         the tiles to store
    grown.edge_root()   what a checkpoint signs

and `extend` again from there, batch by batch. What it costs grows with the new leaves, not with the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ledger.errors import ProofRefused, UsageError
from ledger.tlog.merkle import HASH_SIZE, MAX_SIZE, Node, root, root_nodes

HEIGHT = 8
FULL = 1 << HEIGHT
"""Hashes of a full tile, entries of a full bundle."""
ENTRIES = -1
"""The level of entry bundles, whose paths begin with `tile/entries/`."""
LEVELS = 63 // HEIGHT + 1
"""Levels of tiles that a tree of MAX_SIZE leaves has."""
MAX_ENTRY = 0xFFFF
"""Bytes of an entry in a bundle: its length is a uint16."""

_FULL_BYTES = FULL * HASH_SIZE
_LONGEST_PATH = 64
_PATH = re.compile(
    r"tile/(?P<level>0|[1-9][0-9]?|entries)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class Tile(NamedTuple):
    """Where a tile or bundle stands: its level (ENTRIES for a bundle), its index there, and how many hashes or entries
    it holds."""

    level: int
    index: int  # type: ignore[assignment]  # the tuple's own method of that name is of no use here
    width: int = FULL

    @property
    def path(self) -> str:
        """Where it is served and stored (tlog-tiles, "Merkle Tree"): `tile/0/x001/x234/067`, partial `….p/17`."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        *above, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == FULL else f".p/{self.width}"
        return f"tile/{level}/{''.join(f'x{part}/' for part in above)}{last}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """The tile of a path. Raises ProofRefused if that is none, or another spelling of one."""
        match = _PATH.fullmatch(path) if len(path) <= _LONGEST_PATH else None
        if match is not None:
            level = ENTRIES if match["level"] == "entries" else int(match["level"])
            index = int(match["index"].replace("x", "").replace("/", ""))
            tile = cls(level, index, int(match["width"] or FULL))
            if tile.path == path and (index * FULL + tile.width) << (HEIGHT * max(level, 0)) <= MAX_SIZE:
                return tile
        raise ProofRefused(f"{path[:_LONGEST_PATH]!r} is not the path of a tile")


class Extended(msgspec.Struct, frozen=True):
    """A tree that was extended.

    edge: the partial tile of each level that has one, by level; with `size`, all that is needed to go on.
    tiles: the tiles that are new or wider than before, each with its hashes, joined: level by level from the leaves up,
    and from left to right.
    """

    size: int
    edge: dict[int, bytes]
    tiles: list[tuple[Tile, bytes]]

    def edge_root(self) -> bytes:
        """The tree's root, 32 bytes."""
        return edge_root(self.edge, self.size)


def tile_of(node: Node, size: int = MAX_SIZE) -> Tile:
    """The tile that a node's hash is in or is made from, as wide as it is in a tree of `size` leaves.

    Raises UsageError if that tree has no such node.
    """
    if not 0 <= node.index < size >> node.level:
        raise UsageError(f"a tree of {size} leaves has no node {node.index} at level {node.level}")
    level, above = divmod(node.level, HEIGHT)
    index = node.index << above >> HEIGHT
    return Tile(level, index, min(FULL, (size >> (HEIGHT * level)) - index * FULL))


def hash_of(node: Node, hashes: bytes) -> bytes:
    """The hash of a node, from the joined hashes of its tile (`tile_of`). Raises ProofRefused if that is too narrow."""
    above = node.level % HEIGHT
    start = (node.index << above) % FULL * HASH_SIZE
    end = start + (HASH_SIZE << above)
    if end > len(hashes):
        raise ProofRefused(f"a tile of {len(hashes)} bytes does not hold node {node.index} of level {node.level}")
    return _folded(hashes[start:end])


def hashes_of(nodes: Iterable[Node], tiles: Mapping[tuple[int, int], bytes]) -> dict[Node, bytes]:
    """The hashes of nodes, as `merkle` asks for them, from tiles by (level, index).

    Raises ProofRefused if a tile is missing or too narrow.
    """
    hash_by_node = {}
    for node in nodes:
        level, index, _ = tile_of(node)
        hashes = tiles.get((level, index))
        if hashes is None:
            raise ProofRefused(f"the tile {Tile(level, index).path} is missing")
        hash_by_node[node] = hash_of(node, hashes)
    return hash_by_node


def tiles_of(size: int, after: int = 0) -> Iterator[Tile]:
    """The tiles of a tree of `size` leaves, full and partial, from the leaves up and from left to right.

    after: leave out those that a tree of that many leaves has too, just as wide.
    """
    level = 0
    while size >> (HEIGHT * level):
        yield from _row(level, size >> (HEIGHT * level), after >> (HEIGHT * level))
        level += 1


def bundles_of(size: int, after: int = 0) -> Iterator[Tile]:
    """The entry bundles of a tree of `size` leaves; `after` as in `tiles_of`."""
    return _row(ENTRIES, size, after)


def edge_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree: what `extend` must be given to go on from it."""
    widths = ((level, size >> (HEIGHT * level)) for level in range(LEVELS))
    return [Tile(level, width // FULL, width % FULL) for level, width in widths if width % FULL]


def edge_root(edge: Mapping[int, bytes], size: int) -> bytes:
    """The root of a tree, from its edge alone: 32 bytes. Raises ProofRefused if that is not the edge of such a tree."""
    rows = {(tile.level, tile.index): edge[tile.level] for tile in _checked_edge(edge, size)}
    return root(size, hashes_of(root_nodes(size), rows))


def extend(edge: Mapping[int, bytes], size: int, leaf_hashes: Sequence[bytes]) -> Extended:
    """A tree of `size` leaves with more leaves.

    edge: the joined hashes of the partial tile of each level that has one (`edge_tiles`), by level.
    leaf_hashes: 32 bytes each. Batches of some thousands bound the memory; the result does not depend on their sizes.
    Raises ProofRefused if `edge` is not the edge of such a tree.
    """
    _checked_edge(edge, size)
    if any(len(leaf) != HASH_SIZE for leaf in leaf_hashes):
        raise UsageError(f"a leaf's hash has {HASH_SIZE} bytes")
    after = size + len(leaf_hashes)
    if after > MAX_SIZE:
        raise UsageError(f"a tree has at most {MAX_SIZE} leaves")
    partial: dict[int, bytes] = {}
    tiles: list[tuple[Tile, bytes]] = []
    level, new = 0, b"".join(leaf_hashes)
    while new:
        row = edge.get(level, b"") + new
        index = (size >> (HEIGHT * level)) // FULL
        whole = len(row) // _FULL_BYTES * _FULL_BYTES
        full = [row[at : at + _FULL_BYTES] for at in range(0, whole, _FULL_BYTES)]
        tiles += ((Tile(level, index + at), hashes) for at, hashes in enumerate(full))
        if whole < len(row):
            partial[level] = row[whole:]
            tiles.append((Tile(level, index + len(full), (len(row) - whole) // HASH_SIZE), partial[level]))
        new = b"".join(map(_folded, full))
        level += 1
    partial |= {above: hashes for above, hashes in edge.items() if above >= level}  # nothing new got up there
    return Extended(after, partial, tiles)


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The bytes of an entry bundle (tlog-tiles, "Log entries"): each entry after its length, a big-endian uint16.

    Raises UsageError for an entry that is too long.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise UsageError(f"an entry of {len(entry)} bytes does not fit into a bundle; at most {MAX_ENTRY} do")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises ProofRefused if it is cut off, empty, or holds more than 256."""
    entries = []
    end = 0
    while end < len(data):
        first = end + 2
        end = first + int.from_bytes(data[end:first], "big")
        entries.append(data[first:end])
    if end != len(data):
        raise ProofRefused("the entry bundle is cut off")
    if not 1 <= len(entries) <= FULL:
        raise ProofRefused(f"the entry bundle holds {len(entries)} entries, not 1 to {FULL}")
    return entries


def _row(level: int, length: int, after: int) -> Iterator[Tile]:
    """The tiles of one level with `length` hashes that one with `after` hashes has not."""
    for index in range(after // FULL, -(-length // FULL)):
        width = min(FULL, length - index * FULL)
        if index * FULL + width > after:
            yield Tile(level, index, width)


def _checked_edge(edge: Mapping[int, bytes], size: int) -> list[Tile]:
    tiles = edge_tiles(size)
    if {tile.level: tile.width * HASH_SIZE for tile in tiles} != {level: len(part) for level, part in edge.items()}:
        raise ProofRefused(f"the partial tiles at hand are not those of a tree of {size} leaves")
    return tiles


def _folded(hashes: bytes) -> bytes:
    """The hash over a power of two of joined hashes."""
    while len(hashes) > HASH_SIZE:
        pairs = range(0, len(hashes), 2 * HASH_SIZE)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_SIZE]).digest() for at in pairs])
    return hashes
