"""Compares what a ledger keeps of its tree, tiles and checkpoints, with the tree that its entries make. Plans.

The entries are read range by range (ranges.py); the process that gathers the ranges gives them to a `TreeCheck`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ledger.effects import Plan, Query
from ledger.errors import NoteRefused, ProofRefused
from ledger.format.actions import TREE_REBUILT, TREE_TYPE
from ledger.format.canonical import digest
from ledger.format.findings import Findings, Record
from ledger.statements import sql
from ledger.store import stored_rows, tree
from ledger.store.ledgers import FAR, LedgerRef
from ledger.store.stored_rows import Source
from ledger.tlog.merkle import EMPTY_ROOT, HASH_SIZE, check_consistency, check_inclusion, leaf_hash
from ledger.tlog.note import Verifier
from ledger.tlog.tiles import FULL, Tile, edge_root, edge_tiles
from ledger.verify.checkpoints import Claim, Comparison, kept_claim
from ledger.verify.tree_rebuild import Grown, Regrown, rows_of, upper_finding

SQL = sql(__file__)
_PAGE = 10_000
"""Kept checkpoints that are read at a time."""
_MOST = 100
"""Rebuilds that are named."""


class KeptTree(NamedTuple):
    """The tree that a ledger keeps.

    leaves: how many its tiles are of. levels: how many tiles there are of each, with the first and last index.
    """

    leaves: int
    levels: dict[int, tuple[int, int, int]]


class Base(NamedTuple):
    """A checkpoint that the tiles prove: where an incremental verification begins. edge: the tree's partial tiles."""

    claims: tuple[Claim, ...]
    edge: dict[int, bytes]

    @property
    def size(self) -> int:
        return self.claims[-1].size


class Job(NamedTuple):
    """A range of positions. sizes: of checkpoints that end in it. known: leaf hashes before it, in its first tile.

    through: up to where there must be entries.
    """

    start: int
    end: int
    sizes: tuple[int, ...] = ()
    known: bytes = b""
    through: int = 0


# --------------------------------------------------------------------------------------------------- before the entries


def kept_tree(ledger: LedgerRef) -> Plan[KeptTree | None]:
    """What the ledger keeps of its tree; None if there are neither tiles nor checkpoints."""
    rows = yield Query(SQL["levels"], (ledger.ledger_id,))
    levels = {level: (count, first, last) for level, count, first, last in rows}
    if not levels:
        [(kept,)] = yield Query(SQL["has_kept"], (ledger.ledger_id,))
        return KeptTree(0, {}) if kept else None
    rows = yield Query(SQL["last_leaves"], (ledger.ledger_id,))
    leaves = rows[0][0] * FULL + (rows[0][1] or 0) // HASH_SIZE if rows else 0
    return KeptTree(max(leaves, 0), levels)


def rebuilds(source: Source) -> Plan[tuple[str, ...]]:
    """Which entries took the place of tiles and checkpoints, and by whom; at most _MOST."""
    query = source.statement(SQL["rebuilds"])
    rows = yield Query(query, (source.ledger_id, TREE_TYPE, source.name, TREE_REBUILT, _MOST))
    return tuple(f"the tree was rebuilt at entry {position} by {actor}" for position, actor in rows)


def proven_base(source: Source, claims: Sequence[Claim]) -> Plan[Base | None]:
    """The newest of the checkpoints, if the tiles prove that it continues all others, and it has the entry before the
    next; else None, and everything must be read."""
    if not claims or not claims[-1].size:
        return None
    newest, ledger = claims[-1].checkpoint, source.ledger
    try:
        edge = yield from _edge(ledger, newest.size)
        if edge_root(edge, newest.size) != newest.root:
            return None
        for claim in claims:
            path = yield from tree.consistency_proof(ledger, claim.size, newest.size)
            check_consistency(claim.size, claim.checkpoint.root, newest.size, newest.root, path)
        records: list[Record] = []
        yield from stored_rows.records(source, newest.size, records.append, newest.size)
        envelopes = [record.envelope(ledger.name) for record in records]
        if len(records) != 1 or envelopes[0] is None or digest(envelopes[0]) != records[0].hash:
            return None
        path = yield from tree.inclusion_proof(ledger, newest.size - 1, newest.size)
        check_inclusion(newest.size - 1, newest.size, leaf_hash(envelopes[0]), path, newest.root)
    except (KeyError, ProofRefused):
        return None
    return Base(tuple(claims), edge)


def _edge(ledger: LedgerRef, size: int) -> Plan[dict[int, bytes]]:
    edge = {}
    for tile in edge_tiles(size):
        rows = yield Query(SQL["tile"], (ledger.ledger_id, tile.level, tile.index))
        edge[tile.level] = (rows[0][0] or b"")[: tile.width * HASH_SIZE] if rows else b""
    return edge


# ------------------------------------------------------------------------------------------------------ range by range


class TreeCheck:
    """Puts the ranges' trees together and compares checkpoints with it, in the order of their sizes.

    newest: the position of the newest entry. claims: the checkpoints that were given, by size. keys: whose signatures
    count on those that are kept. base: where an incremental verification began.
    """

    def __init__(
        self,
        ledger: LedgerRef,
        kept: KeptTree,
        newest: int,
        claims: Sequence[Claim],
        keys: Sequence[Verifier],
        base: Base | None,
    ) -> None:
        self.ledger = ledger
        self.kept = kept
        self.newest = newest
        self.keys = keys
        self.findings = Findings()
        self._comparison = Comparison(newest, self.findings)
        self._given = deque(claims if base is None else ())
        self._base_size, self._base_root = (
            (0, EMPTY_ROOT) if base is None else (base.size, base.claims[-1].checkpoint.root)
        )
        self._compared = self._base_size - 1
        self._most_kept = 0
        self._tree = Regrown() if base is None else Regrown(base.edge, base.size)
        self._under_way: deque[list[Claim]] = deque()
        for claim in base.claims if base is not None else ():
            self._comparison.take(claim, claim.checkpoint.root)

    def job(self, start: int, end: int) -> Plan[Job]:
        """The job of checking a range; its outcome must be taken before that of the next one."""
        claims = []
        while self._compared < end:
            claims += yield from self._claims(end)
        self._under_way.append(claims)
        known = self._tree.known if start == self._tree.size + 1 and not self._tree.broken else b""
        return Job(start, end, tuple(sorted({claim.size for claim in claims})), known, self.newest)

    def take(self, grown: Grown) -> Plan[None]:
        """What checking the next range came to."""
        claims = self._under_way.popleft()
        step = self._tree.take(grown, {claim.size for claim in claims})
        for claim in claims:
            self._comparison.take(claim, step.roots.get(claim.size))
        yield from self._compare(step.tiles)

    def end(self) -> Plan[None]:
        """What is left once all ranges are taken: checkpoints and tiles beyond the entries, and partial tiles."""
        while self._compared < FAR:
            for claim in (yield from self._claims(FAR)):
                self._comparison.take(claim, self._base_root if claim.size == self._base_size else None)
        self._comparison.end()
        yield from self._compare(self._tree.partial_tiles())
        leaves, add = self.kept.leaves, self.findings.add
        if leaves > self.newest:
            add(None, "tree_mismatch", f"the tiles are of {leaves} entries, but the newest is {self.newest}")
        elif leaves > self._tree.size:
            add(self._tree.size + 1, "tree_mismatch", f"the tiles are of {leaves} entries, and this one is missing")
        if leaves < min(self._most_kept, self.newest):
            add(None, "tree_mismatch", f"the tiles are of {leaves} entries, a kept checkpoint of {self._most_kept}")
        for level, there in self.kept.levels.items():
            wanted = rows_of(leaves).get(level, 0)
            if there != (wanted, 0, wanted - 1):
                detail = f"there are {there[0]} tiles of level {level}, from {there[1]} to {there[2]}, not {wanted}"
                add(None, "tree_mismatch", detail)

    def _claims(self, most: int) -> Plan[list[Claim]]:
        """The next checkpoints, given or kept, of at most that size."""
        rows = yield Query(SQL["kept"], (self.ledger.ledger_id, self._compared, most, _PAGE))
        claims = [claim for row in rows if (claim := self._kept_claim(*row)) is not None]
        reach = rows[-1][0] if len(rows) == _PAGE else most
        while self._given and self._given[0].size <= reach:
            claims.append(self._given.popleft())
        self._compared = max(self._compared, reach)
        return sorted(claims, key=lambda claim: claim.size)

    def _kept_claim(self, size: int, root: bytes | None, note: str | None) -> Claim | None:
        self._most_kept = max(self._most_kept, size)
        try:
            claim = kept_claim((note or "").encode(), self.keys, self.ledger.name)
        except NoteRefused as error:
            self.findings.add(size, "tree_mismatch", f"the checkpoint kept of size {size} is none: {error}")
            return None
        if (claim.size, claim.checkpoint.root) != (size, root):
            self.findings.add(size, "tree_mismatch", f"the checkpoint kept of size {size} says otherwise in its note")
        return claim if claim.size == size else None

    def _compare(self, tiles: Sequence[tuple[Tile, bytes]]) -> Plan[None]:
        for tile, hashes in tiles:
            rows = yield Query(SQL["tile"], (self.ledger.ledger_id, tile.level, tile.index))
            problem = upper_finding(tile, hashes, rows[0][0] if rows else None, self.kept.leaves)
            if problem is not None:
                self.findings.add(None, "tree_mismatch", problem)
