"""The Merkle tree of a ledger in its tiles, and the checkpoints that were signed of it. Plans.

`extend` brings the tiles up to the ledger's tail. It begins at the newest head that the caller trusts, whose root and
entry hash the database must still have, and reads only the entries after it: what it costs grows with what is new. Each
of them is checked as `verify` does it (chain, envelope, body), so that nothing is signed that does not hold.

Whoever makes proofs takes what they need from `nodes`, which reads a few tiles however large the tree is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

import msgspec

from ledger import merkle, store, tiles
from ledger.effects import Pipeline, Plan, Query, Refused, sql
from ledger.errors import ChainBroken, EntryUnreadable, ProofRefused, SigningRefused, UsageError
from ledger.events import GENESIS, Tail
from ledger.findings import Findings, Link
from ledger.merkle import EMPTY_ROOT, HASH_SIZE, Node, leaf_hash
from ledger.note import Note, parse_note, parse_signatures
from ledger.quarantine import passed
from ledger.scan import Leaf, check_range, source_of
from ledger.store import BEGIN, FAR, LedgerRef
from ledger.tiles import Tile, edge_root, edge_tiles

SQL = sql("tree")
_BATCH = 8192
"""Entries that are read and hashed at a time."""
_CHANGED = ("LE004", "LE020")
"""SQLSTATEs of a tile that would change, or is not what the entries make (schema/0002, 0009)."""


class Head(NamedTuple):
    """A ledger at one size: its tree's root, and the hash of entry `size` (None where only the root is known)."""

    size: int
    root: bytes
    hash: bytes | None


NOTHING = Head(0, EMPTY_ROOT, GENESIS)
"""Every ledger continues it."""


class Kept(NamedTuple):
    """A checkpoint as the database keeps it. note: the signed note."""

    size: int
    root: bytes
    note: bytes
    signed_at: datetime


# -------------------------------------------------------------------------------------------------------- extending


def extend(
    ledger: LedgerRef, trusted: Sequence[Head] = (), progress: Callable[[int, int], None] | None = None
) -> Plan[Head]:
    """Brings the tiles up to the ledger's tail, in a transaction of its own. The head of it. Sync only.

    trusted: what was signed before. The ledger must continue all of it; entries up to the newest that has a hash are
    not read again. progress: called with how many entries are done, and how many there are to do.
    Raises SigningRefused where the ledger does not continue what is trusted, ChainBroken where an entry does not hold.
    """
    yield Pipeline((BEGIN, Query(SQL["search_path"])))
    yield Query(SQL["lock"], (ledger.ledger_id,))
    tail = yield from store.tail_of(ledger)
    stored = yield from size(ledger)
    yield from _check_entries(ledger, tail, stored, trusted)
    base = max((head for head in trusted if head.hash is not None and head.size <= stored), default=NOTHING)
    edge = yield from _edge(ledger, base)
    head = yield from _extend(ledger, base, edge, tail, stored, progress)
    for each in trusted:
        if each.size != base.size:
            yield from _check_root(ledger, each, base)
        elif each.root != base.root:
            raise SigningRefused("forked", f"two different roots were signed for the first {each.size} entries")
    yield Query(SQL["commit"])
    return head


def _check_entries(ledger: LedgerRef, tail: Tail, stored: int, trusted: Sequence[Head]) -> Plan[None]:
    """Are the entries that were signed still there, as far as their hashes tell?"""
    most = max((head.size for head in trusted), default=0)
    if tail.position < max(most, stored):
        signed = "were signed" if most >= stored else "are in its tree"
        raise SigningRefused(
            "truncated", f"ledger {ledger.name!r} ends at position {tail.position}, and {max(most, stored)} {signed}"
        )
    for head in trusted:
        if head.size and head.hash is not None:
            rows = yield Query(store.SQL["hash_at"], (ledger.ledger_id, head.size))
            if not rows or rows[0][0] != head.hash:
                stands_for_it = yield from passed(ledger, head.size, tail.recorded_at)
                if stands_for_it is not None and stands_for_it.hash == head.hash:
                    continue
                found = "is gone" if not rows else "is not the one that was signed"
                raise SigningRefused("rewritten", f"entry {head.size} of ledger {ledger.name!r} {found}")


def _edge(ledger: LedgerRef, base: Head) -> Plan[dict[int, bytes]]:
    """The partial tiles of the tree at the size of `base`, which must have its root."""
    try:
        found = yield from _rows(ledger, edge_tiles(base.size))
        edge = {tile.level: found[tile[:2]][: tile.width * HASH_SIZE] for tile in edge_tiles(base.size)}
        root = edge_root(edge, base.size)
    except (KeyError, ProofRefused):
        root = None
    if root != base.root:
        raise SigningRefused(
            "tree_mismatch",
            f"the tiles of ledger {ledger.name!r} do not give the root that was signed for its first {base.size} "
            "entries, whose newest is still the same: run 'auditledger verify'",
        )
    return edge


def _extend(
    ledger: LedgerRef,
    base: Head,
    edge: Mapping[int, bytes],
    tail: Tail,
    stored: int,
    progress: Callable[[int, int], None] | None,
) -> Plan[Head]:
    source = yield from source_of(ledger)
    at, last = base.size, Link(base.size, base.hash, base.hash, None)
    partial: dict[int, tuple[Tile, bytes]] = {}
    while at < tail.position:
        leaves = _Leaves(at)
        end = min(at + _BATCH, tail.position)
        span = yield from check_range(source, at + 1, end, 1, last, leaves.anew, tail.position)
        _check_findings(ledger, span.findings)
        if len(leaves.hashes) < end - at:
            problem = f"there is no such entry, but the tail is at {tail.position}; nothing was signed"
            raise ChainBroken(span.last.position + 1, problem, ledger.name)
        yield from _keep_leaves(ledger, leaves, stored)
        grown = tiles.extend(edge, at, leaves.hashes)
        for tile, hashes in grown.tiles:
            partial[tile.level] = tile, hashes
        # Partial tiles are written once, at the end: each time costs Postgres the whole row.
        yield from _write(ledger, [(tile, hashes) for tile, hashes in grown.tiles if tile.width == tiles.FULL])
        at, edge, last = grown.size, grown.edge, span.last
        if progress is not None:
            progress(at - base.size, tail.position - base.size)
    yield from _write(ledger, [(tile, hashes) for tile, hashes in partial.values() if tile.width < tiles.FULL])
    if tail.position and last.stored != tail.hash:
        raise ChainBroken(tail.position, "its hash is not the one that the tail has; nothing was signed", ledger.name)
    return Head(at, edge_root(edge, at), tail.hash)


class _Leaves:
    """The leaf hashes of a range, whose first leaf is `start`.

    quarantined: leaves of entries that do not hold. A forged entry without an envelope is a finding, after which the
    leaves are not looked at.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.anew()

    def anew(self) -> Leaf:
        self.hashes: list[bytes] = []
        self.quarantined: list[int] = []
        return self._add

    def _add(self, position: int, envelope: bytes | None, quarantined: bool) -> None:
        if quarantined:
            self.quarantined.append(position - 1)
        self.hashes.append(leaf_hash(envelope or b""))


def _keep_leaves(ledger: LedgerRef, leaves: _Leaves, stored: int) -> Plan[None]:
    """An entry that had its leaf before it was changed and quarantined keeps that."""
    kept = [Node(0, leaf) for leaf in leaves.quarantined if leaf < stored]
    for node, hash_ in (yield from nodes(ledger, kept)).items():
        leaves.hashes[node.index - leaves.start] = hash_


def _check_findings(ledger: LedgerRef, findings: Findings) -> None:
    for first in findings.kept:
        if first.kind != "quarantined":
            error = EntryUnreadable if first.kind == "unreadable" else ChainBroken
            raise error(first.position or 0, f"{first.kind}: {first.detail}; nothing was signed", ledger.name)


def _check_root(ledger: LedgerRef, trusted: Head, base: Head) -> Plan[None]:
    try:
        root = yield from root_at(ledger, trusted.size)
    except ProofRefused as error:
        raise SigningRefused("tree_mismatch", f"ledger {ledger.name!r}: {error}") from error
    if root != trusted.root:
        # What comes after `base` was just made from the entries.
        raise SigningRefused(
            "rewritten" if trusted.size > base.size else "tree_mismatch",
            f"the root of the first {trusted.size} entries of ledger {ledger.name!r} is not the one that was signed: "
            "run 'auditledger verify'",
        )


def _write(ledger: LedgerRef, wider: Sequence[tuple[Tile, bytes]]) -> Plan[None]:
    if not wider:
        return
    levels, indexes = [tile.level for tile, _ in wider], [tile.index for tile, _ in wider]
    try:
        yield Query(SQL["write_tiles"], (ledger.ledger_id, levels, indexes, [hashes for _, hashes in wider]))
    except Refused as refused:
        if refused.sqlstate in _CHANGED:
            _not_the_entries(ledger, str(refused).partition("\n")[0])
        raise


def _not_the_entries(ledger: LedgerRef, detail: str) -> NoReturn:
    raise SigningRefused("tree_mismatch", f"the tiles of ledger {ledger.name!r} are not its entries' ({detail})")


# ---------------------------------------------------------------------------------------------------------- reading


def size(ledger: LedgerRef) -> Plan[int]:
    """How many leaves the tiles hold."""
    rows = yield Query(SQL["size"], (ledger.ledger_id,))
    return int(rows[0][0]) if rows else 0


def nodes(ledger: LedgerRef, wanted: Iterable[Node]) -> Plan[dict[Node, bytes]]:
    """The hashes of these nodes, from the tiles they are in. Raises ProofRefused where one is missing or too narrow."""
    wanted = list(wanted)
    found = yield from _rows(ledger, [tiles.tile_of(node) for node in wanted])
    return tiles.hashes_of(wanted, found)


def root_at(ledger: LedgerRef, tree_size: int) -> Plan[bytes]:
    """The root of the tree when it had so many leaves. Raises ProofRefused where the tiles do not reach so far."""
    found = yield from nodes(ledger, merkle.root_nodes(tree_size))
    return merkle.root(tree_size, found)


def inclusion_proof(ledger: LedgerRef, index: int, tree_size: int) -> Plan[list[bytes]]:
    """Of leaf `index` (position - 1) in the tree of that size. Raises UsageError, ProofRefused."""
    found = yield from nodes(ledger, merkle.nodes_of(merkle.inclusion_ranges(index, tree_size)))
    return merkle.inclusion_proof(index, tree_size, found)


def consistency_proof(ledger: LedgerRef, old: int, new: int) -> Plan[list[bytes]]:
    """Of the tree at two sizes. Raises UsageError, ProofRefused."""
    found = yield from nodes(ledger, merkle.nodes_of(merkle.consistency_ranges(old, new)))
    return merkle.consistency_proof(old, new, found)


def _rows(ledger: LedgerRef, wanted: Iterable[Tile]) -> Plan[dict[tuple[int, int], bytes]]:
    places = sorted({tile[:2] for tile in wanted})
    if not places:
        return {}
    levels, indexes = [level for level, _ in places], [index for _, index in places]
    rows = yield Query(SQL["tiles"], (levels, indexes, ledger.ledger_id))
    return {(level, index): hashes or b"" for level, index, hashes in rows}


# ------------------------------------------------------------------------------------------------------ checkpoints


def newest_kept(ledger: LedgerRef, most: int = FAR) -> Plan[Kept | None]:
    """The newest checkpoint of at most that size."""
    found = yield from newest_of(ledger, None, 1, most)
    return found[0] if found else None


def newest_of(ledger: LedgerRef, origin: str | None, limit: int, most: int = FAR) -> Plan[list[Kept]]:
    """The newest checkpoints of a log's name (None: of any) of at most that size, the newest first."""
    rows = yield Query(SQL["newest_kept"], (ledger.ledger_id, most, origin, limit))
    return [_kept(row) for row in rows]


def kept_at(ledger: LedgerRef, tree_size: int, origin: str | None = None) -> Plan[Kept | None]:
    """The checkpoint of exactly that size, of a log's name (None: of any)."""
    rows = yield Query(SQL["kept_at"], (ledger.ledger_id, tree_size, origin))
    return _kept(rows[0]) if rows else None


def stands(ledger: LedgerRef, sizes: Sequence[int]) -> Plan[Any]:
    """What a rebuild of the tree removes, for its record: {"leaves", "tiles_sha256", "checkpoints": notes}.

    sizes: of the checkpoints. Raises UsageError where none of one of these sizes is kept.
    """
    [(text,)] = yield Query(SQL["stands"], (ledger.ledger_id, msgspec.json.encode(sizes).decode()))
    found = msgspec.json.decode(text)
    missing = set(sizes) - {int(note.split("\n")[1]) for note in found["checkpoints"]}
    if missing:
        raise UsageError(f"no checkpoint of {min(missing)} entries is kept of ledger {ledger.name!r}")
    return found


def all_kept(ledger: LedgerRef, after: int = -1, limit: int = store.PAGE) -> Plan[list[Kept]]:
    """Up to `limit` checkpoints of sizes above `after`, in order."""
    rows = yield Query(SQL["all_kept"], (ledger.ledger_id, after, limit))
    return [_kept(row) for row in rows]


def keep(ledger: LedgerRef, head: Head, note: bytes) -> Plan[bytes]:
    """Keeps a signed checkpoint; where one of that size is there, adds to it the signatures that it lacks.

    Returns the note with all signatures, also those for which there was no more room in the one that is kept: each
    of these takes the place of older ones of its key.
    Raises SigningRefused where another is there, or the tiles do not have its root.
    """
    try:
        rows = yield Query(SQL["keep"], (ledger.ledger_id, head.size, head.root, note.decode()))
    except Refused as refused:
        if refused.sqlstate in _CHANGED:
            problem = str(refused).partition("\n")[0]
            raise SigningRefused(
                "forked", f"the checkpoint of ledger {ledger.name!r} was not kept: {problem}"
            ) from refused
        raise
    kept, new = parse_note(rows[0][0].encode()), parse_note(note)
    there = {(signature.name, signature.key_id, signature.data) for signature in kept.signatures}
    added = [each for each in new.signatures if (each.name, each.key_id, each.data) not in there]
    newer = {(each.name, each.key_id) for each in added}
    older = (each for each in kept.signatures if (each.name, each.key_id) not in newer)
    return Note(kept.text, (*older, *added)).encode()


def add_signatures(ledger: LedgerRef, kept: Kept, lines: bytes) -> Plan[bytes]:
    """Adds signature lines, such as witnesses' cosignatures, to a kept checkpoint. The note as it is kept then.

    Raises NoteRefused where those are no signature lines. Whether they verify is for the caller to know.
    """
    parse_signatures(lines)
    return (yield from keep(ledger, Head(kept.size, kept.root, None), kept.note + lines))


def _kept(row: tuple[int, bytes, str, datetime]) -> Kept:
    tree_size, root, note, signed_at = row
    return Kept(tree_size, root, note.encode(), signed_at)
