"""Signing a ledger: kept checkpoints and states, findings after a superuser's changes, racing and killed signers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from ledger import (
    AsyncLedger,
    InvalidSetting,
    Key,
    Ledger,
    NoteRefused,
    PublishingFailed,
    SigningRefused,
    Unavailable,
    testing,
)
from ledger.checkpoints.keys import create_key, read_key, state_beside
from ledger.checkpoints.signer import Checkpointer
from ledger.checkpoints.state import locked
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.store import tree
from ledger.store.ledgers import create_ledger
from ledger.store.tree import Head, Kept
from ledger.tlog.checkpoint import Checkpoint, open_checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import check_consistency
from ledger.tlog.note import Verifier, cosign, parse_note, sign, verified_by
from ledger.tlog.witness_protocol import Cosigned, Prove
from tests.support.cli import cli_of
from tests.support.forger import Forger
from tests.support.helpers import erase, event, events, eventually, race
from tests.support.logins import Logins
from tests.support.trees import MAIN, check_tree, cut, envelopes, naive_root, rewrite

NAME = "log.example/audit/main"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "main.key", NAME)
    return tmp_path / "main.key"


def state(key: Path) -> Head:
    with locked([state_beside(key)], NAME, 1.0) as [state]:
        return state.head


def kept(ledger: Ledger) -> list[Kept]:
    return ledger.run(tree.all_kept(MAIN))


def opened(note: bytes, *keys: Path) -> Checkpoint:
    """Signed by every one of the keys."""
    verifiers = [Verifier.parse(read_key(key).vkey) for key in keys]
    assert verified_by(parse_note(note), verifiers) == verifiers
    return open_checkpoint(note, NAME, verifiers)


@pytest.fixture
def forger(ledger: Ledger) -> Iterator[Forger]:
    with Forger(ledger.settings.database_url or "") as forger:
        yield forger


# ------------------------------------------------------------------------------------------------------------ signing


def test_a_checkpoint_is_signed_kept_and_remembered(ledger: Ledger, admin: psycopg.Connection, key: Path) -> None:
    for step in (0, 3, 300, 0, 1):
        ledger.append_many(events(step))
        made = ledger.checkpoint(key)
        leaves = envelopes(ledger)
        assert (made.ledger, made.origin, made.size, made.root) == ("main", NAME, len(leaves), naive_root(leaves))
        assert opened(made.note, key) == Checkpoint(NAME, made.size, made.root)
        assert (made.published, made.failed) == ([], [])
        assert state(key) == Head(made.size, made.root, ledger.tail().hash)
        check_tree(ledger, admin, state(key))
    assert [each.size for each in kept(ledger)] == [0, 3, 303, 304]
    assert [each.note for each in kept(ledger)][-1] == made.note


def test_async(ledger: Ledger, key: Path, tmp_path: Path) -> None:
    ledger.append_many(events(10))
    create_key(tmp_path / "new.key", NAME)

    async def main() -> None:
        async with AsyncLedger(ledger.settings) as other:
            first = await other.checkpoint(str(key), publish=[tmp_path / "log", "redis"])
            assert (first.size, first.published) == (10, [str(tmp_path / "log"), "redis"])
            receipt = await other.rotate_key(key, tmp_path / "new.key")
            both = await other.checkpoint(key, tmp_path / "new.key")
            assert (receipt.position, both.size) == (11, 11)
            assert opened(both.note, key, tmp_path / "new.key").size == 11

    asyncio.run(main())


def test_a_key_that_is_kept_elsewhere(ledger: Ledger, tmp_path: Path) -> None:
    """Any object with name, vkey and sign: here one that fails at first, as a service does."""

    class Service:
        signer = FileSigner(NAME, bytes(32))
        name, vkey = NAME, signer.vkey
        away = True

        def sign(self, message: bytes) -> bytes:
            if self.away:
                raise TimeoutError("no answer")
            return self.signer.sign(message)

    service = Service()
    key = Key(service, tmp_path / "service.state")
    ledger.append_many(events(5))
    with pytest.raises(InvalidSetting, match="--new-state"):
        ledger.checkpoint(key)
    with pytest.raises(Unavailable, match=f"{NAME} could not sign: TimeoutError: no answer"):
        ledger.checkpoint(key, new_state=True)
    assert kept(ledger) == []
    service.away = False
    assert ledger.checkpoint(key).size == 5
    assert [each.size for each in kept(ledger)] == [5]
    service.sign = lambda message: bytes(64)  # type: ignore[method-assign]
    ledger.append(event())
    with pytest.raises(NoteRefused, match="does not verify"):
        ledger.checkpoint(key)
    assert [each.size for each in kept(ledger)] == [5]


def test_a_key_of_another_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    create_key(tmp_path / "other.key", "log.example/audit/other")
    with pytest.raises(InvalidSetting, match="does not sign for ledger 'main'"):
        ledger.checkpoint(tmp_path / "other.key")


def test_a_log_under_another_name_signs_the_same_entries_too(ledger: Ledger, key: Path, tmp_path: Path) -> None:
    ledger.append_many(events(5))
    ledger.checkpoint(key)
    create_key(tmp_path / "renamed.key", "another.example/main")
    assert ledger.checkpoint(tmp_path / "renamed.key", new_state=True).size == 5
    assert len(kept(ledger)) == 2 and ledger.verify().findings == []
    ledger.append(event())
    assert ledger.checkpoint(tmp_path / "renamed.key").size == 6


# ----------------------------------------------------------------------------------------------------------- rotation


def test_rotation_from_the_old_key_to_the_new(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    for path in (old, new):
        create_key(path, NAME)
    ledger.append_many(events(5))
    ledger.checkpoint(old)
    receipt = ledger.rotate_key(old, new)
    assert ledger.rotate_key(old, new) == receipt
    [entry] = ledger.read(after=5)
    assert (entry.action, entry.resource_type) == ("ledger.key_rotated", "ledger.key")
    assert entry.metadata == {"old": read_key(old).vkey, "new": read_key(new).vkey}
    assert state(new) == state(old)
    both = ledger.checkpoint(old, new)
    assert opened(both.note, old, new).size == 6
    again = ledger.checkpoint(new)
    assert again.note == both.note
    ledger.append(event())
    last = ledger.checkpoint(new)
    assert opened(last.note, new).size == 7
    assert state(old).size == 6


def test_a_signature_is_added_to_a_checkpoint_that_is_kept(ledger: Ledger, key: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.key"
    create_key(new, NAME)
    ledger.append_many(events(5))
    first = ledger.checkpoint(key)
    second = ledger.checkpoint(new)
    assert second.note.startswith(first.note)
    opened(second.note, key, new)
    assert [each.note for each in kept(ledger)] == [second.note]


# ------------------------------------------------------------------------------------------------- a superuser's doings


@pytest.fixture
def signed(ledger: Ledger, key: Path) -> Path:
    """600 entries signed, 100 more not yet."""
    ledger.append_many(events(600))
    ledger.checkpoint(key)
    ledger.append_many(events(100))
    return key


def refused(ledger: Ledger, key: Path) -> str:
    """By a process that has seen nothing of the ledger but the state of its key."""
    before, notes = state(key), kept(ledger)
    with Ledger(ledger.settings) as fresh, pytest.raises(SigningRefused) as caught:
        fresh.checkpoint(key)
    assert "nothing was signed" in str(caught.value)
    assert (state(key), kept(ledger)) == (before, notes)
    return caught.value.kind


ALL_TRACES = ("delete from ledger.tiles", "delete from ledger.checkpoints")


@pytest.mark.parametrize("traces", [(), ALL_TRACES])
def test_entries_rewritten(ledger: Ledger, signed: Path, forger: Forger, traces: tuple[str, ...]) -> None:
    rewrite(forger, 550, 700)
    forger.run(*traces)
    forger.done()
    assert refused(ledger, signed) == "rewritten"


@pytest.mark.parametrize("traces", [(), ALL_TRACES])
def test_entries_cut_off(ledger: Ledger, signed: Path, forger: Forger, traces: tuple[str, ...]) -> None:
    cut(forger, 599)
    forger.run(*traces)
    forger.done()
    assert refused(ledger, signed) == "truncated"
    forger.connection.close()
    with Ledger(ledger.settings) as other:
        other.append_many(events(200, 599))
    assert refused(ledger, signed) == "rewritten"


def test_a_body_removed_without_its_erasure(ledger: Ledger, signed: Path, forger: Forger) -> None:
    forger.run(
        "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null where position = 650"
    )
    forger.done()
    with Ledger(ledger.settings) as fresh, pytest.raises(Exception, match="entry 650: body_missing"):
        fresh.checkpoint(signed)


def test_an_old_backup_brought_back(ledger: Ledger, servers: testing.TestServers, key: Path) -> None:
    """Of everything: entries, tail, tiles and checkpoints, as they were at 300 entries; and then gone on from."""
    ledger.append_many(events(300))
    ledger.checkpoint(key)
    ledger.close()
    name = (ledger.settings.database_url or "").rpartition("/")[2]
    with testing.database(servers.database_url, template=name) as backup:
        with Ledger(ledger.settings) as lively:
            lively.append_many(events(300))
            lively.checkpoint(key)
        with Ledger.open(database_url=backup) as restored:
            assert refused(restored, key) == "truncated"
            restored.append_many(events(300, 1000))
            assert refused(restored, key) == "rewritten"
            restored.append_many(events(300, 1000))
            assert refused(restored, key) == "rewritten"
        with Ledger(ledger.settings) as lively:
            lively.append(event())
            assert lively.checkpoint(key).size == 601


def test_two_histories_shown_to_two_keys(
    ledger: Ledger, servers: testing.TestServers, key: Path, tmp_path: Path
) -> None:
    """The second signer has never signed: it takes what the first one signed from the kept checkpoint."""
    other = tmp_path / "other.key"
    create_key(other, NAME)
    ledger.append_many(events(100))
    ledger.checkpoint(key, other)
    ledger.close()
    name = (ledger.settings.database_url or "").rpartition("/")[2]
    with testing.database(servers.database_url, template=name) as url, Ledger.open(database_url=url) as fork:
        with Ledger(ledger.settings) as lively:
            lively.append_many(events(50))
            lively.checkpoint(key)
        fork.append_many(events(50, 500))
        fork.checkpoint(other)
        assert refused(fork, key) == "rewritten"


def test_a_kept_checkpoint_that_was_changed(ledger: Ledger, signed: Path, forger: Forger) -> None:
    change = "overlay(note placing case substr(note, 120, 1) when 'A' then 'B' else 'A' end from 120 for 1)"
    forger.run(f"update ledger.checkpoints set note = {change}")  # a byte of the signature
    forger.done()
    with pytest.raises(NoteRefused):
        ledger.checkpoint(signed)


def test_another_checkpoint_signed_with_the_same_key(ledger: Ledger, admin: psycopg.Connection, signed: Path) -> None:
    """Whoever has the key but not the state can sign a fork; the signer that has the state says so."""
    fork = Checkpoint(NAME, 650, bytes(range(32)))
    key = read_key(signed)
    note = sign(fork.text, [key])
    admin.execute(
        "insert into ledger.checkpoints (ledger_id, size, root, note) values (1, 650, %s, %s)",
        (fork.root, note.decode()),
    )
    assert refused(ledger, signed) == "rewritten"


def test_a_lost_state_is_begun_anew_only_when_told(ledger: Ledger, signed: Path, forger: Forger) -> None:
    state_beside(signed).unlink()
    with pytest.raises(InvalidSetting, match="--new-state"):
        ledger.checkpoint(signed)
    assert not state_beside(signed).exists()
    rewrite(forger, 550, 700)
    forger.run("delete from ledger.tiles")
    with Ledger(ledger.settings) as fresh, pytest.raises(SigningRefused, match="rewritten: the root of the first 600"):
        fresh.checkpoint(signed, new_state=True)
    state_beside(signed).unlink()


def test_a_new_state_checks_the_whole_ledger(ledger: Ledger, signed: Path, forger: Forger) -> None:
    state_beside(signed).unlink()
    forger.run("update ledger.audit_logs set after = '{}' where position = 3")
    with Ledger(ledger.settings) as fresh, pytest.raises(Exception, match="entry 3: body_mismatch"):
        fresh.checkpoint(signed, new_state=True)


# ------------------------------------------------------------------------------------------------- crashes and races


_DYING = """
import os, signal, sys
from pathlib import Path
from ledger import Key, Ledger
from ledger.checkpoints.keys import read_key, state_beside

path, where = Path(sys.argv[1]), sys.argv[2]
signer = read_key(path)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying:
    name, vkey = signer.name, signer.vkey

    def sign(self, message):
        if where == "before signing":
            die()
        signature = signer.sign(message)
        if where == "after signing":
            Path(sys.argv[3]).write_bytes(message)
            die()
        return signature

    publish = die

from ledger.store import tree
from ledger.checkpoints.state import State
if where == "before the state":
    State.advance = die
if where == "after keeping":
    kept = tree.keep

    def keep(*args):
        note = yield from kept(*args)
        die()

    tree.keep = keep
with Ledger.open() as ledger:
    ledger.checkpoint(Key(Dying(), state_beside(path)), publish=[Dying()] if where == "publishing" else ())
"""


@pytest.mark.parametrize(
    ("where", "remembered", "stored"),
    [
        ("before the state", 300, 300),
        ("before signing", 400, 300),
        ("after signing", 400, 300),
        ("after keeping", 400, 400),
        ("publishing", 400, 400),
    ],
)
def test_killed(
    ledger: Ledger, admin: psycopg.Connection, key: Path, tmp_path: Path, where: str, remembered: int, stored: int
) -> None:
    """The state is never behind a signature that came out; wherever it died, the next one goes on to the same end."""
    ledger.append_many(events(300))
    ledger.checkpoint(key)
    ledger.append_many(events(100))
    died = subprocess.run(
        [sys.executable, "-c", _DYING, str(key), where, str(tmp_path / "signed")],
        env=os.environ
        | {
            "LEDGER_DATABASE_URL": ledger.settings.database_url or "",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}",
        },
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert state(key).size == remembered
    assert kept(ledger)[-1].size == stored
    assert drive(tree.size(MAIN), admin) == 400
    made = ledger.checkpoint(key)
    assert opened(made.note, key) == Checkpoint(NAME, 400, naive_root(envelopes(ledger)))
    if where == "after signing":
        assert (tmp_path / "signed").read_bytes() == parse_note(made.note).text
    ledger.append(event())
    assert ledger.checkpoint(key).size == 401
    check_tree(ledger, admin, state(key))


def test_a_state_ahead_of_a_database_that_lost_what_was_signed(ledger: Ledger, signed: Path, forger: Forger) -> None:
    """As after a failover to a standby that had not everything: refused for ever, under whatever is appended then."""
    ledger.checkpoint(signed)
    cut(forger, 650)
    forger.run("delete from ledger.tiles", "delete from ledger.checkpoints where size > 650")
    forger.done()
    assert refused(ledger, signed) == "truncated"
    with Ledger(ledger.settings) as other:
        other.append_many(events(100))
    assert refused(ledger, signed) == "rewritten"


def test_a_state_behind_the_database_catches_up(ledger: Ledger, admin: psycopg.Connection, signed: Path) -> None:
    """As where the key's folder was restored from a backup: what was signed since is checked, and gone on from."""
    old = state_beside(signed).read_bytes()
    ledger.checkpoint(signed)
    ledger.append_many(events(50))
    state_beside(signed).write_bytes(old)
    assert ledger.checkpoint(signed).size == 750
    check_tree(ledger, admin, state(signed))


@pytest.mark.parametrize("shared", [True, False])
def test_two_signers_at_once(
    ledger: Ledger, admin: psycopg.Connection, key: Path, tmp_path: Path, shared: bool
) -> None:
    """Of one key on one host, and of one key copied to another, while entries come: one history at all sizes."""
    other = key if shared else tmp_path / "copy/main.key"
    if not shared:
        other.parent.mkdir()
        for file in (key, state_beside(key)):
            shutil.copy(file, other.parent)
    stop = threading.Event()

    def sign(path: Path) -> list[bytes]:
        servers = Connector(ledger.settings)
        try:
            signer = Checkpointer(servers, [path])
            return [signer.checkpoint().note for _ in range(25)]
        finally:
            servers.close()

    def append() -> list[bytes]:
        number = 0
        while not stop.is_set():
            ledger.append_many(events(7, number))
            number += 7
        return []

    def signing() -> list[bytes]:
        try:
            return [note for notes in race(lambda: sign(key), lambda: sign(other)) for note in notes]
        finally:
            stop.set()

    notes, _ = race(signing, append)
    made = sorted({opened(note, key) for note in notes}, key=lambda each: each.size)
    assert len({each.size for each in made}) == len(made) > 2
    assert [each.size for each in kept(ledger)] == [each.size for each in made]
    for old, new in pairwise(made):
        proof = ledger.run(tree.consistency_proof(MAIN, old.size, new.size))
        check_consistency(old.size, old.root, new.size, new.root, proof)
    ledger.checkpoint(key)
    check_tree(ledger, admin, state(key))


def test_under_roles(ledger: Ledger, admin: psycopg.Connection, key: Path, login: Logins, tmp_path: Path) -> None:
    """A projector signs; a reader sees the tree of its ledgers and changes nothing; the others see nothing of it."""
    new = tmp_path / "new.key"
    create_key(new, NAME)
    drive(create_ledger("second"), admin)
    ledger.append_many(events(300))
    with Ledger.open(database_url=login("ledger_projector")) as signing:
        assert signing.checkpoint(key).size == 300
        signing.rotate_key(key, new)
        assert signing.checkpoint(key, new).size == 301
        assert opened(signing.checkpoint(key, new).note, key, new).size == 301
    for role, ledgers, seen in (
        ("ledger_reader", ["main"], 2),
        ("ledger_reader", ["second"], 0),
        ("ledger_reader", None, 2),
        ("ledger_writer", None, None),
        ("ledger_eraser", None, None),
        ("ledger_admin", None, None),
    ):
        with psycopg.connect(login(role, ledgers=ledgers), autocommit=True) as connection:
            for table, column in (("tiles", "hashes"), ("checkpoints", "note")):
                if seen is None:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(f"select from ledger.{table}")
                else:
                    [(found,)] = connection.execute(f"select count(*) from ledger.{table} where ledger_id = 1")
                    assert found == (seen if table == "checkpoints" else seen and 3)
                for statement in (
                    f"update ledger.{table} set {column} = {column}",
                    f"insert into ledger.{table} ({column}) select {column} from ledger.{table}",
                    f"delete from ledger.{table}",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)
    assert ledger.verify().findings == []


def test_erasure_between_two_checkpoints(ledger: Ledger, admin: psycopg.Connection, key: Path) -> None:
    ledger.append_many(events(5))
    ledger.checkpoint(key)
    ledger.append_many(events(5))
    erase(admin, 2)
    erase(admin, 7)
    assert ledger.checkpoint(key).size == 12


# -------------------------------------------------------------------------------------------- publishing, witnesses


class Place:
    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.away = False

    def __str__(self) -> str:
        return "place"

    def publish(self, note: bytes) -> None:
        if self.away:
            raise OSError("away")
        self.taken.append(note)


def test_what_was_not_published_is_the_next_time(ledger: Ledger, key: Path, tmp_path: Path) -> None:
    place = Place()
    place.away = True
    ledger.append_many(events(5))
    with pytest.raises(PublishingFailed, match="1 of 2 publishers took it and 2 are required: place: away"):
        ledger.checkpoint(key, publish=[place, tmp_path / "log"])
    assert [each.size for each in kept(ledger)] == [5]
    made = ledger.checkpoint(key, publish=[place, tmp_path / "log"], require=1)
    assert (made.published, made.failed) == ([str(tmp_path / "log")], [("place", "away")])
    place.away = False
    assert ledger.checkpoint(key, publish=[place]).published == ["place"]
    assert place.taken == [made.note]
    with pytest.raises(InvalidSetting, match="2 publishers are required, and 1 are given"):
        ledger.checkpoint(key, publish=[place], require=2)


def test_cosignatures_are_kept_and_too_few_are_asked_for_again(ledger: Ledger, key: Path) -> None:
    witness = FileSigner("witness.example", bytes(32))
    willing, asked = False, []

    def ask(note: bytes, prove: Prove) -> Cosigned:
        checkpoint = Checkpoint.of(note)
        asked.append((checkpoint.size, prove(5) if checkpoint.size > 5 else []))
        if willing:
            note += cosign(parse_note(note).text, witness, 1_800_000_000).line

        def demand(kept: bytes) -> None:
            if b"witness.example" not in kept:
                raise Unavailable("no cosignature")

        return Cosigned(note, demand)

    place = Place()
    ledger.append_many(events(5))
    with pytest.raises(Unavailable, match="no cosignature"):
        ledger.checkpoint(key, publish=[place], cosign=ask)
    assert [each.size for each in kept(ledger)] == [5]
    assert place.taken == []
    willing = True
    made = ledger.checkpoint(key, publish=[place], cosign=ask)
    verifier = Verifier.parse(witness.vkey).cosigner
    assert verified_by(parse_note(made.note), [verifier]) == [verifier]
    assert place.taken == [made.note] == [each.note for each in kept(ledger)]
    ledger.append(event())
    ledger.checkpoint(key, cosign=ask)
    assert [size for size, _ in asked] == [5, 5, 6]
    assert len(asked[-1][1]) == len(ledger.run(tree.consistency_proof(MAIN, 5, 6)))


def shown(ledger: Ledger) -> list[str]:
    """What signers said last, as `status` shows it."""
    [main] = cli_of(ledger).well("status", "--json").json["ledgers"]
    return [each["problem"] for each in main["signing_refused"]]


def test_again_and_again(ledger: Ledger, key: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What has not changed is signed and published once; a place that was away is tried again; after a refusal nothing
    is signed, which is logged once, noted for `status` and `doctor`, and waited for."""
    caplog.set_level("INFO", logger="ledger.checkpointing")
    place, other = Place(), Place()
    servers = Connector(ledger.settings)
    signer = Checkpointer(servers, [key], publish=[place, other], require=1)
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            signer.run(stop, 0.02)
        except BaseException as error:
            errors.append(error)

    def until(size: int, at: Place) -> None:
        for _ in range(1500):
            if at.taken and opened(at.taken[-1], key).size == size:
                return
            stop.wait(0.02)
        raise AssertionError(f"no checkpoint of {size} entries: {caplog.text}")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ledger.append_many(events(5))
        until(5, place)
        until(5, other)
        stop.wait(0.2)
        place.away = True
        ledger.append_many(events(5))
        until(10, other)
        for _ in range(1500):
            if "place: away" in caplog.text:
                break
            stop.wait(0.02)
        place.away = False
        until(10, place)
        for each in (place, other):
            sizes = [opened(note, key).size for note in each.taken]
            assert sizes == sorted(set(sizes)), "each once"
            assert sizes[-1] == 10
        with Forger(ledger.settings.database_url or "") as forger:
            cut(forger, 9)
            forger.done()
        eventually(lambda: shown(ledger) != [])
        stop.wait(2)
        assert [each.partition(": ")[0] for each in shown(ledger)] == ["truncated"]
        assert caplog.text.count("truncated: ") == 1 and "place: away" in caplog.text
        assert thread.is_alive() and errors == []
        assert [opened(each.taken[-1], key).size for each in (place, other)] == [10, 10]
        checks = {each["name"]: each for each in cli_of(ledger)("doctor", "--json").json["checks"]}
        check = checks["main: signing"]
        assert check["level"] == "danger" and "truncated: " in check["found"]
        assert "IS NOT SIGNED" in cli_of(ledger).well("status").out
        place.taken.clear()
        ledger.append(event(9))  # another than the one that was signed
        stop.wait(2)
        assert place.taken == [] and shown(ledger) != []
    finally:
        stop.set()
        thread.join()
        servers.close()
