"""Tiles and entry bundles: paths, sizes around tile edges, growth in steps of any size."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import ProofRefused, UsageError
from ledger.tlog import merkle, tiles
from ledger.tlog.merkle import Node, leaf_hash, node_hash
from ledger.tlog.tiles import (
    ENTRIES,
    FULL,
    Tile,
    bundles_of,
    decode_bundle,
    edge_tiles,
    encode_bundle,
    extend,
    hash_of,
    tile_of,
    tiles_of,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/tree.json").read_text())
MOST = max(vector["size"] for vector in VECTORS["trees"])

PATHS = {
    "tile/0/000": Tile(0, 0),
    "tile/0/x001/x234/067": Tile(0, 1234067),
    "tile/0/x001/x234/067.p/8": Tile(0, 1234067, 8),
    "tile/2/999.p/255": Tile(2, 999, 255),
    "tile/1/x001/000": Tile(1, 1000),
    "tile/entries/x123/456": Tile(ENTRIES, 123456),
    "tile/entries/017.p/1": Tile(ENTRIES, 17, 1),
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_are_those_of_tlog_tiles(path: str) -> None:
    assert PATHS[path].path == path
    assert Tile.parse(path) == PATHS[path]


@pytest.mark.parametrize(
    "path",
    (
        "",
        "tile/0/0",
        "tile/0/1000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/00/001",
        "tile/-1/001",
        "tile/64/001",
        "tile/99/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0/٠٠١",
        "tile/0/001\n",
        "tile/8/000",
        "tile/data/000",
        "tile/0/" + "x999/" * 7 + "999",
        "tile/0/" + "x999/" * 2000 + "999",
    ),
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ProofRefused):
        Tile.parse(path)


def test_a_tree_of_70000_is_represented_as_the_document_says() -> None:
    by_level: dict[int, list[int]] = {}
    for tile in tiles_of(70_000):
        by_level.setdefault(tile.level, []).append(tile.width)
    assert by_level == {0: [256] * 273 + [112], 1: [256, 17], 2: [1]}
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


def grown(leaves: list[bytes], steps: list[int]) -> tuple[tiles.Extended, dict[tuple[int, int], bytes]]:
    """The tree of all leaves, made in steps, and its tiles as a table would hold them."""
    state, stored = tiles.Extended(0, {}, []), dict[tuple[int, int], bytes]()
    for step in steps:
        before = state.size
        state = extend(state.edge, state.size, leaves[before : before + step])
        assert [tile for tile, _ in state.tiles] == list(tiles_of(state.size, after=before))
        for tile, hashes in state.tiles:
            assert len(hashes) == 32 * tile.width
            assert hashes.startswith(stored.get(tile[:2], b"")), "a tile only grows by appending"
            stored[tile[:2]] = hashes
    assert state.size == len(leaves)
    return state, stored


@given(st.lists(st.integers(0, 700), max_size=8))
@settings(max_examples=40)
def test_the_steps_make_no_difference(steps: list[int]) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(sum(steps))]
    state, stored = grown(leaves, steps)
    whole = extend({}, 0, leaves)
    assert (whole.size, whole.edge) == (state.size, state.edge)
    assert {tile[:2]: hashes for tile, hashes in whole.tiles} == stored
    assert {tile.level: whole.edge[tile.level] for tile in edge_tiles(state.size)} == state.edge
    assert state.edge_root() == merkle.root(len(leaves), tiles.hashes_of(merkle.root_nodes(len(leaves)), stored))


def test_an_edge_that_is_not_the_trees_is_refused() -> None:
    state = extend({}, 0, [leaf_hash(b"%d" % number) for number in range(300)])
    for edge, size in ((state.edge, 299), (state.edge, 300 + 65536), ({0: state.edge[0]}, 300), ({}, 300)):
        with pytest.raises(ProofRefused):
            extend(edge, size, [])
        with pytest.raises(ProofRefused):
            tiles.edge_root(edge, size)
    with pytest.raises(UsageError):
        extend({}, 0, [b"short"])


@cache
def leaf_hashes() -> list[bytes]:
    """Of the vectors' leaves."""
    return [leaf_hash(b"entry %d" % number) for number in range(MOST)]


@pytest.mark.parametrize("vector", VECTORS["trees"], ids=lambda vector: str(vector["size"]))
def test_our_vectors_are_reproduced(vector: dict[str, Any]) -> None:
    size = vector["size"]
    state, stored = grown(leaf_hashes()[:size], [size // 3, size // 2, size - size // 3 - size // 2])
    content = {tile.path: stored[tile[:2]] for tile in tiles_of(size)}
    for bundle in bundles_of(size):
        start = bundle.index * FULL
        content[bundle.path] = encode_bundle(b"entry %d" % number for number in range(start, start + bundle.width))
    everything = b"".join(path.encode() + b"\n" + content[path] for path in sorted(content))
    assert state.edge_root().hex() == vector["root"]
    assert len(content) == vector["tiles"]
    assert {path: sha256(content[path]).hexdigest() for path in content if ".p/" in path} == vector["partial"]
    assert sha256(everything).hexdigest() == vector["sha256_of_all"]
    for index, path in vector["inclusion"].items():
        nodes = tiles.hashes_of(merkle.nodes_of(merkle.inclusion_ranges(int(index), size)), stored)
        assert [entry.hex() for entry in merkle.inclusion_proof(int(index), size, nodes)] == path


@pytest.mark.parametrize("size", (1, 255, 256, 257, 1000))
def test_every_node_is_found_in_its_tile(size: int) -> None:
    stored = {tile[:2]: hashes for tile, hashes in extend({}, 0, leaf_hashes()[:size]).tiles}
    row, level = leaf_hashes()[:size], 0
    while row:
        for index, entry in enumerate(row):
            node = Node(level, index)
            tile = tile_of(node, size)
            assert tile in list(tiles_of(size))
            assert hash_of(node, stored[tile[:2]]) == entry
            assert tiles.hashes_of([node], stored) == {node: entry}
        with pytest.raises(UsageError):
            tile_of(Node(level, len(row)), size)
        row = [node_hash(*row[at : at + 2]) for at in range(0, len(row) - 1, 2)]
        level += 1


def test_tiles_that_are_missing_or_too_narrow_are_refused() -> None:
    hashes = b"".join(leaf_hashes()[:5])
    assert hash_of(Node(2, 0), hashes) == hash_of(Node(2, 0), hashes[:-32])
    for node in (Node(0, 5), Node(1, 2), Node(2, 1), Node(7, 1)):
        with pytest.raises(ProofRefused, match="does not hold node"):
            hash_of(node, hashes)
    with pytest.raises(ProofRefused, match="tile/1/x001/234 is missing"):
        tiles.hashes_of([Node(8, 1234 * 256)], {(0, 0): hashes})


@given(st.integers(0, 2**40), st.integers(0, 100_000))
def test_what_a_larger_tree_has_more_are_its_last_tiles(size: int, more: int) -> None:
    """Whether new, or wider than before."""
    new = list(tiles_of(size + more, after=size))
    last = {level: (size + more) >> (8 * level) for level in range(8)}
    for tile in new:
        assert tile.index * FULL + tile.width > size >> (8 * tile.level)
        assert tile.width == min(FULL, last[tile.level] - tile.index * FULL)
        assert Tile.parse(tile.path) == tile
    reached = {
        level: max((tile.index * FULL + tile.width for tile in new if tile.level == level), default=0) for level in last
    }
    assert all(reached[level] in (0, last[level]) for level in last)
    assert all(reached[level] or last[level] == size >> (8 * level) for level in last)
    assert list(bundles_of(size + more, after=size)) == [
        tile._replace(level=ENTRIES) for tile in new if tile.level == 0
    ]


@given(st.integers(-1, 7), st.integers(0, 2**63), st.integers(1, 256))
def test_paths_are_read_as_they_are_written(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    if (index * FULL + width) << (8 * max(level, 0)) < 2**63:
        assert Tile.parse(tile.path) == tile
    else:
        with pytest.raises(ProofRefused):
            Tile.parse(tile.path)


@given(st.text(max_size=80) | st.text("tile/0123456789x.pentries", max_size=80))
def test_nothing_but_refusals_comes_out_of_paths(path: str) -> None:
    with suppress(ProofRefused):
        assert Tile.parse(path).path == path


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_bundles_are_read_as_they_are_written(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


@given(st.binary(max_size=3000))
def test_nothing_but_refusals_comes_out_of_bundles(data: bytes) -> None:
    with suppress(ProofRefused):
        assert encode_bundle(decode_bundle(data)) == data


def test_bundles_that_are_cut_off_or_hold_too_many_are_refused() -> None:
    data = encode_bundle([b"first", b"", b"x" * 65_535])
    assert decode_bundle(data) == [b"first", b"", b"x" * 65_535]
    for cut in (data[:-1], data[:10], data[:8], data[:1], b"", encode_bundle([b""] * 257)):
        with pytest.raises(ProofRefused):
            decode_bundle(cut)
    with pytest.raises(UsageError, match="does not fit"):
        encode_bundle([b"x" * 65_536])
