"""keygen, checkpoint, rotate-key and run --checkpoint-every: output and exit codes."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger, create_redis_connection
from ledger.checkpoints.keys import read_key
from ledger.store import tree
from ledger.tlog.checkpoint import open_checkpoint
from ledger.tlog.note import Verifier, parse_note, verified_by
from tests.support.cli import Cli, cli_of, ended, process, run
from tests.support.forger import Forger
from tests.support.helpers import events
from tests.support.http_endpoint import Taker, endpoint
from tests.support.trees import MAIN, cut, rewrite

ORIGIN = "log.example/audit"


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger)


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = str(tmp_path / "main.key")
    assert run("keygen", path, "--origin", ORIGIN).code == 0
    return path


@pytest.fixture
def taker() -> Iterator[Taker]:
    with endpoint() as taker:
        yield taker


def verifier(key: str) -> Verifier:
    return Verifier.parse(read_key(Path(key)).vkey)


# ------------------------------------------------------------------------------------------------------------- keygen


def test_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = ("--home", str(tmp_path / "home"))
    ran = run(*home, "keygen")
    path = tmp_path / "home/main.key"
    assert ran.code == 0
    assert ran.out == f"{read_key(path).vkey}\n"
    assert ran.out.startswith(f"{socket.gethostname()}/main+")
    assert f"The private key is in {path}" in ran.err
    assert path.read_text() not in ran.out + ran.err
    again = run(*home, "keygen")
    assert (again.code, again.out) == (2, "")
    assert "is there already" in again.error
    monkeypatch.setenv("LEDGER_ORIGIN", "from.example")
    told = run("--ledger", "billing", "keygen", str(tmp_path / "b.key"), "--json").json
    assert told == {
        "file": str(tmp_path / "b.key"),
        "name": "from.example/billing",
        "vkey": read_key(tmp_path / "b.key").vkey,
    }
    assert run("keygen", str(tmp_path / "c.key"), "--origin", "here.example/").out.startswith("here.example/main+")
    bad = run("keygen", str(tmp_path / "d.key"), "--origin", "my log")
    assert (bad.code, (tmp_path / "d.key").exists()) == (2, False)
    assert "is not a valid origin" in bad.error


# --------------------------------------------------------------------------------------------------------- checkpoint


def test_checkpoint(cli: Cli, ledger: Ledger, key: str) -> None:
    ledger.append_many(events(300))
    ran = cli.well("checkpoint", "--key", key)
    checkpoint = open_checkpoint(ran.out.encode(), f"{ORIGIN}/main", [verifier(key)])
    assert checkpoint.size == 300
    assert ran.err == "Signed the checkpoint of 300 entries of ledger main\n"
    assert cli.well("checkpoint", "--key", key, "--json").json == {
        "ledger": "main",
        "origin": f"{ORIGIN}/main",
        "size": 300,
        "root": checkpoint.root.hex(),
        "note": ran.out,
        "published": [],
        "failed": [],
        "unwitnessed": [],
    }
    assert [each.note.decode() for each in ledger.run(tree.all_kept(MAIN))] == [ran.out]


def test_the_key_of_the_home_is_the_default(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = cli_of(ledger)
    monkeypatch.setenv("LEDGER_HOME", str(tmp_path))
    missing = cli("checkpoint")
    assert missing.code == 2
    assert f"the key {tmp_path}/main.key cannot be read" in missing.error
    assert "keygen" in missing.error
    run("keygen")
    assert cli.well("checkpoint", "--json").json["size"] == 0


def test_a_key_that_others_can_read(cli: Cli, key: str) -> None:
    Path(key).chmod(0o644)
    ran = cli("checkpoint", "--key", key)
    assert (ran.code, ran.out) == (2, "")
    assert "can be read by others than its owner (mode 0644)" in ran.error
    assert f"chmod 600 {key}" in ran.error


def test_a_lost_state(cli: Cli, ledger: Ledger, key: str) -> None:
    ledger.append_many(events(3))
    cli.well("checkpoint", "--key", key)
    Path(f"{key}.state").unlink()
    ran = cli("checkpoint", "--key", key)
    assert ran.code == 2
    assert "--new-state" in ran.error
    cli.well("checkpoint", "--key", key, "--new-state")
    assert Path(f"{key}.state").exists()


def test_a_ledger_that_was_tampered_with_is_not_signed(cli: Cli, ledger: Ledger, key: str) -> None:
    ledger.append_many(events(300))
    cli.well("checkpoint", "--key", key)
    ledger.append_many(events(20))
    with Forger(ledger.settings.database_url or "") as forger:
        rewrite(forger, 200, 320)
        ran = cli("checkpoint", "--key", key)
        assert (ran.code, ran.out) == (1, "")
        assert ran.error.startswith("rewritten: entry 300 of ledger 'main' is not the one that was signed")
        cut(forger, 250)
        ran = cli("checkpoint", "--key", key, "--json")
        assert (ran.code, ran.out) == (1, "")
        assert ran.error.startswith("truncated: ledger 'main' ends at position 250, and 300 were signed")


def test_publishing(cli: Cli, ledger: Ledger, key: str, taker: Taker, tmp_path: Path) -> None:
    ledger.append_many(events(3))
    folder = str(tmp_path / "log")
    publish = ["checkpoint", "--key", key, "--publish", folder, "--publish", taker.url, "--publish", "redis"]
    ran = cli.well(*publish)
    assert f"published to {folder}, {taker.url}, redis" in ran.err
    note = ran.out.encode()
    assert (tmp_path / "log/checkpoint").read_bytes() == note
    assert taker.notes == [note]
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        [(_, fields)] = redis.xrange("ledger:{main}:checkpoints")
    assert fields == {b"size": b"3", b"note": note}
    taker.status = 500
    ran = cli.well(*publish, "--require", "2", "--json")
    assert ran.json["published"] == [folder, "redis"]
    assert ran.json["failed"] == [{"publisher": taker.url, "problem": "answered 500: so it is"}]
    assert ran.err == f"Not published to {taker.url}: answered 500: so it is\n"
    ran = cli(*publish)
    assert (ran.code, ran.out) == (3, "")
    assert "2 of 3 publishers took it and 3 are required" in ran.error
    ran = cli(*publish, "--require", "4")
    assert ran.code == 2
    without = cli_of(ledger, redis=False)("checkpoint", "--key", key, "--publish", "redis")
    assert (without.code, "needs Redis" in without.error) == (2, True)


def test_rotation(cli: Cli, ledger: Ledger, key: str, tmp_path: Path) -> None:
    new = str(tmp_path / "new.key")
    ledger.append_many(events(3))
    cli.well("checkpoint", "--key", key)
    ran = cli.well("rotate-key", "--key", key, "--new", new, "--actor", "user:7", "--json")
    assert ran.json["position"] == 4
    assert f"The new public key is {verifier(new).vkey}" in ran.err
    [entry] = ledger.read(after=3)
    assert (entry.actor, entry.resource_id) == ("user:7", f"{verifier(new).key_id:08x}")
    assert cli.well("rotate-key", "--key", key, "--new", new, "--actor", "user:7", "--json").json == ran.json
    other = cli("rotate-key", "--key", key, "--new", new)
    assert (other.code, "was recorded already, by user:7 at position 4" in other.error) == (2, True)
    both = parse_note(cli.well("checkpoint", "--key", key, "--key", new).out.encode())
    assert verified_by(both, [verifier(key), verifier(new)]) == [verifier(key), verifier(new)]
    ledger.append_many(events(1))
    alone = parse_note(cli.well("checkpoint", "--key", new).out.encode())
    assert verified_by(alone, [verifier(key), verifier(new)]) == [verifier(new)]
    assert cli.well("verify").code == 0
    same = cli("rotate-key", "--key", key, "--new", key)
    assert (same.code, "two different keys" in same.error) == (2, True)


# ---------------------------------------------------------------------------------------------------------------- run


def test_run_once_signs_at_its_end(cli: Cli, ledger: Ledger, key: str, tmp_path: Path) -> None:
    ledger.append_many(events(5))
    cli.well("run", "--once", "--checkpoint-every", "60s", "--key", key, "--publish", str(tmp_path / "log"))
    note = (tmp_path / "log/checkpoint").read_bytes()
    assert open_checkpoint(note, f"{ORIGIN}/main", [verifier(key)]).size == 5
    alone = cli("run", "--once", "--key", key)
    assert (alone.code, "go with --checkpoint-every" in alone.error) == (2, True)
    for span in ("", "0", "0s", "soon", "-1s", "1d"):
        assert cli("run", "--once", "--key", key, "--checkpoint-every", span).code == 2


def test_run_signs_again_and_again_each_ledger_with_its_own_key(
    cli: Cli, ledger: Ledger, key: str, admin: psycopg.Connection, tmp_path: Path
) -> None:
    cli.well("create", "other")
    other = str(tmp_path / "other.key")
    run("--ledger", "other", "keygen", other, "--origin", ORIGIN)
    ledger.append_many(events(5))
    cli.well("append", "--ledger", "other", "--actor", "a", "--action", "b")

    def signed() -> list[tuple[int, int]]:
        return [
            (row[0], row[1])
            for row in admin.execute("select ledger_id, max(size) from ledger.checkpoints group by 1 order by 1")
        ]

    def until(expected: list[tuple[int, int]]) -> None:
        deadline = time.monotonic() + 30
        while signed() != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert signed() == expected

    arguments = ("run", "--checkpoint-every", "0.1s", "--key", key, "--key", other)
    with process(*cli.urls, *arguments) as popen:
        until([(1, 5), (2, 1)])
        ledger.append_many(events(5))
        until([(1, 10), (2, 1)])
        popen.send_signal(signal.SIGTERM)
        assert ended(popen).code == 0
    ledger.append_many(events(5))
    with Forger(ledger.settings.database_url or "") as forger:  # of what neither relay nor projections look at
        forger.run("update ledger.tiles set hashes = set_byte(hashes, 7, get_byte(hashes, 7) # 1) where ledger_id = 1")
        forger.done()
    with process(*cli.urls, *arguments) as popen:  # main is not signed any more; all else goes on
        cli.well("append", "--ledger", "other", "--actor", "a", "--action", "b")
        until([(1, 10), (2, 2)])
        popen.send_signal(signal.SIGTERM)
        ran = ended(popen)
    assert "tree_mismatch: the tiles of ledger 'main' do not give the root" in ran.err
    assert signed() == [(1, 10), (2, 2)]
