"""Proofs from a ledger in a database, by both clients and the command line; and refused ones.

The ledger has 300 entries, of which 7 is erased (99 says so); checkpoints were signed at 0, 100 and 299 entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from ledger import Ledger, testing
from ledger.checkpoints.proof import check_consistency_proof, check_proof
from ledger.drivers.run import drive
from ledger.errors import NoteRefused, ProofRefused, UsageError
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.canonical import body, envelope
from ledger.settings import Settings
from ledger.store import tree
from ledger.store.ledgers import create_ledger
from ledger.verify.checkpoints import Trust
from tests.support.api import Api, AsyncApi, Opener, SyncApi
from tests.support.cli import Cli, run
from tests.support.helpers import erase, event, events
from tests.support.logins import Logins
from tests.support.signed_checkpoints import COSIGNER, KEY, MAIN, SIGNER, TRUST, Superuser, checkpoint

ERASED, LAST, SIGNED = 7, 300, 299
Notes = dict[int, bytes]


@pytest.fixture(scope="module")
def pattern(servers: testing.TestServers, template: str) -> Iterator[tuple[str, Notes]]:
    with testing.database(servers.database_url, template=template) as url:
        with Ledger.open(database_url=url) as ledger, psycopg.connect(url, autocommit=True) as connection:
            notes = {0: checkpoint(connection)}
            ledger.append_many(events(98))
            erase(connection, ERASED)
            ledger.append(event())
            notes[100] = checkpoint(connection)
            ledger.append_many(events(199, 100))
            notes[SIGNED] = checkpoint(connection, witnessed=True)
            ledger.append(event(LAST))
        yield url, notes


@pytest.fixture
def notes(pattern: tuple[str, Notes]) -> Notes:
    return pattern[1]


@pytest.fixture(params=[SyncApi, AsyncApi], ids=["sync", "async"])
def api(request: pytest.FixtureRequest, pattern: tuple[str, Notes]) -> Iterator[Api]:
    with Opener(request.param, Settings(database_url=pattern[0])) as opener:
        yield opener()


@pytest.fixture
def cli(pattern: tuple[str, Notes]) -> Cli:
    return Cli("--database-url", pattern[0])


@pytest.fixture
def superuser(servers: testing.TestServers, pattern: tuple[str, Notes]) -> Iterator[Superuser]:
    """Of a copy."""
    with (
        testing.database(servers.database_url, template=pattern[0].rpartition("/")[2]) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        yield Superuser(connection)


@pytest.fixture
def forged(superuser: Superuser, servers: testing.TestServers) -> Iterator[Ledger]:
    """The ledger that the superuser is at."""
    url = f"{servers.database_url.rpartition('/')[0]}/{superuser.connection.info.dbname}"
    with Ledger.open(database_url=url) as ledger:
        yield ledger


@pytest.mark.parametrize("position", (1, 2, 99, 100, 101, 256, 257, 298, SIGNED))
def test_every_entry_that_is_signed_can_be_proven(api: Api, position: int) -> None:
    [entry] = api.read(position - 1, 1)
    for which in (position, entry.id):
        data = api.prove(which).encode()
        assert len(data) < 4096
        proven = check_proof(data, SIGNER.name, [KEY], [COSIGNER], 1)
        assert (proven.envelope.position, proven.checkpoint.size, proven.body) == (position, SIGNED, None)
        assert proven.raw == envelope(entry)
    with_body = check_proof(api.prove(position, with_body=True).encode(), None, [KEY])
    assert with_body.body == body(entry)


def test_an_erased_entry_can_be_proven(api: Api) -> None:
    proven = check_proof(api.prove(ERASED).encode(), None, [KEY])
    assert (proven.envelope.position, proven.body) == (ERASED, None)
    with pytest.raises(UsageError, match="entry 7 is erased"):
        api.prove(ERASED, with_body=True)


def test_what_is_not_there_cannot_be_proven(api: Api, opener: Opener) -> None:
    for which in (301, 0, -1, 2**70, UUID(int=7)):
        with pytest.raises(UsageError, match="has no entry"):
            api.prove(which)
    with pytest.raises(UsageError, match=r"has entry 300 yet \(the newest has 299 entries\): run"):
        api.prove(LAST)
    empty = opener()
    empty.append(event())
    with pytest.raises(UsageError, match="none is kept"):
        empty.prove(1)


@pytest.mark.parametrize(("old", "new"), ((0, 100), (0, SIGNED), (100, SIGNED), (100, 100)))
def test_checkpoints_continue_one_another(api: Api, notes: Notes, old: int, new: int) -> None:
    for pair in ((old, new), (notes[old], notes[new]), (notes[new], old)):
        data = api.prove_between(*pair).encode()
        assert len(data) < 4096
        first, second = check_consistency_proof(data, None, [KEY])
        assert (first.size, second.size) == (old, new)


def test_checkpoints_that_are_not_there(api: Api, notes: Notes) -> None:
    for size in (50, 300, -1, 2**70):
        with pytest.raises(UsageError, match="keeps no checkpoint"):
            api.prove_between(size, 100)
    with pytest.raises(NoteRefused):
        api.prove_between(b"nonsense", 100)
    with pytest.raises(UsageError, match="not of ledger 'main'"):
        api.prove_between(notes[100].replace(b"audit/main", b"audit/other"), 100)


def test_another_history_cannot_be_proven(forged: Ledger, superuser: Superuser, notes: Notes) -> None:
    superuser.rewrite(50, actor="user:43")
    with pytest.raises(ProofRefused, match=r"entry 50 cannot be proven: .* run 'auditledger verify'"):
        forged.prove(50)
    superuser.forget()
    checkpoint(superuser.connection)
    assert check_proof(forged.prove(50).encode(), None, [KEY]).envelope.actor == "user:43"
    with pytest.raises(ProofRefused, match="does not lead to the root of the 100 leaves"):
        forged.prove_between(notes[100], LAST)
    superuser.cut(200)
    superuser.forget()
    checkpoint(superuser.connection)
    with pytest.raises(ProofRefused, match="of 299 entries, and the tree of ledger 'main' has 200: it was truncated"):
        forged.prove_between(200, notes[SIGNED])


def test_a_body_that_is_not_the_entrys_cannot_be_proven(forged: Ledger, superuser: Superuser) -> None:
    superuser.run("update ledger.audit_logs set after = '{}' where position = 50")
    with pytest.raises(ProofRefused, match="its body is not the one"):
        forged.prove(50, with_body=True)
    assert check_proof(forged.prove(50).encode(), None, [KEY])
    superuser.run("delete from ledger.tiles where level = 0 and index = 1")
    with pytest.raises(ProofRefused, match="is missing"):
        forged.prove(50)


def test_both_colours_verify_against_checkpoints(api: Api, notes: Notes) -> None:
    report = api.verify(checkpoints=[notes[100], notes[SIGNED]], keys=[KEY.vkey])
    assert (report.findings, report.first) == ([], 1)
    given = {"checkpoints": [notes[SIGNED]], "keys": [KEY.vkey], "witnesses": [COSIGNER.vkey]}
    assert api.verify(**given, incremental=True).first == SIGNED + 1
    with pytest.raises(NoteRefused, match="checkpoint 2: 0 of the witnesses"):
        api.verify(checkpoints=[notes[SIGNED], notes[100]], keys=[KEY.vkey], witnesses=[COSIGNER.vkey])
    assert Trust.given([KEY.vkey]).keys == (KEY,)


def test_a_reader_of_one_ledger_proves_verifies_and_exports(
    ledger: Ledger, admin: psycopg.Connection, login: Logins, tmp_path: Path
) -> None:
    """With nothing but that role; and neither tiles nor checkpoints of another ledger are shown."""
    ledger.append_many(events(300))
    note = checkpoint(admin)
    ledger.append_many(events(10))
    second = checkpoint(admin)
    drive(create_ledger("second"), admin)
    with Ledger.open(database_url=login("ledger_reader", ledgers=["main"])) as reader:
        [entry] = reader.read(41, 1)
        for which in (42, entry.id):
            assert check_proof(reader.prove(which, with_body=True).encode(), None, [KEY]).body == body(entry)
        assert check_consistency_proof(reader.prove_between(note, 310).encode(), None, [KEY])
        for options in ({}, {"workers": 2}, {"incremental": True}):
            report = reader.verify(checkpoints=[note, second], keys=[KEY.vkey], **options)
            assert report.findings == []
        export(reader.settings, tmp_path / "bundle")
    assert verify_bundle(tmp_path / "bundle", trust=TRUST).findings == []
    assert (tmp_path / "bundle/checkpoint").read_bytes() == second
    with Ledger.open(database_url=login("ledger_reader", ledgers=["second"])) as stranger:
        for plan in (tree.newest_kept(MAIN), tree.size(MAIN)):
            assert not stranger.run(plan)


# -------------------------------------------------------------------------------------------------------- command line


def test_prove_and_check(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "entry.proof"
    size = len(cli.well("prove", "42").out.encode())
    assert cli.well("prove", "42", "-o", str(file)).out == (
        "Wrote the proof of entry 42 of ledger main, in the checkpoint of log.example/audit/main at 299 entries: "
        f"{file}, {size:,} bytes\n"
    )
    assert run("check", str(file), "--key", KEY.vkey).out.endswith("at 299 entries\n")
    text = file.read_text(encoding="utf-8")
    assert cli.well("prove", "42").out == text
    entry_id = run("check", str(file), "--key", KEY.vkey, "--json").json["envelope"]["id"]
    said = cli.well("prove", entry_id, "--json").json
    root = said.pop("root")
    assert len(root) == 64 and said == {
        "kind": "proof", "position": 42, "ledger": "main", "origin": SIGNER.name, "size": SIGNED, "bytes": size,
        "proof": text,
    }  # fmt: skip
    body_text = run("check", "-", "--key", KEY.vkey, stdin=cli.well("prove", "42", "--with-body").out.encode())
    assert json.loads(body_text.out.splitlines()[1])["after"] == {"number": 41}


def test_prove_between_and_check(cli: Cli, notes: Notes, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(notes[100])
    new.write_bytes(notes[SIGNED])
    file = tmp_path / "proof"
    for pair in (("100", "299"), (str(old), str(new)), (str(old), "299")):
        ran = cli.well("prove", "--between", *pair, "-o", str(file), "--json").json
        assert (ran["kind"], ran["old_size"], ran["size"], ran["file"]) == ("consistency", 100, SIGNED, str(file))
        assert run("check", str(file), "--key", KEY.vkey).code == 0
    assert cli.well("prove", "--between", "0", "100", "-o", str(file)).out.startswith(
        "Wrote the proof that the checkpoint of log.example/audit/main at 100 entries continues that at 0: "
    )


def test_wrong_use_of_prove(cli: Cli, tmp_path: Path) -> None:
    for arguments in (
        [],
        ["1", "--between", "1", "2"],
        ["--between", "0", "100", "--with-body"],
        ["--between", "0", str(tmp_path / "none")],
        ["--between", "0", "50"],
        ["nonsense"],
        ["0"],
        ["301"],
        ["300"],
        ["7", "--with-body"],
        ["1", "-o", str(tmp_path / "none" / "file")],
        ["1", "-o", str(tmp_path)],
    ):
        ran = cli("prove", *arguments)
        assert ran.code == 2 and ran.error and not ran.out, arguments
    (tmp_path / "note").write_bytes(b"nonsense")
    assert cli("prove", "--between", "0", str(tmp_path / "note")).code == 1


def test_verify_with_checkpoints(cli: Cli, notes: Notes, tmp_path: Path) -> None:
    files = []
    for size, note in notes.items():
        (tmp_path / f"{size}").write_bytes(note)
        files += ["--checkpoint", str(tmp_path / f"{size}")]
    key = ["--key", KEY.vkey]
    ran = cli.well("verify", *files, *key, "--json").json
    assert (ran["ok"], ran["first"], ran["last"]) == (True, 1, LAST)
    ran = cli.well("verify", *files, *key, "--incremental", "--json").json
    assert (ran["ok"], ran["first"], ran["entries"]) == (True, 300, 1)
    assert cli.well("verify", *files[4:], *key, "--witness", COSIGNER.vkey).out.startswith("OK, ledger main")
    for arguments, code in (
        ((*files,), 2),
        ((*files, *key, "--from", "2"), 2),
        ((*key, "--incremental"), 2),
        (("--checkpoint", str(tmp_path / "none"), *key), 2),
        ((*files, *key, "--witness", COSIGNER.vkey), 1),
        ((*files, "--key", COSIGNER.vkey), 2),
    ):
        ran = cli("verify", *arguments)
        assert ran.code == code and ran.error and not ran.out, arguments


def test_verify_names_what_a_checkpoint_denies(
    forged: Ledger, superuser: Superuser, notes: Notes, tmp_path: Path
) -> None:
    superuser.rewrite(250, actor="user:43")
    superuser.forget()
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(notes[100])
    new.write_bytes(notes[SIGNED])
    arguments = ["--checkpoint", str(old), "--checkpoint", str(new), "--key", KEY.vkey]
    ran = Cli("--database-url", forged.settings.database_url or "")("verify", *arguments)
    finding, verdict, first, second = ran.out.splitlines()
    assert str(old) in first and first.startswith("Compared with the checkpoint")
    assert str(new) in second and second.startswith("Does not match the checkpoint")
    assert ran.code == 1 and verdict.startswith("DOES NOT VERIFY, ledger main: 300 entries")
    assert finding.split(maxsplit=2) == [
        "299", "rewritten",
        f"{new}, of 299 entries, names a root that these entries do not have: the change lies after entry 100",
    ]  # fmt: skip
