"""A ledger as a public log: the files of C2SP tlog-tiles, beside the bundle they were exported with.

checkpoint         the newest signed checkpoint
tile/<L>/<N>       the tree's tiles, of that checkpoint's size
tile/entries/<N>   the envelopes, 256 a file, each after its length

Served by any static web server, monitors of such logs read them. Both the writer and the check take the envelopes one
by one, in order, and keep no more of them than a tile has.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from ledger.errors import ChainBroken, EvidenceRefused, NoteRefused, ProofRefused
from ledger.export.manifest import MANIFEST, Manifest, open_file
from ledger.format.findings import Findings
from ledger.tlog.merkle import EMPTY_ROOT, HASH_SIZE, leaf_hash
from ledger.tlog.note import MAX_NOTE
from ledger.tlog.tiles import ENTRIES, FULL, HEIGHT, MAX_ENTRY, Extended, Tile, encode_bundle, extend
from ledger.verify.checkpoints import Claim, Comparison, Trust, given_claims, kept_claim

CHECKPOINT, TILES = "checkpoint", "tile"
_LARGEST = FULL * (MAX_ENTRY + 2)
"""Bytes of the largest file below `tile/`."""


class _Growing:
    """A tree that grows by envelopes; whatever fills up is given to `_full`."""

    def __init__(self) -> None:
        self.tree = Extended(0, {}, [])
        self.envelopes: list[bytes] = []
        self.leaves: list[bytes] = []

    @property
    def size(self) -> int:
        return self.tree.size + len(self.leaves)

    def _add(self, envelope: bytes, leaf: bytes | None = None) -> None:
        """leaf: where that is not the envelope's, because the entry was changed after it had its leaf."""
        self.envelopes.append(envelope)
        self.leaves.append(leaf or leaf_hash(envelope))

    def _fill(self) -> Iterator[tuple[Tile, bytes | None]]:
        """The files that are full now: the entries, and the tiles over them."""
        self.tree = extend(self.tree.edge, self.tree.size, self.leaves)
        yield Tile(ENTRIES, self.tree.size // FULL - 1), _entries(self.envelopes)
        yield from ((tile, hashes) for tile, hashes in self.tree.tiles if tile.width == FULL)
        self.envelopes, self.leaves = [], []

    def _edge(self, tree: Extended) -> Iterator[tuple[Tile, bytes | None]]:
        """The files of a tree that are partial."""
        width = tree.size % FULL
        if width:
            yield Tile(ENTRIES, tree.size // FULL, width), _entries(self.envelopes[:width])
        for level, hashes in tree.edge.items():
            yield Tile(level, (tree.size >> (HEIGHT * level)) // FULL, len(hashes) // HASH_SIZE), hashes


class LayoutWriter(_Growing):
    """Writes the files of a tree of `size` entries into a folder; entries beyond that are passed over."""

    def __init__(self, folder: Path, note: bytes, size: int) -> None:
        super().__init__()
        self._folder = folder
        self._note = note
        self._most = size
        self._made: set[Path] = set()

    def take(self, position: int, envelope: bytes, leaf: bytes | None = None) -> None:
        """The next envelope. leaf: of a quarantined entry that had one before.

        Raises ChainBroken if it fits into no bundle of entries; OSError.
        """
        if self.size >= self._most:
            return
        if len(envelope) > MAX_ENTRY:
            raise ChainBroken(position, f"its envelope has {len(envelope)} bytes, which no entry of the format has")
        self._add(envelope, leaf)
        if len(self.leaves) == FULL:
            self._write(self._fill())

    def end(self) -> None:
        """The partial tiles, and the checkpoint."""
        self._write(self._edge(extend(self.tree.edge, self.tree.size, self.leaves)))
        (self._folder / CHECKPOINT).write_bytes(self._note)

    def _write(self, files: Iterator[tuple[Tile, bytes | None]]) -> None:
        for tile, content in files:
            path = self._folder / tile.path
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
            path.write_bytes(content or b"")


class LayoutCheck(_Growing):
    """Compares envelopes with a folder's files and with checkpoints.

    size: of the tree that the folder's files are of; None if it has none. claims: the checkpoints.
    """

    def __init__(self, folder: Path, size: int | None, claims: Sequence[Claim], findings: Findings) -> None:
        super().__init__()
        self._folder = folder
        self._size = size
        self._claims = sorted(claims, key=lambda claim: claim.size)
        self._roots = {0: EMPTY_ROOT}
        self._wanted = {claim.size for claim in claims} | {size or 0}
        self._findings = findings

    def take(self, envelope: bytes, *, quarantined: bool = False) -> None:
        """The next envelope; of a quarantined entry, what its leaf is of. Raises OSError for an unreadable file."""
        self._add(envelope, self._kept_leaf() if quarantined else None)
        if self.size in self._wanted:
            tree = extend(self.tree.edge, self.tree.size, self.leaves)
            self._roots[tree.size] = tree.edge_root()
            if tree.size == self._size:
                self._compare(self._edge(tree))
        if len(self.leaves) == FULL:
            if self._size is not None and self.size <= self._size:
                self._compare(self._fill())
            else:
                list(self._fill())

    def _kept_leaf(self) -> bytes | None:
        """The leaf that the next entry has in the folder's tile, where it may be that of before it was changed."""
        index = self.size
        if self._size is None or index >= self._size:
            return None
        tile = Tile(0, index // FULL, min(FULL, self._size - index // FULL * FULL))
        try:
            with open_file(self._folder / tile.path) as file:
                return file.read(_LARGEST + 1)[index % FULL * HASH_SIZE :][:HASH_SIZE] or None
        except EvidenceRefused:
            return None

    def end(self) -> None:
        """What only shows once all envelopes are taken."""
        if self._size is not None:
            for path in self._strangers(self._size):
                self._findings.add(None, "tree_mismatch", f"{path} is no tile of a tree of {self._size} entries")
        comparison = Comparison(self.size, self._findings)
        for claim in self._claims:
            comparison.take(claim, self._roots.get(claim.size))
        comparison.end()

    def _compare(self, files: Iterator[tuple[Tile, bytes | None]]) -> None:
        for tile, content in files:
            problem = self._problem(tile, content)
            if problem is not None:
                position = None if tile.level > 0 else tile.index * FULL + 1
                self._findings.add(position, "tree_mismatch", f"{tile.path} {problem}")

    def _problem(self, tile: Tile, content: bytes | None) -> str | None:
        try:
            with open_file(self._folder / tile.path) as file:
                stored = file.read(_LARGEST + 1)
        except EvidenceRefused:
            return "is missing"
        return None if stored == content else "is not what the envelopes make it"

    def _strangers(self, size: int) -> Iterator[str]:
        for path in sorted_files(self._folder / TILES):
            name = path.relative_to(self._folder).as_posix()
            try:
                tile = Tile.parse(name)
            except ProofRefused:
                yield name
                continue
            width = (size >> (HEIGHT * max(tile.level, 0))) - tile.index * FULL
            if tile.width != min(width, FULL):
                yield name


def layout_check(
    folder: Path, manifest: Manifest, checkpoints: Sequence[tuple[str, bytes]], trust: Trust, findings: Findings
) -> LayoutCheck | None:
    """What the envelopes are to be compared with; None if there is nothing."""
    claims = given_claims(checkpoints, trust, manifest.ledger)
    own = None
    if (folder / CHECKPOINT).exists():
        own = _own_claim(folder, manifest, trust, findings)
    elif (folder / TILES).exists():
        findings.add(None, "tree_mismatch", f"there are tiles, but no {CHECKPOINT} that signs them")
    elif trust.keys and not claims:
        raise EvidenceRefused(f"{folder} has no {CHECKPOINT}: there is nothing that a key could have signed; give one")
    if manifest.first != 1:
        if own is not None:
            findings.add(None, "tree_mismatch", f"{MANIFEST} begins later than {CHECKPOINT}")
        return None
    if own is not None:
        claims.append(own)
    return LayoutCheck(folder, own.size if own else None, claims, findings) if claims else None


def _own_claim(folder: Path, manifest: Manifest, trust: Trust, findings: Findings) -> Claim | None:
    """The bundle's own checkpoint. One that is not signed as demanded is a finding, and there is none."""
    with open_file(folder / CHECKPOINT) as file:
        note = file.read(MAX_NOTE + 1)
    try:
        checkpoint = kept_claim(note, (), manifest.ledger).checkpoint
        if trust.keys:
            trust.open(note)
    except NoteRefused as error:
        findings.add(None, "tree_mismatch", f"{CHECKPOINT}: {error}")
        return None
    return Claim(checkpoint, "the bundle's checkpoint", bool(trust.keys))


def sorted_files(folder: Path) -> Iterator[Path]:
    """All that is below a folder and is no folder itself, and folders too deep down to be entered."""
    waiting = [folder] if folder.exists() or folder.is_symlink() else []
    while waiting:
        path = waiting.pop()
        try:
            inner = sorted(path.iterdir(), reverse=True) if path.is_dir() and not path.is_symlink() else None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            inner = None
        if inner is None:
            yield path
        else:
            waiting += inner


def _entries(envelopes: Sequence[bytes]) -> bytes | None:
    """A bundle of entries; None if one of them is too long for any."""
    return encode_bundle(envelopes) if all(len(envelope) <= MAX_ENTRY for envelope in envelopes) else None
