"""The port and password of each server, in servers.json."""

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
    """Port and password of a server on 127.0.0.1. Port 0: not chosen yet."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    password: str = field(repr=False)


class Keyring:
    """The contents of `home/servers.json`: the access to each server, by name."""

    def __init__(self, path: Path, entries: dict[str, Access]) -> None:
        self._path = path
        self._entries = entries

    @classmethod
    def load(cls, home: Path) -> Keyring | None:
        """Reads the file; None if it does not exist. Raises InvalidSetting if it is damaged, OSError."""
        path = home / "servers.json"
        try:
            entries = msgspec.json.decode(path.read_bytes(), type=dict[str, Access])
            return cls(path, {name: entries[name] for name in NAMES})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError):
            # Not chained: the decoder's error quotes the file, passwords included.
            raise InvalidSetting(
                f"{path} is damaged: restore it from a backup, or stop the servers with 'auditledger down', remove "
                "the folder and start again"
            ) from None

    @classmethod
    def create(cls, home: Path) -> Keyring:
        """Creates the file with new passwords. Raises InvalidSetting if a database exists, whose password is lost."""
        path = home / "servers.json"
        if (home / "postgres").exists():
            raise InvalidSetting(
                f"{path} is missing, with the password of the database beside it: restore it from a backup, or stop "
                "the servers with 'auditledger down', remove the folder and start again"
            )
        keyring = cls(path, {name: Access(0, secrets.token_urlsafe(24)) for name in NAMES})
        keyring._save()
        return keyring

    def __getitem__(self, name: str) -> Access:
        return self._entries[name]

    def choose_port(self, name: str) -> Access:
        """Chooses the port to start server `name` on: the previous one if it is free, else another."""
        access = self._entries[name]
        port = access.port if access.port and _becomes_free(access.port) else _any_free()
        if port != access.port:
            self._entries[name] = access = Access(port, access.password)
            self._save()
        return access

    def _save(self) -> None:
        replace_file(self._path, msgspec.json.encode(self._entries))


def _becomes_free(port: int) -> bool:
    """Whether the port is free within PORT_SECONDS. A server that was just killed holds it for a moment longer."""
    deadline = time.monotonic() + PORT_SECONDS
    while not _is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections in TIME_WAIT do not occupy the port.
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
