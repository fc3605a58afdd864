"""Tiles and entry bundles: paths, sizes around the edges of tiles, growing in steps of any size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle, tiles
from ledger.errors import ProofRefused, UsageError
from ledger.merkle import leaf_hash
from ledger.tiles import ENTRIES, Tile, edge_tiles, extend, tiles_of

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
