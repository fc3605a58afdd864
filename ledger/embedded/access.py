"""servers.json: the port and the password of each server."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from ledger.errors import InvalidSetting
from ledger.files import replace_file

NAMES = ("postgres", "valkey")
PORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one server on 127.0.0.1. Port 0: none was chosen yet."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    password: str = field(repr=False)


class Keyring:
    """The access to both servers by name, as kept in `home/servers.json`."""

    def __init__(self, path: Path, entries: dict[str, Access]) -> None:
        self._path = path
        self._entries = entries

    @classmethod
    def load(cls, home: Path) -> Keyring | None:
        """What is kept, None if there is nothing. Raises InvalidSetting for a damaged file, OSError."""
        path = home / "servers.json"
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=dict[str, Access])
            return cls(path, {name: kept[name] for name in NAMES})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError):
            # Not chained: the decoder's error holds the text of the file, passwords and all.
            raise InvalidSetting(
                f"{path} is damaged: put it back from a backup, or stop the servers with 'auditledger down', remove "
                "the folder and begin anew"
            ) from None

    @classmethod
    def create(cls, home: Path) -> Keyring:
        """New passwords, kept. Raises InvalidSetting if there is a database already, which has another one."""
        path = home / "servers.json"
        if (home / "postgres").exists():
            raise InvalidSetting(
                f"{path} is missing, and with it the password of the database beside it: put it back from a backup, "
                "or stop the servers with 'auditledger down', remove the folder and begin anew"
            )
        keyring = cls(path, {name: Access(0, secrets.token_urlsafe(24)) for name in NAMES})
        keyring._save()
        return keyring

    def __getitem__(self, name: str) -> Access:
        return self._entries[name]

    def choose_port(self, name: str) -> Access:
        """Settle the port that server `name` is to be started on: the one it had, if that is free, else another."""
        access = self._entries[name]
        port = access.port if access.port and _becomes_free(access.port) else _any_free()
        if port != access.port:
            self._entries[name] = access = Access(port, access.password)
            self._save()
        return access

    def _save(self) -> None:
        replace_file(self._path, msgspec.json.encode(self._entries))


def _becomes_free(port: int) -> bool:
    """Is it free, or soon? A server that was just killed, and its orphans, hold it for a moment longer."""
    deadline = time.monotonic() + PORT_SECONDS
    while not _is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections of an earlier server that linger in TIME_WAIT do not occupy its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
