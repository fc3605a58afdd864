"""Grows a ledger's Merkle tree up to its tail. Plans.

`extend` begins at the newest head that the caller trusts, whose root and entry hash the database must still have, and
reads only the entries after it: the cost is that of the new entries. Each is checked as `verify` checks it (chain,
envelope, body), so that nothing is signed that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from ledger.effects import Pipeline, Plan, Query, Refused
from ledger.errors import ChainBroken, EntryUnreadable, ProofRefused, SigningRefused
from ledger.events import Tail
from ledger.format.findings import Findings, Link, in_order
from ledger.store import ledgers
from ledger.store.durability import commit_and_flush
from ledger.store.ledgers import BEGIN, LedgerRef
from ledger.store.quarantine import passed
from ledger.store.stored_rows import source_of
from ledger.store.tree import CHANGED, EMPTY_HEAD, SQL, Head, nodes, root_at, size, tile_rows
from ledger.telemetry import Progress
from ledger.tlog import tiles
from ledger.tlog.merkle import HASH_SIZE, Node, leaf_hash, split_hashes
from ledger.tlog.tiles import Tile, edge_root, edge_tiles
from ledger.verify.entries import check_range

_BATCH = 8192
"""Entries that are read and hashed at a time."""


def extend(ledger: LedgerRef, trusted: Sequence[Head] = (), progress: Progress | None = None) -> Plan[Head]:
    """Extends the tiles to the ledger's tail, in a transaction of its own. Returns the head there. Sync only.

    trusted: heads that were signed before. The ledger must continue all of them; entries up to the newest that has a
    hash are not read again. progress: called with entries done and entries to do.
    Raises SigningRefused if the ledger does not continue a trusted head, ChainBroken if an entry does not hold.
    """
    yield Pipeline((BEGIN, Query(SQL["search_path"])))
    yield Query(SQL["lock"], (ledger.ledger_id,))
    tail = yield from ledgers.tail_of(ledger)
    stored = yield from size(ledger)
    yield from _check_entries(ledger, tail, stored, trusted)
    base = max((head for head in trusted if head.hash is not None and head.size <= stored), default=EMPTY_HEAD)
    edge = yield from _edge(ledger, base)
    head = yield from _extend(ledger, base, edge, tail, stored, progress)
    for each in trusted:
        if each.size != base.size:
            yield from _check_root(ledger, each, base)
        elif each.root != base.root:
            raise SigningRefused("forked", f"two different roots were signed for the first {each.size} entries")
    yield from commit_and_flush()  # what is signed is durable, even if there was nothing to write
    return head


def _check_entries(ledger: LedgerRef, tail: Tail, stored: int, trusted: Sequence[Head]) -> Plan[None]:
    """Raises SigningRefused if signed entries are missing, or the hash of a trusted head is not the entry's."""
    most = max((head.size for head in trusted), default=0)
    if tail.position < max(most, stored):
        signed = "were signed" if most >= stored else "are in its tree"
        raise SigningRefused(
            "truncated", f"ledger {ledger.name!r} ends at position {tail.position}, and {max(most, stored)} {signed}"
        )
    for head in trusted:
        if head.size and head.hash is not None:
            rows = yield Query(ledgers.SQL["hash_at"], (ledger.ledger_id, head.size))
            if not rows or rows[0][0] != head.hash:
                quarantined = yield from passed(ledger, head.size, tail.recorded_at)
                if quarantined is not None and quarantined.hash == head.hash:
                    continue
                problem = "is gone" if not rows else "is not the one that was signed"
                raise SigningRefused("rewritten", f"entry {head.size} of ledger {ledger.name!r} {problem}")


def _edge(ledger: LedgerRef, base: Head) -> Plan[dict[int, bytes]]:
    """The partial tiles, by level, of the tree at the size of `base`, which must have its root."""
    try:
        rows = yield from tile_rows(ledger, edge_tiles(base.size))
        edge = {tile.level: rows[tile[:2]][: tile.width * HASH_SIZE] for tile in edge_tiles(base.size)}
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
    progress: Progress | None,
) -> Plan[Head]:
    source = yield from source_of(ledger)
    done, last = base.size, Link(base.size, base.hash, base.hash, None)
    partial: dict[int, tuple[Tile, bytes]] = {}
    while done < tail.position:
        leaves = _Leaves(done)
        end = min(done + _BATCH, tail.position)
        span = yield from check_range(source, done + 1, end, 1, last, leaves.anew, tail.position)
        _check_findings(ledger, span.findings)
        if len(leaves.hashes) < end - done:
            problem = f"there is no such entry, but the tail is at {tail.position}; nothing was signed"
            raise ChainBroken(span.last.position + 1, problem, ledger.name)
        yield from _keep_leaves(ledger, leaves, stored)
        grown = tiles.extend(edge, done, leaves.hashes)
        for tile, hashes in grown.tiles:
            partial[tile.level] = tile, hashes
        # Partial tiles are written once, at the end: each write costs Postgres the whole row.
        yield from _write(ledger, [(tile, hashes) for tile, hashes in grown.tiles if tile.width == tiles.FULL])
        done, edge, last = grown.size, grown.edge, span.last
        if progress is not None:
            progress(done - base.size, tail.position - base.size)
    yield from _write(ledger, [(tile, hashes) for tile, hashes in partial.values() if tile.width < tiles.FULL])
    if tail.position and last.stored != tail.hash:
        raise ChainBroken(tail.position, "its hash is not the one that the tail has; nothing was signed", ledger.name)
    return Head(done, edge_root(edge, done), tail.hash)


class _Leaves:
    """The leaf hashes of a range, whose first leaf is `start`. quarantined: the leaves of quarantined entries.

    A forged entry without an envelope is a finding, after which the leaves are not used.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.anew()

    def anew(self) -> _Leaves:
        self.hashes: list[bytes] = []
        self.quarantined: list[int] = []
        return self

    def add(self, position: int, envelope: bytes | None, quarantined: bool = False) -> None:
        if quarantined:
            self.quarantined.append(position - 1)
        self.hashes.append(leaf_hash(envelope or b""))

    def add_hashes(self, position: int, hashes: bytes) -> None:
        self.hashes += split_hashes(hashes)


def _keep_leaves(ledger: LedgerRef, leaves: _Leaves, stored: int) -> Plan[None]:
    """Keeps the stored leaf of an entry that was changed and quarantined after it got its leaf."""
    kept = [Node(0, leaf) for leaf in leaves.quarantined if leaf < stored]
    for node, hash_ in (yield from nodes(ledger, kept)).items():
        leaves.hashes[node.index - leaves.start] = hash_


def _check_findings(ledger: LedgerRef, findings: Findings) -> None:
    for first in in_order(findings.kept):
        if first.kind != "quarantined":
            error = EntryUnreadable if first.kind == "unreadable" else ChainBroken
            raise error(first.position or 0, f"{first.kind}: {first.detail}; nothing was signed", ledger.name)


def _check_root(ledger: LedgerRef, trusted: Head, base: Head) -> Plan[None]:
    try:
        root = yield from root_at(ledger, trusted.size)
    except ProofRefused as error:
        raise SigningRefused("tree_mismatch", f"ledger {ledger.name!r}: {error}") from error
    if root != trusted.root:
        # The tree after `base` was just made from the entries.
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
        if refused.sqlstate in CHANGED:
            _not_the_entries(ledger, refused.first_line)
        raise


def _not_the_entries(ledger: LedgerRef, detail: str) -> NoReturn:
    raise SigningRefused("tree_mismatch", f"the tiles of ledger {ledger.name!r} are not its entries' ({detail})")
