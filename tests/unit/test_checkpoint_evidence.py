"""The tree rebuilt from envelopes, compared with checkpoints, and checkpoints with each other."""

from __future__ import annotations

import pytest

from ledger.errors import InvalidSetting, NoteRefused
from ledger.format.findings import Findings
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import leaf_hash
from ledger.tlog.note import sign
from ledger.tlog.tiles import FULL, Tile, edge_tiles, extend, tiles_of
from ledger.verify.checkpoints import Claim, Comparison, Trust, given_claims, kept_claim
from ledger.verify.tree_rebuild import Leaves, Regrown, rows_of, upper_finding
from tests.support.logs import Log

SIZES = (1, 2, 255, 256, 257, 511, 512, 700, 1300)
WHOLE = 1300
"""Five tiles and a part of one: enough for a second level."""


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(WHOLE)


def spans(size: int, first: int, length: int) -> list[tuple[int, int]]:
    """As verify cuts them: ranges of leaves that end with tiles."""
    found, start = [], first
    while start < size:
        end = min((start + length) // FULL * FULL, size)
        found.append((start, end))
        start = end
    return found


def regrow(log: Log, size: int, length: int, sizes: tuple[int, ...], after: int = 0) -> dict[int, bytes]:
    """The roots at these sizes, once the kept tiles were compared."""
    edge = {tile.level: log.content(tile) for tile in edge_tiles(after)}
    tree, findings = Regrown(edge, after), Findings()
    roots: dict[int, bytes] = {}
    upper: list[tuple[Tile, bytes]] = []
    for start, end in spans(size, after, length):
        leaves = Leaves(start, tree.known)
        for index in range(start, end):
            leaves.add(index + 1, log.envelopes[index])
        leaves.tile_findings(
            {index: hashes for (level, index), hashes in log.tiles.items() if not level}, WHOLE, findings
        )
        step = tree.take(leaves.grown(sizes), sizes)
        roots |= step.roots
        upper += step.tiles
    upper += tree.partial_tiles()
    assert {tile for tile, _ in upper} == {tile for tile in tiles_of(size, after // FULL * FULL) if tile.level} | {
        tile for tile in tiles_of(size) if tile.level and tile.width < FULL
    }
    assert not tree.broken and tree.size == size and findings.kept == []
    assert [upper_finding(tile, hashes, log.tiles[tile[:2]], WHOLE) for tile, hashes in upper] == [None] * len(upper)
    return roots


@pytest.mark.parametrize("length", (256, 512, 1024, 2048))
@pytest.mark.parametrize("size", SIZES)
def test_the_root_at_every_size_comes_out_of_ranges(log: Log, size: int, length: int) -> None:
    assert regrow(log, size, length, SIZES) == {each: log.checkpoint(each).root for each in SIZES if each <= size}


@pytest.mark.parametrize("after", (1, 255, 256, 257, 700, 1024))
def test_going_on_from_an_edge(log: Log, after: int) -> None:
    expected = {each: log.checkpoint(each).root for each in SIZES if each >= after}
    assert regrow(log, WHOLE, 256, SIZES, after) == expected


def test_more_than_a_level_of_tiles() -> None:
    """Beyond 65,536 leaves upper tiles fill up; hashes stand in for envelopes to keep it short."""
    sizes = (65_535, 65_536, 65_537, 70_000)
    data = [b"%d" % index for index in range(70_000)]
    roots = {size: extend({}, 0, list(map(leaf_hash, data[:size]))).edge_root() for size in sizes}
    tree = Regrown()
    found: dict[int, bytes] = {}
    full: list[tuple[Tile, bytes]] = []
    for start, end in spans(70_000, 0, 9_984):
        leaves = Leaves(start, tree.known)
        for index in range(start, end):
            leaves.add(index + 1, data[index])
        step = tree.take(leaves.grown(sizes), sizes)
        found |= step.roots
        full += step.tiles
    assert found == roots
    assert [tile.path for tile, _ in full] == ["tile/1/000"]
    assert [tile.path for tile, _ in tree.partial_tiles()] == ["tile/1/001.p/17", "tile/2/000.p/1"]


def test_tiles_that_are_not_the_entries_are_named(log: Log) -> None:
    leaves = Leaves(256)
    for index in range(256, 600):
        leaves.add(index + 1, log.envelopes[index])
    rows: dict[int, bytes | None] = {1: log.tiles[0, 1], 2: log.tiles[0, 2]}

    def found(**changed: bytes | None) -> list[tuple[int | None, int | None, str]]:
        findings = Findings()
        leaves.tile_findings(rows | {int(name[1:]): row for name, row in changed.items()}, 600, findings)
        return [(each.position, each.through, each.detail) for each in findings.kept]

    tile = log.tiles[0, 1]
    two = log.tiles[0, 2][: 88 * 32]
    assert found(_2=two) == []
    assert found(_2=two, _1=tile[:64] + bytes(32) + tile[96:]) == [
        (259, 259, "its leaf in the kept tree is not the hash of its envelope")
    ]
    assert found(_2=two, _1=bytes(FULL * 32)) == [
        (257, 512, "its leaf in the kept tree is not the hash of its envelope")
    ]
    assert found(_2=two, _1=None) == [(257, 257, "tile/0/001 is missing")]
    assert found(_2=two[:-1]) == [(513, 513, f"tile/0/002.p/88 has {len(two) - 1} bytes, not {len(two)}")]
    assert found() == [(513, 513, f"tile/0/002.p/88 has {FULL * 32} bytes, not {len(two)}")]
    [(above, hashes)] = [(tile, log.content(tile)) for tile in tiles_of(WHOLE) if tile.level == 1]
    assert upper_finding(above, hashes, bytes(len(hashes)), WHOLE) == (
        "tile/1/000.p/5 does not have the hashes of the tiles below it"
    )
    assert upper_finding(above, hashes, hashes[:-32], WHOLE) == "tile/1/000.p/5 has 128 bytes, not 160"
    assert upper_finding(above, hashes, hashes[:-32], 1024) is None
    assert upper_finding(above, hashes, None, 255) is None
    assert rows_of(65_537) == {0: 257, 1: 1, 2: 1} and rows_of(0) == {}


def test_after_a_gap_there_is_no_tree(log: Log) -> None:
    leaves = Leaves(0)
    for index in (0, 1, 3, 2, 4):
        leaves.add(index + 1, log.envelopes[index])
    tree = Regrown()
    assert tree.take(leaves.grown((1, 2, 3, 5)), (1, 2, 3, 5)).roots == {
        size: log.checkpoint(size).root for size in (1, 2)
    }
    assert (tree.size, tree.broken) == (2, True)
    assert tree.take(leaves.grown((2,)), (2,)).roots == {}
    tree = Regrown()
    assert tree.take(Leaves(256).grown(()), ()) == ({}, []) and tree.broken


# ------------------------------------------------------------------------------------------------------- checkpoints


def claim(log: Log, size: int, signed: bool = True, source: str = "one") -> Claim:
    return Claim(log.checkpoint(size), source, signed)


def found(log: Log, newest: int, *claims: Claim, gap: bool = False) -> list[tuple[int | None, str]]:
    findings = Findings()
    comparison = Comparison(newest, findings)
    for each in sorted(claims, key=lambda each: each.size):
        comparison.take(each, None if gap or each.size > newest else log.checkpoint(each.size).root)
    comparison.end()
    return [(each.position, each.kind) for each in findings.kept]


@pytest.fixture(scope="module")
def forged() -> Log:
    """The same key, and another history from entry 11 on."""
    forged = Log(10)
    forged.append(90, actor="user:43")
    return forged


def test_what_holds_has_no_finding(log: Log) -> None:
    assert found(log, 100, *(claim(log, size) for size in (0, 1, 50, 100, 100))) == []


def test_a_ledger_that_was_cut_or_rewritten(log: Log, forged: Log) -> None:
    assert found(log, 100, claim(log, 50), claim(log, 101)) == [(101, "truncated")]
    assert found(forged, 100, claim(log, 10), claim(log, 50)) == [(50, "rewritten")]
    assert found(log, 100, claim(log, 50), gap=True) == [(50, "rewritten")]
    assert found(log, 0, claim(log, 50), claim(log, 0)) == [(50, "truncated")]


def test_where_the_change_lies(log: Log, forged: Log) -> None:
    findings = Findings()
    comparison = Comparison(100, findings)
    for size in (7, 10, 11, 12):
        comparison.take(claim(log, size, source="FILE"), forged.checkpoint(size).root)
    assert [each.detail for each in findings.kept] == [
        f"FILE, of {size} entries, names a root that these entries do not have: the change lies after entry 10"
        for size in (11, 12)
    ]


def test_two_histories(log: Log, forged: Log) -> None:
    """Signed before and after the rewriting; or shown to two auditors at one time."""
    assert found(forged, 100, claim(log, 50), claim(forged, 100)) == [(50, "rewritten"), (50, "forked")]
    assert found(forged, 100, claim(log, 50), claim(forged, 50)) == [(50, "rewritten"), (50, "forked")]
    assert found(forged, 40, claim(log, 50), claim(forged, 50)) == [(50, "truncated")] * 2 + [(50, "forked")]
    assert found(forged, 40, claim(log, 50), claim(log, 50, source="two")) == [(50, "truncated")] * 2


def test_what_need_not_be_two_histories(log: Log, forged: Log) -> None:
    assert found(log, 100, claim(log, 10), claim(forged, 50)) == [(50, "rewritten")], "it may go on from the other"
    assert found(forged, 100, claim(log, 50), claim(forged, 100, signed=False)) == [(50, "rewritten")]
    assert found(forged, 100, claim(log, 50, signed=False), claim(forged, 100)) == [(50, "rewritten")]
    elsewhere = Claim(Checkpoint("other.example/main", 100, forged.checkpoint(100).root), "two", True)
    assert found(forged, 100, claim(log, 50), elsewhere) == [(50, "rewritten")], "another log's signature"


def test_given_checkpoints_must_be_signed_and_of_the_ledger(log: Log) -> None:
    trust = Trust.given([log.signer.vkey], log.witnesses)
    assert trust.quorum == 2
    notes = [("b", log.note(7)), ("a", log.note(3))]
    assert [(each.size, each.source, each.signed) for each in given_claims(notes, trust, "main")] == [
        (3, "a", True),
        (7, "b", True),
    ]
    with pytest.raises(NoteRefused, match=r"a: .* not of a ledger 'other'"):
        given_claims([("a", log.note(3))], trust, "other")
    with pytest.raises(NoteRefused, match="a: 1 of the witnesses"):
        given_claims([("a", log.note(3, witnesses=1))], trust, "main")
    with pytest.raises(NoteRefused, match=r"a: .*not signed by a key given"):
        given_claims([("a", log.note(3))], Trust.given([FileSigner("other.example/main", bytes(32)).vkey]), "main")
    with pytest.raises(InvalidSetting, match="without the key"):
        given_claims([("a", log.note(3))], Trust(), "main")


def test_keys_that_cannot_do(log: Log) -> None:
    key, [one, two] = log.signer.vkey, log.witnesses
    for keys, witnesses, quorum in (
        ([one.vkey], [], None),
        ([key], [key], None),
        ([key], [one, two], 3),
        ([key], [one, one], 2),
        ([key], [], -1),
        (["nonsense"], [], None),
    ):
        with pytest.raises(InvalidSetting):
            Trust.given(keys, witnesses, quorum)
    assert Trust.given([key], [one, one]).quorum == 1


def test_kept_checkpoints_are_compared_also_without_a_key(log: Log) -> None:
    assert kept_claim(log.note(7), [], "main") == Claim(log.checkpoint(7), "the checkpoint kept", False)
    assert kept_claim(log.note(7), [log.key], "main").signed
    assert not kept_claim(log.note(7), [Log(0, "other").key], "main").signed
    with pytest.raises(NoteRefused, match="not of ledger 'other'"):
        kept_claim(log.note(7), [], "other")
    false = sign(log.checkpoint(7).text, [log.signer]).replace(b"\n7\n", b"\n8\n")
    assert kept_claim(false, [], "main").size == 8
    with pytest.raises(NoteRefused, match="does not verify"):
        kept_claim(false, [log.key], "main")
