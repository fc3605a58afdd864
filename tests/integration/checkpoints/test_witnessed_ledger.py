"""Cosigned checkpoints of a ledger: changes that its owner can no longer hide."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from ledger import (
    AsyncLedger,
    CosignaturesMissing,
    InvalidSetting,
    Ledger,
    NoteRefused,
    Witnesses,
    WitnessRefused,
    testing,
)
from ledger.checkpoints.keys import Key, create_key, read_key
from ledger.checkpoints.signer import Checkpointer
from ledger.drivers.pools import Connector
from ledger.store import tree
from ledger.store.ledgers import LedgerRef
from ledger.store.tree import Kept
from ledger.tlog.checkpoint import Checkpoint, open_checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.note import Verifier, cosign, parse_note
from ledger.tlog.witness_outcome import Witness
from ledger.tlog.witness_protocol import Cosigned, Prove
from tests.support.cli import cli_of
from tests.support.helpers import event, events
from tests.support.witnesses import KEY, key_of, serving

NAME = "log.example/audit/main"
OTHER = FileSigner("witness.example/w2", b"another key".ljust(32))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "main.key", NAME)
    return tmp_path / "main.key"


@pytest.fixture
def log(key: Path) -> Verifier:
    return Verifier.parse(read_key(key).vkey)


@pytest.fixture
def witnesses(log: Verifier, tmp_path: Path) -> Iterator[list[Witness]]:
    """Two, of two teams."""
    with serving(tmp_path / "w1", log) as first, serving(tmp_path / "w2", log, signer=OTHER) as second:
        yield [first, second]


def away(signer: FileSigner = OTHER) -> Witness:
    """A witness that nobody runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Witness(f"http://127.0.0.1:{free.getsockname()[1]}", key_of(signer))


def kept(ledger: Ledger) -> list[Kept]:
    return ledger.run(tree.all_kept(LedgerRef(1, "main")))


def opened(note: bytes, log: Verifier, witnesses: list[Witness], quorum: int) -> Checkpoint:
    return open_checkpoint(note, NAME, [log], [witness.verifier for witness in witnesses], quorum)


def test_a_growing_ledger_is_cosigned(ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness]) -> None:
    texts = [str(witness) for witness in witnesses]
    cosign = Witnesses(texts)
    for more in (1, 299, 0, 300):
        ledger.append_many(events(more))
        made = ledger.checkpoint(key, cosign=cosign)
        assert opened(made.note, log, witnesses, 2).size == made.size and made.unwitnessed == []
    assert [(each.size, each.note) for each in kept(ledger)][-1] == (600, made.note)
    ledger.append_many(events(7))
    made = ledger.checkpoint(key, cosign=Witnesses(texts[:1], 1))  # one that knows no sizes yet
    assert opened(made.note, log, witnesses, 1).size == 607


def test_the_same_checkpoint_again_and_again(
    ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness]
) -> None:
    """A ledger to which nothing is appended, cosigned each minute: after a hundred times there is no more room."""
    ledger.append_many(events(3))
    made = ledger.checkpoint(key, cosign=Witnesses(witnesses))
    older = [cosign(parse_note(made.note).text, KEY, at).line for at in range(1, 98)]
    ledger.run(tree.add_signatures(LedgerRef(1, "main"), kept(ledger)[0], b"".join(older)))
    time.sleep(1.1)  # a cosignature says when it was made, in seconds
    made = ledger.checkpoint(key, cosign=Witnesses(witnesses))
    assert opened(made.note, log, witnesses, 2).size == 3
    assert ledger.verify(checkpoints=[made.note], keys=[log.vkey]).findings == []


def test_async(ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness]) -> None:
    async def main() -> bytes:
        async with AsyncLedger.open(database_url=ledger.settings.database_url) as opened:
            await opened.append(event())
            return (await opened.checkpoint(key, cosign=Witnesses(witnesses))).note

    assert opened(asyncio.run(main()), log, witnesses, 2).size == 1


def test_too_few_are_asked_for_again(
    ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness], tmp_path: Path
) -> None:
    """The checkpoint is signed and kept with what came; it is published once there are enough."""
    ledger.append_many(events(3))
    place = tmp_path / "published"
    with pytest.raises(CosignaturesMissing, match=r"1 of the 2 .*witness\.example/w2 does not answer"):
        ledger.checkpoint(key, publish=[place], cosign=Witnesses([witnesses[0], away()]))
    assert not place.exists()
    assert opened(kept(ledger)[0].note, log, witnesses, 1).size == 3
    made = ledger.checkpoint(key, publish=[place], cosign=Witnesses([witnesses[1], away(KEY)], 2))
    assert [name for name, _ in made.unwitnessed] == [KEY.name]  # it cosigned before: it counts
    assert opened(made.note, log, witnesses, 2).size == 3
    assert (place / "checkpoint").read_bytes() == made.note == kept(ledger)[0].note
    for texts, quorum in [([], None), ([], 0), (witnesses, 3), ([witnesses[0], witnesses[0]], 2), (witnesses, -1)]:
        with pytest.raises(InvalidSetting):
            Witnesses(texts, quorum)


def test_two_histories(
    ledger: Ledger, servers: testing.TestServers, key: Path, log: Verifier, witnesses: list[Witness], tmp_path: Path
) -> None:
    """The owner, with the key, a superuser and no scruple: one database is shown to some, a copy of it to the others.

    Each has a state file that knows nothing of the other; each history holds by itself. The witnesses do not cosign
    both, so one of them never comes to the quorum.
    """
    ledger.append_many(events(100))
    ledger.checkpoint(key, cosign=Witnesses(witnesses))
    ledger.close()
    template = (ledger.settings.database_url or "").rpartition("/")[2]
    with testing.database(servers.database_url, template=template) as url, ExitStack() as stack:
        shown = stack.enter_context(Ledger(ledger.settings))
        hidden = stack.enter_context(Ledger.open(database_url=url))
        copy = tmp_path / "copy.state"
        copy.write_bytes((tmp_path / "main.key.state").read_bytes())
        again = Key(read_key(key), copy)
        shown.append_many(events(50))
        hidden.append_many(events(50, 500))
        assert shown.checkpoint(key, cosign=Witnesses(witnesses)).size == 150
        with pytest.raises(WitnessRefused, match="has cosigned a checkpoint of size 150 with another root"):
            hidden.checkpoint(again, cosign=Witnesses(witnesses))
        hidden.append_many(events(50, 600))
        with pytest.raises(WitnessRefused, match="has cosigned a checkpoint of size 150 that this one does not cont"):
            hidden.checkpoint(again, cosign=Witnesses(witnesses))
        for each in kept(hidden):
            if each.size > 100:
                with pytest.raises(NoteRefused):
                    opened(each.note, log, witnesses, 1)
        shown.append(event())
        assert shown.checkpoint(key, cosign=Witnesses(witnesses)).size == 151
    evidence = sorted((tmp_path / "w1").glob("*.forked.*"))  # two checkpoints that the log signed, of one size
    first, second = (open_checkpoint(path.read_bytes(), NAME, [log]) for path in evidence)
    assert first.size == second.size == 150 and first.root != second.root


def test_an_old_backup_with_a_new_state(
    ledger: Ledger, servers: testing.TestServers, key: Path, witnesses: list[Witness], tmp_path: Path
) -> None:
    """Database, state and all brought back to what they were: only the witnesses remember."""
    ledger.append_many(events(10))
    ledger.checkpoint(key, cosign=Witnesses(witnesses))
    state = (tmp_path / "main.key.state").read_bytes()
    ledger.close()
    template = (ledger.settings.database_url or "").rpartition("/")[2]
    with testing.database(servers.database_url, template=template) as backup:
        with Ledger(ledger.settings) as lively:
            lively.append_many(events(10))
            lively.checkpoint(key, cosign=Witnesses(witnesses))
        (tmp_path / "main.key.state").write_bytes(state)
        with Ledger.open(database_url=backup) as restored:
            with pytest.raises(WitnessRefused, match="of size 20 of this log, which now comes with 10"):
                restored.checkpoint(key, cosign=Witnesses(witnesses))
            restored.append_many(events(10, 500))
            with pytest.raises(WitnessRefused, match="with another root"):
                restored.checkpoint(key, cosign=Witnesses(witnesses))


def test_a_signer_that_was_overtaken(ledger: Ledger, key: Path, witnesses: list[Witness]) -> None:
    """A larger checkpoint that this very database keeps is no other history: the next one will do."""
    ask = Witnesses(witnesses)

    def slowly(note: bytes, prove: Prove) -> Cosigned:
        if len(kept(ledger)) == 1:
            ledger.append(event())
            ledger.checkpoint(key, cosign=Witnesses(witnesses))
        return ask(note, prove)

    ledger.append(event())
    with pytest.raises(CosignaturesMissing, match="of 2 entries, was cosigned before this one of 1"):
        ledger.checkpoint(key, cosign=slowly)
    assert ledger.checkpoint(key, cosign=slowly).size == 2


def test_a_false_cosignature_in_the_database(
    ledger: Ledger, admin: psycopg.Connection, key: Path, witnesses: list[Witness]
) -> None:
    ledger.append(event())
    made = ledger.checkpoint(key, cosign=Witnesses(witnesses))
    line = parse_note(made.note).signatures[-1].line.decode()
    admin.execute("alter table ledger.checkpoints disable trigger all")
    admin.execute("update ledger.checkpoints set note = replace(note, %s, %s)", (line[-12:], line[-12:].swapcase()))
    with pytest.raises(NoteRefused):
        ledger.checkpoint(key, cosign=Witnesses(witnesses))


def test_the_command_line(ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness], tmp_path: Path) -> None:
    cli = cli_of(ledger)
    ledger.append_many(events(5))
    nobody = away(FileSigner("nobody.example", bytes(32)))
    first, second, third = str(witnesses[0]), str(witnesses[1]), str(nobody)
    sign = ["checkpoint", "--key", str(key)]
    made = cli.well(*sign, "--witness", first, "--witness", second)
    assert opened(made.out.encode(), log, witnesses, 2).size == 5
    ledger.append_many(events(5))
    made = cli.well(*sign, "--witness", first, "--witness", second, "--witness", third, "--quorum", "2", "--json")
    assert opened(made.json["note"].encode(), log, witnesses, 2).size == 10
    [problem] = made.json["unwitnessed"]
    assert problem["witness"] == "nobody.example"
    missed = cli(*sign, "--witness", first, "--witness", third)
    assert missed.code == 3 and "1 of the 2 witnesses that are demanded vouch" in missed.error
    assert "Not cosigned by nobody.example" in cli.well(*sign, "--witness", third, "--quorum", "0").err
    for wrong in (["--quorum", "1"], ["--witness", first, "--quorum", "2"], ["--witness", "https://a"]):
        assert cli(*sign, *wrong).code == 2
        assert cli("run", "--once", *wrong).code == 2
    ledger.append_many(events(5))
    run = ["run", "--once", "--checkpoint-every", "1m", "--key", str(key)]
    cli.well(*run, "--witness", first, "--witness", second)
    assert opened(kept(ledger)[-1].note, log, witnesses, 2).size == 15
    with serving(tmp_path / "w3", log, signer=FileSigner("third.example", b"3" * 32)) as third_witness:
        other = json.loads(cli.well(*sign, "--witness", str(third_witness), "--json").out)
    assert len(parse_note(other["note"].encode()).signatures) == 4


def test_run_asks_again_for_what_is_missing(
    ledger: Ledger, key: Path, log: Verifier, witnesses: list[Witness], tmp_path: Path
) -> None:
    """A quorum is there, one witness comes later: it is asked until it cosigns, and then not any more."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    signer = FileSigner("late.example", b"late".ljust(32))
    late = Witness(f"http://127.0.0.1:{port}", key_of(signer))
    ledger.append(event())
    stop = Event()
    servers = Connector(ledger.settings)
    checkpointer = Checkpointer(servers, [key], cosign=Witnesses([*witnesses, late], 2))
    thread = Thread(target=checkpointer.run, args=(stop, 0.05))
    thread.start()
    try:
        until(lambda: bool(kept(ledger)) and opens(kept(ledger)[0].note, log, witnesses, 2))
        with serving(tmp_path / "late", log, signer=signer, port=port):
            until(lambda: opens(kept(ledger)[0].note, log, [*witnesses, late], 3))
            before = newest_times(tmp_path)
            stop.wait(0.5)
            assert newest_times(tmp_path) == before
    finally:
        stop.set()
        thread.join()
        servers.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def opens(note: bytes, log: Verifier, witnesses: list[Witness], quorum: int) -> bool:
    try:
        return opened(note, log, witnesses, quorum).size > 0
    except NoteRefused:
        return False


def newest_times(folder: Path) -> list[int]:
    """When each witness wrote last."""
    return sorted(path.stat().st_mtime_ns for path in folder.glob("*/*") if len(path.name) == 64)
