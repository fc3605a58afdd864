"""Damaged private files of the package: keys, states of signers and witnesses, passwords, journals.

What comes back from a damaged file would be signed, or connected with: so it is what was written, or refused.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given

from ledger.checkpoints.keys import Key, create_key, key_of
from ledger.checkpoints.state import State, create_state, locked
from ledger.embedded.access import Keyring
from ledger.errors import IntegrityError, InvalidSetting, LedgerError, MigrationTampered, NoteRefused
from ledger.migrate import migrate
from ledger.store.tree import Head
from ledger.tlog.cosigner import Cosigner
from tests.fuzz import seeds
from tests.fuzz.mutations import WORDS, mutated
from tests.fuzz.profile import bounded, fuzz
from tests.support.witnesses import KEY, request

ORIGIN = "log.example/audit/main"
HEAD = Head(7, b"\x07" * 32, b"\x08" * 32)
ACCESS = {"postgres": {"port": 5433, "password": "s3cret"}, "valkey": {"port": 6380, "password": "s3cret"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def state_in(path: Path) -> State:
    with locked([path], ORIGIN, 1) as [state]:
        return state


def test_a_signers_state(folder: Path) -> None:
    path = folder / "main.key.state"
    create_state(path, ORIGIN)
    state_in(path).put(HEAD)
    sound = path.read_bytes()

    @fuzz(30)
    @given(mutated([sound]))
    @example(b'{"origin":"log.example/audit/main","more":' + b"[" * 4000)
    @example(sound.replace(b"7,", b"7e0,"))
    @example(sound.replace(b'"root":"07', b'"root":" 07'))
    @example(sound.replace(b'"size":7', b'"size":' + b"9" * 4000))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with bounded():
            try:
                state = state_in(path)
            except InvalidSetting as error:
                assert "s3cret" not in str(error)
                return
        assert state.head.hash is not None
        state.put(state.head)
        assert state_in(path).head == state.head
        assert path.read_bytes().strip() == data.strip() or json.loads(path.read_bytes()) == json.loads(data)

    check()


def test_a_key_file(folder: Path) -> None:
    path = folder / "fuzzed.key"
    create_key(path, ORIGIN)
    sound = path.read_bytes()

    @fuzz(30)
    @given(mutated([sound]))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            key = key_of(path)
        except InvalidSetting as error:
            assert sound[-40:-8].decode() not in str(error)
            return
        assert isinstance(key, Key) and data.decode().removesuffix("\n") == key.signer.private_text  # type: ignore[attr-defined]

    check()


def test_a_witness_memory(folder: Path) -> None:
    """What it remembers decides what it cosigns: it begins only with what it wrote."""
    memory = folder / "memory"
    with closing(Cosigner(KEY, [seeds.log().key], memory)) as cosigner:
        assert cosigner.answer(request(seeds.log(), 0, 4).encode()).status == 200
        assert cosigner.answer(request(seeds.log(), 4, 7).encode()).status == 200
    [path] = [path for path in memory.iterdir() if len(path.name) == 64]
    sound = path.read_bytes()

    @fuzz(30)
    @given(mutated([sound, *seeds.notes()]))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with closing(Cosigner(KEY, [seeds.log().key], memory)) as cosigner:
                assert cosigner.latest(ORIGIN) == seeds.log().checkpoint(7)
                assert data.partition(b"\n\n")[0] == sound.partition(b"\n\n")[0]
        except NoteRefused:
            return

    check()


def test_the_servers_passwords(folder: Path) -> None:
    path = folder / "servers.json"
    sound = json.dumps(ACCESS).encode()

    @fuzz(30)
    @given(mutated([sound]))
    @example(b"[" * 100_000)
    @example(sound.replace(b"5433", b"1e400"))
    @example(sound.replace(b"5433", b"99999"))
    @example(sound.replace(b"5433", b"-1"))
    @example(sound.replace(b"5433", b"NaN"))
    @example(sound.replace(b"5433", b"true"))
    @example(b"\xff\xfe" + sound)
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            keyring = Keyring.load(folder)
        except InvalidSetting as error:
            assert "s3cret" not in str(error)
            return
        assert keyring is not None
        for name in ACCESS:
            assert 0 <= keyring[name].port < 65536 and isinstance(keyring[name].password, str)

    check()


def test_the_journal_of_migrations(folder: Path) -> None:
    schema = folder / "schema"
    schema.mkdir()
    for file in migrate.schema_folder().iterdir():
        if file.is_file():
            (schema / file.name).write_bytes(file.read_bytes())
    path = schema / "journal.json"
    sound, expected = path.read_bytes(), migrate.load_migrations(schema)

    @fuzz(30)
    @given(mutated([sound]))
    @example(sound.replace(b"0001_", b"../0001_"))
    @example(sound.replace(b"0001_", b"\\u0000"))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            assert migrate.load_migrations(schema)[: len(expected)] == expected
        except MigrationTampered:
            return

    check()


def test_words_are_what_they_are_for() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert issubclass(MigrationTampered, IntegrityError) and issubclass(InvalidSetting, LedgerError)
