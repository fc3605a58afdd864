"""The Merkle tree against RFC 6962: its vectors, and a direct implementation of section 2.1."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import ProofRefused, UsageError
from ledger.tlog import merkle
from ledger.tlog.merkle import Node, check_consistency, check_inclusion, leaf_hash, node_hash

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/c2sp.json").read_text())
LEAVES = [b"leaf %d" % number for number in range(80)]


# RFC 6962, sections 2.1, 2.1.1 and 2.1.2, word for word: slow, and independent of what it tests.


def largest_power(below: int) -> int:
    k = 1
    while k * 2 < below:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    if start == end:
        return sha256(b"").digest()
    if end - start == 1:
        return sha256(b"\x00" + LEAVES[start]).digest()
    k = largest_power(end - start)
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    n = end - start
    if n == 1:
        return []
    k = largest_power(n)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, whole: bool) -> list[bytes]:
    n = end - start
    if m == n:
        return [] if whole else [mth(start, end)]
    k = largest_power(n)
    if m <= k:
        return [*subproof(m, start, start + k, whole), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


def nodes_in(leaves: list[bytes]) -> dict[Node, bytes]:
    """Every complete subtree of their tree."""
    row = [leaf_hash(leaf) for leaf in leaves]
    nodes: dict[Node, bytes] = {}
    level = 0
    while row:
        nodes |= {Node(level, index): entry for index, entry in enumerate(row)}
        row = [node_hash(*row[at : at + 2]) for at in range(0, len(row) - 1, 2)]
        level += 1
    return nodes


def test_vectors_of_rfc_6962() -> None:
    vector = VECTORS["rfc6962"]
    assert leaf_hash(b"").hex() == vector["leaf_empty"]
    assert leaf_hash(b"L123456").hex() == vector["leaf_L123456"]
    assert node_hash(b"N123", b"N456").hex() == vector["node_N123_N456"]
    leaves = [bytes.fromhex(leaf) for leaf in vector["leaves_hex"]]
    for size, root in vector["roots_by_size"].items():
        assert merkle.root(int(size), nodes_in(leaves[: int(size)])).hex() == root


def test_a_proof_of_tesseras() -> None:
    vector = VECTORS["inclusion_tessera_index3_size15"]
    hashes = [b64decode(entry) for entry in vector["path"]]
    check_inclusion(3, 15, leaf_hash(vector["leaf_data"].encode()), hashes, b64decode(vector["root"]))
    with pytest.raises(ProofRefused):
        check_inclusion(2, 15, leaf_hash(vector["leaf_data"].encode()), hashes, b64decode(vector["root"]))


@pytest.mark.parametrize("size", range(len(LEAVES) + 1))
def test_roots_and_proofs_are_those_of_the_definition(size: int) -> None:
    nodes = nodes_in(LEAVES[:size])
    root = merkle.root(size, {node: nodes[node] for node in merkle.root_nodes(size)})
    assert root == mth(0, size)
    for index in range(size):
        needed = {node: nodes[node] for node in merkle.nodes_of(merkle.inclusion_ranges(index, size))}
        proof = merkle.inclusion_proof(index, size, needed)
        assert proof == path(index, 0, size)
        check_inclusion(index, size, leaf_hash(LEAVES[index]), proof, root)
    for old in range(size + 1):
        needed = {node: nodes[node] for node in merkle.nodes_of(merkle.consistency_ranges(old, size))}
        proof = merkle.consistency_proof(old, size, needed)
        assert proof == (subproof(old, 0, size, True) if old else [])
        check_consistency(old, mth(0, old), size, root, proof)


def test_a_proof_holds_for_its_own_leaf_size_and_root_only() -> None:
    size = 21
    for index in range(size):
        proof, leaf = path(index, 0, size), leaf_hash(LEAVES[index])
        for other_index in range(-1, size + 2):
            for other_size in range(size + 12):
                if (other_index, other_size) != (index, size):
                    with pytest.raises(ProofRefused):
                        check_inclusion(other_index, other_size, leaf, proof, mth(0, other_size))
        for other in (proof[1:], proof[:-1], [*proof, proof[-1]], proof[::-1], [*proof[:-1], proof[-1][:-1]]):
            with pytest.raises(ProofRefused):
                check_inclusion(index, size, leaf, other, mth(0, size))
        with pytest.raises(ProofRefused):
            check_inclusion(index, size, leaf_hash(LEAVES[index] + b" "), proof, mth(0, size))
        with pytest.raises(ProofRefused):
            check_inclusion(index, size, leaf, proof, mth(0, size - 1))


def test_hashes_have_32_bytes_even_where_their_sum_would_do() -> None:
    """31 bytes before 33 are joined to the same 64."""
    leaf, sibling, root = mth(0, 1), mth(1, 2), mth(0, 2)
    check_inclusion(0, 2, leaf, [sibling], root)
    with pytest.raises(ProofRefused, match="32 bytes"):
        check_inclusion(0, 2, leaf[:-1], [leaf[-1:] + sibling], root)
    with pytest.raises(ProofRefused, match="32 bytes"):
        check_inclusion(0, 2, leaf + sibling[:1], [sibling[1:]], root)


def test_trees_that_do_not_continue_one_another_are_refused() -> None:
    for new in range(1, 24):
        for old in range(1, new + 1):
            proof = subproof(old, 0, new, True)
            for wrong in range(24):
                if wrong != old:
                    with pytest.raises(ProofRefused):
                        check_consistency(old, mth(0, wrong), new, mth(0, new), proof)
                if wrong != new:
                    with pytest.raises(ProofRefused):
                        check_consistency(old, mth(0, old), new, mth(0, wrong), proof)
            for other in (proof[1:], [*proof, mth(0, 1)]):
                if other != proof:
                    with pytest.raises(ProofRefused):
                        check_consistency(old, mth(0, old), new, mth(0, new), other)
            with pytest.raises(ProofRefused):
                check_consistency(new, mth(0, new), old - 1, mth(0, old - 1), proof)


def test_the_empty_tree_is_continued_by_every_tree_and_by_nothing_but_its_own_root() -> None:
    check_consistency(0, merkle.EMPTY_ROOT, 7, mth(0, 7), [])
    for roots in ((mth(0, 1), 7, mth(0, 7)), (merkle.EMPTY_ROOT, 0, mth(0, 1))):
        with pytest.raises(ProofRefused):
            check_consistency(0, *roots, [])
    with pytest.raises(ProofRefused):
        check_consistency(0, merkle.EMPTY_ROOT, 7, mth(0, 7), [mth(0, 7)])


@given(st.data(), st.integers(1, len(LEAVES)))
def test_every_change_of_a_bit_is_refused(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    inclusion = [leaf_hash(LEAVES[index]), mth(0, size), *path(index, 0, size)]
    consistency = [mth(0, old), mth(0, size), *subproof(old, 0, size, True)]
    for values in (inclusion, consistency):

        def check(values: list[bytes], of_a_leaf: bool = values is inclusion) -> None:
            first, root, *proof = values
            if of_a_leaf:
                check_inclusion(index, size, first, proof, root)
            else:
                check_consistency(old, first, size, root, proof)

        check(values)
        at, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 255))
        values[at] = (int.from_bytes(values[at], "big") ^ 1 << bit).to_bytes(32, "big")
        with pytest.raises(ProofRefused):
            check(values)


@given(*[st.integers(-5, 2**65)] * 2, st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=70))
def test_nothing_but_refusals_comes_out_of_the_checks(first: int, second: int, data: bytes, path: list[bytes]) -> None:
    with pytest.raises(ProofRefused):
        check_inclusion(first, second, data, path, bytes(32))
    with pytest.raises(ProofRefused):
        check_consistency(first, data, second, bytes(32), path)


def test_what_makes_no_sense_is_said_where_a_proof_is_made() -> None:
    senseless: list[Callable[[], object]] = [
        lambda: merkle.inclusion_ranges(5, 5),
        lambda: merkle.inclusion_ranges(-1, 5),
        lambda: merkle.consistency_ranges(6, 5),
        lambda: merkle.subtrees(1, 3),
        lambda: merkle.subtrees(2, 1),
        lambda: merkle.root_nodes(2**63),
    ]
    for make in senseless:
        with pytest.raises(UsageError):
            make()
    with pytest.raises(ProofRefused, match="node 2 of level 0 is missing"):
        merkle.root(3, {Node(1, 0): bytes(32)})
