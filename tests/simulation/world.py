"""The servers of one seed, the proxies before them, what can be done to them, and backups of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from ledger.drivers.connections import create_redis_connection
from ledger.drivers.run import Redis
from ledger.embedded.access import Access, Keyring
from ledger.embedded.process import Server
from ledger.embedded.servers import Postgres, Valkey
from ledger.errors import Unavailable
from ledger.settings import Settings
from tests.simulation.disk import FILLER, Disk
from tests.support.pgbouncer import PgBouncer, installed, pgbouncer
from tests.support.proxy import Proxy

POSTGRES_MEGABYTES, VALKEY_MEGABYTES = 400, 64
SMALL = """
max_connections = 80
min_wal_size = 32MB
max_wal_size = 64MB
shared_buffers = 32MB
wal_writer_delay = 10s
commit_delay = 3000
commit_siblings = 0
"""
"""So that the cluster stays on its small disk, connections can run out, and a kill loses what was committed and not
flushed: nobody else writes that for ten seconds, and a flush takes 3 ms."""


class _Trusting(Postgres):
    """One that asks for no password: the package's own look demands that it does."""

    def accepts(self, access: Access) -> bool:
        try:
            where = f"host=127.0.0.1 port={access.port} user=ledger dbname=ledger connect_timeout=2"
            psycopg.connect(where).close()
        except psycopg.OperationalError:
            return False
        return True


class World:
    """A Postgres and a Valkey of its own in `home`, on small disks where possible, each behind two proxies.

    pooler: a PgBouncer in transaction mode between Postgres and its proxies, where one is wanted and installed.
    appending, working: before Postgres, for those who append and for all others. publishing, reading: before Valkey,
    for relays and for readers.
    """

    def __init__(self, home: Path, seed: str, *, pooled: bool = False) -> None:
        self.home = home
        self.pooler: PgBouncer | None = None
        self._pooled = pooled
        self.postgres, self.valkey = _Trusting(home), Valkey(home)
        self._seed = seed
        self._locks = {name: threading.RLock() for name in ("postgres", "valkey", "pooler")}
        self._proxies = ExitStack()

    def __enter__(self) -> World:
        _prepare(self.home)
        self.postgres_disk = Disk(self.home / "postgres", POSTGRES_MEGABYTES)
        (self.home / "valkey").mkdir(mode=0o700, exist_ok=True)
        self.valkey.give(self.home / "valkey")
        self.valkey_disk = Disk(self.home / "valkey", VALKEY_MEGABYTES)
        try:
            self.start()
            keyring = self._keyring()
            database, redis = keyring["postgres"], keyring["valkey"]
            self.direct = Settings(
                database_url=f"postgresql://ledger:{database.password}@127.0.0.1:{database.port}/ledger",
                redis_url=f"redis://:{redis.password}@127.0.0.1:{redis.port}/0",
                connect_timeout=5,
                lock_timeout=10,
            )
            postgres = str(self.direct.database_url)
            if self._pooled and installed():
                options = {"pool_size": 20, "auth_type": "trust", "server_connect_timeout": 5, "server_login_retry": 1}
                self.pooler = self._proxies.enter_context(pgbouncer(postgres, **options))  # type: ignore[arg-type]
                postgres = self.pooler.url(postgres)
            self.appending, self.working = (self._proxy(postgres, name) for name in "aw")
            self.publishing, self.reading = (self._proxy(str(self.direct.redis_url), name) for name in "pr")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._proxies.close()
        for server in (self.postgres, self.valkey):
            send(family(server.pid()), signal.SIGKILL)
        for disk in (self.postgres_disk, self.valkey_disk):
            disk.unmount()

    @property
    def proxies(self) -> dict[str, list[Proxy]]:
        """By the kind of server behind them."""
        return {"postgres": [self.appending, self.working], "redis": [self.publishing, self.reading]}

    @property
    def left_out(self) -> list[str]:
        """Faults that this machine does not let us inject, and why."""
        disks = {"postgres": self.postgres_disk, "redis": self.valkey_disk}
        missing = ["pooler between: PgBouncer is not installed"] if self._pooled and self.pooler is None else []
        return missing + [f"{side} disk full: {disk.refused}" for side, disk in disks.items() if disk.refused]

    def settings(self, database: Proxy, redis: Proxy, **options: Any) -> Settings:
        """For those who reach the servers by way of these proxies."""
        return replace(
            self.direct,
            database_url=database.url(str(self.direct.database_url)),
            redis_url=redis.url(str(self.direct.redis_url)),
            connect_timeout=2,
            lock_timeout=3,
            pool_max_size=5,
            **options,
        )

    def start(self) -> None:
        """Brings both up, whatever was done to them. Raises Unavailable where one does not come."""
        for disk in (self.postgres_disk, self.valkey_disk):
            disk.free()
        for server in (self.postgres, self.valkey):
            self.revive(server)
        self.revive_pooler()

    def revive(self, server: Server) -> bool:
        """Starts it if it does not run, lets it go on if it was paused. False where its disk is full, or the like."""
        with self._locks[server.name]:
            send(family(server.pid()), signal.SIGCONT)
            for _ in range(10):
                with suppress(Unavailable, OSError):
                    server.start(self._keyring())
                    return True
                time.sleep(0.5)
            return False

    def kill(self, server: Server) -> bool:
        """SIGKILL of the whole server, its children too, before any of them can say a word."""
        with self._locks[server.name]:
            pids = family(server.pid())
            send(pids[:1], signal.SIGSTOP)  # so that a postmaster does not clean up after its children
            send(pids[1:], signal.SIGKILL)
            send(pids[:1], signal.SIGKILL)
            while server.pid() is not None:
                time.sleep(0.01)
            return bool(pids)

    def kill_pooler(self) -> bool:
        """Was there one to kill?"""
        with self._locks["pooler"]:
            if self.pooler is None or self.pooler.process.poll() is not None:
                return False
            self.pooler.kill()
            return True

    def revive_pooler(self) -> None:
        with self._locks["pooler"]:
            if self.pooler is not None:
                self.pooler.process.send_signal(signal.SIGCONT)
                if self.pooler.process.poll() is not None:
                    self.pooler.start()

    def demand_standby(self, name: str) -> None:
        """Has all commits wait for a synchronous standby of this name; an empty name: for none."""
        with self.database() as connection:
            connection.execute(f"alter system set synchronous_standby_names = '{name}'".encode())
            connection.execute("select pg_reload_conf()")

    def pause(self, server: Server, paused: bool = True) -> bool:
        pids = family(server.pid())
        send(pids, signal.SIGSTOP if paused else signal.SIGCONT)
        return bool(pids)

    def kill_backend(self, number: int) -> bool:
        """SIGKILL of one Postgres process that serves a client: all others then end too, and Postgres recovers."""
        with self.database() as connection:
            pids = connection.execute(
                "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
                " and datname = current_database() order by pid"
            ).fetchall()
        if pids:
            send([pids[number % len(pids)][0]], signal.SIGKILL)
        return bool(pids)

    @contextmanager
    def database(self, user: str = "ledger") -> Iterator[psycopg.Connection]:
        """A superuser's connection, or another user's, past the proxies."""
        url = str(self.direct.database_url)
        with psycopg.connect(url, user=user, autocommit=True, connect_timeout=5) as connection:
            yield connection

    @contextmanager
    def redis(self) -> Iterator[Redis]:
        with create_redis_connection(str(self.direct.redis_url), read_timeout=10) as client:
            yield client

    # -------------------------------------------------------------------------------------------------- backups

    def back_up_valkey(self) -> Path:
        """A copy of its files as they are now."""
        with self._locks["valkey"]:
            return self._copied(self.valkey, "valkey-copy")

    def roll_back_valkey(self, copy: Path) -> None:
        """Kills it and brings it back with older files."""
        with self._locks["valkey"]:
            self.kill(self.valkey)
            _replace(self.valkey.folder, copy)
            self.revive(self.valkey)

    def back_up_postgres(self, name: str) -> Path:
        """An online base backup: the files, then the write-ahead log that they need, and a label."""
        with self.database() as connection:
            connection.execute("select pg_backup_start('simulation', true)")
            copy = self._copied(self.postgres, name)
            [(label,)] = connection.execute("select labelfile from pg_backup_stop(false)").fetchall()
        shutil.rmtree(copy / "pg_wal")
        _copy(self.postgres.folder / "pg_wal", copy / "pg_wal")
        (copy / "backup_label").write_text(label)
        (copy / "postmaster.pid").unlink(missing_ok=True)
        subprocess.run(["chown", "--reference", copy, copy / "backup_label"], check=True)
        return copy

    def restore_postgres(self, copy: Path) -> None:
        """Kills it and brings it back from a backup."""
        self.kill(self.postgres)
        _replace(self.postgres.folder, copy)
        if not self.revive(self.postgres):
            raise Unavailable("Postgres did not start from its backup")

    def _copied(self, server: Server, name: str) -> Path:
        copy = self.home / name
        shutil.rmtree(copy, ignore_errors=True)
        _copy(server.folder, copy)
        (copy / FILLER).unlink(missing_ok=True)
        return copy

    def _keyring(self) -> Keyring:
        keyring = Keyring.load(self.home)
        assert keyring is not None
        return keyring

    def _proxy(self, url: str, name: str) -> Proxy:
        return self._proxies.enter_context(Proxy.to(url, seed=f"{self._seed} {name}"))


def _prepare(home: Path) -> None:
    """Small settings; and no passwords, so that a connection that is replayed gets past the login."""
    with (home / "postgres/postgresql.conf").open("a") as file:
        file.write(SMALL)
    access = home / "postgres/pg_hba.conf"
    access.write_text(access.read_text().replace("scram-sha-256", "trust"))


def _copy(folder: Path, to: Path) -> None:
    """Of a server that is at work: a file may vanish meanwhile."""
    subprocess.run(["cp", "-a", folder, to], check=False, capture_output=True)


def _replace(folder: Path, copy: Path) -> None:
    """The content of a folder that may be a mount."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    subprocess.run(["cp", "-a", f"{copy}/.", folder], check=True)


def family(pid: int | None) -> list[int]:
    """A server and its children."""
    if pid is None:
        return []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # not Linux, or it has ended: without their postmaster the children end by themselves
        children = []
    return [pid, *map(int, children)]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
