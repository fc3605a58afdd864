"""The Merkle tree of RFC 6962, section 2.1, with SHA-256: hashes, roots, proofs and their checks.

Pure: no input or output.

A tree of `size` leaves is cut into ranges [start, end) as section 2.1 cuts it: at the largest power of two below the
number of leaves. Each such range is a row of complete subtrees of falling size, the Nodes, whose hashes never change
once their leaves are there. Whoever makes a proof asks first which ranges it holds, fetches the hashes of their nodes
from wherever they are kept, and then has the proof put together:

    nodes = nodes_of(inclusion_ranges(index, size))
    path = inclusion_proof(index, size, {node: hash_of(node) for node in nodes})

Hashes are 32 bytes. Leaves count from 0. Sizes and indexes that make no sense raise UsageError when a proof is made,
ProofRefused when one is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from ledger.errors import ProofRefused, UsageError

EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""
HASH_SIZE = 32
MAX_SIZE = 2**63 - 1
"""Leaves of a tree, so that every size and index is a signed 64-bit integer, also for Postgres."""

Range = tuple[int, int]
"""Leaves from the first up to the second, which is not among them."""


class Node(NamedTuple):
    """The complete subtree over the leaves index * 2**level up to (index + 1) * 2**level."""

    level: int
    index: int  # type: ignore[assignment]  # the tuple's own method of that name is of no use here


def split_hashes(joined: bytes) -> list[bytes]:
    """The hashes of 32 bytes that stand one behind the other."""
    return [joined[offset : offset + HASH_SIZE] for offset in range(0, len(joined), HASH_SIZE)]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of what stands over two subtrees: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def subtrees(start: int, end: int) -> list[Node]:
    """The nodes that a range is made of, from left to right: none for an empty one.

    The range must be one that the tree is cut into: `start` is a multiple of the power of two not below its length.
    """
    length = end - start
    if not 0 <= start <= end <= MAX_SIZE or (length and start % (1 << (length - 1).bit_length())):
        raise UsageError(f"the leaves from {start} up to {end} are no subtree of a Merkle tree")
    nodes = []
    while length:
        level = length.bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
        length -= 1 << level
    return nodes


def nodes_of(ranges: Iterable[Range]) -> list[Node]:
    """The nodes of all ranges, in their order: what has to be known to make a proof of them."""
    return [node for start, end in ranges for node in subtrees(start, end)]


def range_hash(start: int, end: int, nodes: Mapping[Node, bytes]) -> bytes:
    """The hash of a range, from those of its nodes: MTH(D[start:end]) of RFC 6962, section 2.1.

    Raises ProofRefused if a node is missing.
    """
    try:
        hashes = [nodes[node] for node in subtrees(start, end)]
    except KeyError as missing:
        level, index = missing.args[0]
        raise ProofRefused(f"the tree's node {index} of level {level} is missing") from None
    if not hashes:
        return EMPTY_ROOT
    result = hashes.pop()
    while hashes:
        result = node_hash(hashes.pop(), result)
    return result


def root_nodes(size: int) -> list[Node]:
    """The nodes that the root of a tree is made of."""
    return subtrees(0, size)


def root(size: int, nodes: Mapping[Node, bytes]) -> bytes:
    """The root of a tree of `size` leaves, from the hashes of `root_nodes(size)`."""
    return range_hash(0, size, nodes)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose hashes are the inclusion proof of a leaf, its sibling first: PATH of RFC 6962, section 2.1.1."""
    if not 0 <= index < size <= MAX_SIZE:
        raise UsageError(f"a tree of {size} leaves has no leaf {index}")
    start, end = 0, size
    ranges = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """The ranges whose hashes are the consistency proof of two sizes: PROOF of RFC 6962, section 2.1.2.

    None for equal sizes, and none from an empty tree, which every tree continues (C2SP tlog-witness, "add-checkpoint").
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise UsageError(f"a tree of {new} leaves cannot continue one of {old}")
    if old in (0, new):
        return []
    start, end = 0, new
    ranges = []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # else the old tree is itself a subtree of the new one, and its root is known
        ranges.append((start, end))
    return ranges[::-1]


def inclusion_proof(index: int, size: int, nodes: Mapping[Node, bytes]) -> list[bytes]:
    """The inclusion proof of a leaf, from the hashes of `nodes_of(inclusion_ranges(index, size))`."""
    return [range_hash(start, end, nodes) for start, end in inclusion_ranges(index, size)]


def consistency_proof(old: int, new: int, nodes: Mapping[Node, bytes]) -> list[bytes]:
    """The consistency proof of two sizes, from the hashes of `nodes_of(consistency_ranges(old, new))`."""
    return [range_hash(start, end, nodes) for start, end in consistency_ranges(old, new)]


def check_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Checks that a tree of that size and root has a leaf of that hash there. Raises ProofRefused if it is not proven.

    The size must come from whoever vouches for the root (a checkpoint): alone, a proof does not bind it.
    """
    ranges = _or_refused(inclusion_ranges, index, size)
    _check_hashes(path, len(ranges), [leaf, root])
    result = leaf
    for (start, _), sibling in zip(ranges, path, strict=True):
        result = node_hash(result, sibling) if index < start else node_hash(sibling, result)
    if result != root:
        raise ProofRefused(f"the inclusion proof of leaf {index} does not lead to the root of the {size} leaves")


def check_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Checks that the new tree begins with all leaves of the old one. Raises ProofRefused if that is not proven."""
    ranges = _or_refused(consistency_ranges, old_size, new_size)
    _check_hashes(path, len(ranges), [old_root, new_root])
    for size, said in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and said != EMPTY_ROOT:
            raise ProofRefused("the root of a tree without leaves is not the empty tree's")
    if old_size == 0:
        return
    hashes = list(path)
    if ranges and ranges[0][1] == old_size:  # the old tree's last part
        ranges, old = ranges[1:], hashes.pop(0)
    else:  # it is one subtree of the new one (or all of it): the proof begins with its root, which is left out
        old = old_root
    new = old
    for (start, _), sibling in zip(ranges, hashes, strict=True):
        if start >= old_size:
            new = node_hash(new, sibling)
        else:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
    if old_size == new_size and new != new_root:
        raise ProofRefused(f"two trees of {new_size} leaves have different roots")
    if old != old_root:
        raise ProofRefused(f"the consistency proof does not lead to the root of the {old_size} leaves")
    if new != new_root:
        raise ProofRefused(f"the {new_size} leaves do not begin with the {old_size} that were there before")


def _split(length: int) -> int:
    """The largest power of two below `length`, which is at least 2."""
    return 1 << ((length - 1).bit_length() - 1)


def _or_refused(ranges: Callable[[int, int], list[Range]], first: int, second: int) -> list[Range]:
    try:
        return ranges(first, second)
    except UsageError as error:
        raise ProofRefused(str(error)) from None


def _check_hashes(path: Sequence[bytes], length: int, others: Sequence[bytes]) -> None:
    if len(path) != length:
        raise ProofRefused(f"the proof holds {len(path)} hashes, not {length}")
    if any(len(entry) != HASH_SIZE for entry in (*path, *others)):
        raise ProofRefused(f"a hash of the proof has not {HASH_SIZE} bytes")
