"""The Merkle tree of a ledger in its tiles, and the checkpoints that were signed of it. Plans.

`nodes` reads a few tiles, however large the tree is. checkpoints/grow.py extends the tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ledger.effects import Plan, Query, Refused
from ledger.errors import SigningRefused, UsageError
from ledger.events import GENESIS
from ledger.statements import sql
from ledger.store import ledgers
from ledger.store.ledgers import FAR, LedgerRef
from ledger.tlog import merkle, tiles
from ledger.tlog.merkle import EMPTY_ROOT, Node
from ledger.tlog.note import Note, parse_note, parse_signatures
from ledger.tlog.tiles import Tile

SQL = sql(__file__)
CHANGED = ("LE004", "LE020")
"""SQLSTATEs of a tile that would change, or is not what the entries make (schema/0002, 0009)."""


class Head(NamedTuple):
    """A ledger at one size: its tree's root, and the hash of entry `size` (None where only the root is known)."""

    size: int
    root: bytes
    hash: bytes | None


EMPTY_HEAD = Head(0, EMPTY_ROOT, GENESIS)
"""Every ledger continues it."""


class Kept(NamedTuple):
    """A checkpoint as the database keeps it. note: the signed note."""

    size: int
    root: bytes
    note: bytes
    signed_at: datetime


# ---------------------------------------------------------------------------------------------------------- reading


def size(ledger: LedgerRef) -> Plan[int]:
    """How many leaves the tiles hold."""
    rows = yield Query(SQL["size"], (ledger.ledger_id,))
    return int(rows[0][0]) if rows else 0


def nodes(ledger: LedgerRef, wanted: Iterable[Node]) -> Plan[dict[Node, bytes]]:
    """The hashes of these nodes, from the tiles they are in. Raises ProofRefused where one is missing or too narrow."""
    wanted = list(wanted)
    rows = yield from tile_rows(ledger, [tiles.tile_of(node) for node in wanted])
    return tiles.hashes_of(wanted, rows)


def root_at(ledger: LedgerRef, tree_size: int) -> Plan[bytes]:
    """The root of the tree when it had so many leaves. Raises ProofRefused where the tiles do not reach so far."""
    hashes = yield from nodes(ledger, merkle.root_nodes(tree_size))
    return merkle.root(tree_size, hashes)


def inclusion_proof(ledger: LedgerRef, index: int, tree_size: int) -> Plan[list[bytes]]:
    """Of leaf `index` (position - 1) in the tree of that size. Raises UsageError, ProofRefused."""
    hashes = yield from nodes(ledger, merkle.nodes_of(merkle.inclusion_ranges(index, tree_size)))
    return merkle.inclusion_proof(index, tree_size, hashes)


def consistency_proof(ledger: LedgerRef, old: int, new: int) -> Plan[list[bytes]]:
    """Of the tree at two sizes. Raises UsageError, ProofRefused."""
    hashes = yield from nodes(ledger, merkle.nodes_of(merkle.consistency_ranges(old, new)))
    return merkle.consistency_proof(old, new, hashes)


def tile_rows(ledger: LedgerRef, wanted: Iterable[Tile]) -> Plan[dict[tuple[int, int], bytes]]:
    places = sorted({tile[:2] for tile in wanted})
    if not places:
        return {}
    levels, indexes = [level for level, _ in places], [index for _, index in places]
    rows = yield Query(SQL["tiles"], (levels, indexes, ledger.ledger_id))
    return {(level, index): hashes or b"" for level, index, hashes in rows}


# ------------------------------------------------------------------------------------------------------ checkpoints


def newest_kept(ledger: LedgerRef, most: int = FAR) -> Plan[Kept | None]:
    """The newest checkpoint of at most that size."""
    kept = yield from newest_of(ledger, None, 1, most)
    return kept[0] if kept else None


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
    removed = msgspec.json.decode(text)
    missing = set(sizes) - {int(note.split("\n")[1]) for note in removed["checkpoints"]}
    if missing:
        raise UsageError(f"no checkpoint of {min(missing)} entries is kept of ledger {ledger.name!r}")
    return removed


def all_kept(ledger: LedgerRef, after: int = -1, limit: int = ledgers.PAGE) -> Plan[list[Kept]]:
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
        if refused.sqlstate in CHANGED:
            problem = refused.first_line
            raise SigningRefused(
                "forked", f"the checkpoint of ledger {ledger.name!r} was not kept: {problem}"
            ) from refused
        raise
    kept, new = parse_note(rows[0][0].encode()), parse_note(note)
    present = {(signature.name, signature.key_id, signature.data) for signature in kept.signatures}
    added = [each for each in new.signatures if (each.name, each.key_id, each.data) not in present]
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
