"""Key files and their states: permissions, refusals, and the lock between two signers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ledger import InvalidSetting, Key, SigningRefused, Unavailable
from ledger.checkpoints.keys import create_key, hand_over, key_of, origin_of, read_key, rotating, state_beside
from ledger.checkpoints.state import create_state, locked
from ledger.store.tree import EMPTY_HEAD, Head
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import EMPTY_ROOT
from ledger.tlog.note import Verifier
from tests.support.logs import Log

NAME = "log.example/audit/main"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key(tmp_path / "keys/main.key", NAME)
    return tmp_path / "keys/main.key"


def state_of(path: Path) -> Head:
    with locked([state_beside(path)], NAME, 1.0) as [state]:
        return state.head


def head_of(log: Log, size: int | None = None) -> Head:
    checkpoint = log.checkpoint(size)
    return Head(checkpoint.size, checkpoint.root, bytes([checkpoint.size % 256]) * 32)


def test_a_key_is_its_owners_alone(path: Path) -> None:
    for file in (path, state_beside(path)):
        assert file.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert text.startswith(f"PRIVATE+KEY+{NAME}+")
    assert text.endswith("\n")
    key = read_key(path)
    assert key.name == NAME
    assert key_of(path).state == key_of(str(path)).state == state_beside(path)
    assert state_of(path) == EMPTY_HEAD
    assert key.vkey != create_key(path.with_name("other"), NAME).vkey
    assert repr(key) == f"FileSigner({key.vkey!r})"


def test_a_key_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InvalidSetting, match=r"state.* is there already"):
        create_key(path, NAME)
    state_beside(path).unlink()
    with pytest.raises(InvalidSetting, match=r"main\.key is there already"):
        create_key(path, NAME)
    path.with_name("link").symlink_to(path.with_name("target"))
    with pytest.raises(InvalidSetting):
        create_key(path.with_name("link"), NAME)
    assert not path.with_name("target").exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_key_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(InvalidSetting, match=f"can be read by others than its owner .mode {mode:04o}.*chmod 600"):
        read_key(path)
    path.chmod(0o400)
    read_key(path)


@pytest.mark.parametrize("text", ["", "\n", "PRIVATE+KEY+x", "\xff", "PRIVATE+KEY+log/main+00000000+AAAA", "a" * 9000])
def test_what_is_no_key_is_refused_and_not_shown(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSetting, match=r"main\.key"):
        read_key(path)
    path.unlink()
    with pytest.raises(InvalidSetting, match="keygen"):
        read_key(path)
    with pytest.raises(InvalidSetting, match="Key"):
        key_of(FileSigner(NAME, bytes(32)))  # type: ignore[arg-type]


def test_a_key_cut_short_shows_nothing_of_itself(path: Path) -> None:
    text = path.read_text()
    for changed in (text[:-9], text.replace(text[-20], "x" if text[-20] != "x" else "y")):
        path.write_text(changed)
        with pytest.raises(InvalidSetting) as caught:
            read_key(path)
        assert text[-30:-10] not in str(caught.value)


def test_keys_that_do_not_sign_together(tmp_path: Path) -> None:
    one, other = (Key(FileSigner(NAME, bytes([seed]) * 32), tmp_path / "s") for seed in (1, 2))
    stranger = Key(FileSigner("log.example/audit/other", bytes(32)), tmp_path / "s")
    assert origin_of([one, other], "main") == NAME
    for keys, ledger, problem in (
        ([], "main", "no key"),
        ([one, one], "main", "more than once"),
        ([one, stranger], "main", "same name"),
        ([stranger], "main", "does not sign for ledger 'main'"),
        ([one], "ain", "does not sign for ledger 'ain'"),
    ):
        with pytest.raises(InvalidSetting, match=problem):
            origin_of(keys, ledger)

    class Cosigner(FileSigner):
        @property
        def vkey(self) -> str:
            return Verifier.parse(super().vkey).cosigner.vkey

    class Misnamed(FileSigner):
        @property
        def name(self) -> str:
            return "another/main"

    for kind in (Cosigner, Misnamed):
        with pytest.raises(InvalidSetting, match="of another name or type"):
            origin_of([Key(kind(NAME, bytes(32)), tmp_path / "s")], "main")


# ------------------------------------------------------------------------------------------------------------- states


def test_a_state_goes_on_from_what_was_signed(path: Path) -> None:
    log = Log(1000)
    sizes = [0, 0, 1, 255, 256, 256, 900, 1000]
    old = EMPTY_HEAD
    for size in sizes:
        with locked([state_beside(path)], NAME, 1.0) as [state]:
            assert state.head == old
            head = head_of(log, size) if size else EMPTY_HEAD
            state.advance(head, log.consistency(old.size, size))
            old = head
        assert state_of(path) == old
    assert not list(path.parent.glob("*.state.*"))


def test_a_state_refuses_what_is_no_extension(path: Path) -> None:
    log, fork = Log(1000), Log(300)
    fork.append(700, actor="user:43")
    with locked([state_beside(path)], NAME, 1.0) as [state]:
        state.advance(head_of(log, 500), log.consistency(0, 500))
    before = state_beside(path).read_bytes()
    for head, proof, kind in (
        (head_of(log, 499), [], "truncated"),
        (EMPTY_HEAD, [], "truncated"),
        (head_of(fork, 500), [], "rewritten"),
        (head_of(fork, 800), fork.consistency(500, 800), "rewritten"),
        (head_of(log, 800), fork.consistency(500, 800), "rewritten"),
        (head_of(log, 800), log.consistency(500, 800)[:-1], "rewritten"),
        (head_of(log, 800), [], "rewritten"),
        (head_of(log, 800)._replace(root=EMPTY_ROOT), log.consistency(500, 800), "rewritten"),
    ):
        with locked([state_beside(path)], NAME, 1.0) as [state], pytest.raises(SigningRefused) as caught:
            state.advance(head, proof)
        assert caught.value.kind == kind
        assert state_beside(path).read_bytes() == before


def test_a_state_that_is_missing_or_damaged_is_refused(path: Path) -> None:
    log = Log(300)
    file = state_beside(path)
    with locked([file], NAME, 1.0) as [state]:
        state.advance(head_of(log), log.consistency(0, 300))
    stored = json.loads(file.read_bytes())
    for changes in (
        {"size": -1}, {"size": "300"}, {"size": 0}, {"root": ""}, {"root": "zz" * 32}, {"hash": "00"}, {"more": 1},
    ):  # fmt: skip
        file.write_text(json.dumps(stored | changes))
        with pytest.raises(InvalidSetting, match="not a signer's state file"), locked([file], NAME, 1.0):
            pass
    file.write_text(json.dumps(stored | {"origin": "log.example/audit/other"}))
    with pytest.raises(InvalidSetting, match=r"state of 'log\.example/audit/other'"), locked([file], NAME, 1.0):
        pass
    file.unlink()
    with pytest.raises(InvalidSetting, match="--new-state"), locked([file], NAME, 1.0):
        pass
    create_state(file, NAME)
    assert state_of(path) == EMPTY_HEAD


def test_one_signer_at_a_time(path: Path) -> None:
    """Each adds one to what it reads: none is lost, though the file is replaced under the others' locks."""
    log = Log(60)
    file = state_beside(path)

    def signer() -> None:
        for _ in range(20):
            with locked([file], NAME, 30.0) as [state]:
                size = state.head.size + 1
                state.advance(head_of(log, size), log.consistency(state.head.size, size))

    threads = [threading.Thread(target=signer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of(path).size == 60


def test_a_signer_that_waits_too_long_says_so(path: Path) -> None:
    file = state_beside(path)
    with (
        locked([file], NAME, 1.0),
        pytest.raises(Unavailable, match="another signer holds"),
        locked([file], NAME, 0.05),
    ):
        pass
    with locked([file], NAME, 0.05):
        pass


# ----------------------------------------------------------------------------------------------------------- rotation


def test_a_new_key_remembers_what_the_old_one_signed(path: Path) -> None:
    log = Log(300)
    new = path.with_name("new.key")
    create_key(new, NAME)
    with locked([state_beside(path)], NAME, 1.0) as [state]:
        state.advance(head_of(log, 200), log.consistency(0, 200))
    hand_over(key_of(path), key_of(new), 1.0)
    assert state_of(new) == state_of(path) == head_of(log, 200)
    with locked([state_beside(new)], NAME, 1.0) as [state]:
        state.advance(head_of(log), log.consistency(200, 300))
    hand_over(key_of(path), key_of(new), 1.0)
    assert state_of(new) == head_of(log)


def test_the_event_of_a_rotation(path: Path) -> None:
    old, new = read_key(path), create_key(path.with_name("new.key"), NAME)
    event = rotating(old, new)
    assert (event.action, event.resource_type, event.resource_id) == (
        "ledger.key_rotated", "ledger.key", f"{new.verifier.key_id:08x}",
    )  # fmt: skip
    assert event.metadata == {"old": old.vkey, "new": new.vkey}
    assert (event.actor, event.actor_type) == (f"key:{old.verifier.key_id:08x}", "key")
    assert rotating(old, new, "user:1").actor == "user:1"
    for one, other in ((old, old), (old, FileSigner("log/other", bytes(32)))):
        with pytest.raises(InvalidSetting, match="two different keys of one name"):
            rotating(one, other)
