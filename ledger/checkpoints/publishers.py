"""Publishers of signed checkpoints, so that their owner cannot take them back: a folder, an HTTP endpoint, Redis.

A publisher is anything with `publish(note)`, which raises if that failed; `str()` of it goes into messages.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from ledger.effects import Plan
from ledger.errors import InvalidSetting, LedgerError, NoteRefused, PublishingFailed
from ledger.files import replace_file
from ledger.stream import commands
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.http_client import connection_to

TIMEOUT = 10.0
"""Seconds that an HTTP endpoint has to take a checkpoint, and then for its answer."""
REDIS = "redis"
"""The name of the ledger's Redis on the command line."""
_MAX_ANSWER = 131_072
_LATEST = "checkpoint"
_ALL = "checkpoints"


class Publisher(Protocol):
    """Publishes a signed checkpoint."""

    def publish(self, note: bytes, /) -> None:
        """Raises any exception if it failed. The same note may come again, also with more signatures."""


AnyPublisher: TypeAlias = Publisher | str | os.PathLike[str]
"""A Publisher; or `redis`, an http(s) URL, or a folder."""


class Published(NamedTuple):
    """done: the publishers that took a checkpoint. failed: (publisher, problem) of those that did not."""

    done: list[str]
    failed: list[tuple[str, str]]


class Folder:
    """A folder, such as a web server's: `checkpoint` is the newest (C2SP tlog-tiles), `checkpoints/<size>` are all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def publish(self, note: bytes) -> None:
        checkpoint = Checkpoint.of(note)
        latest, own = self.path / _LATEST, self.path / _ALL / str(checkpoint.size)
        own.parent.mkdir(parents=True, exist_ok=True)
        for path in (own, latest):
            newest = _published(path)
            if newest is not None and newest.origin != checkpoint.origin:
                raise PublishingFailed(f"{path} is a checkpoint of {newest.origin}, this is one of {checkpoint.origin}")
            if newest is not None and newest.size == checkpoint.size and newest.root != checkpoint.root:
                raise PublishingFailed(f"forked: {path} is another checkpoint of the first {checkpoint.size} entries")
            if newest is None or newest.size <= checkpoint.size:
                replace_file(path, note, public=True)


class Endpoint:
    """An HTTP endpoint that takes a POST of the note and answers 2xx. A user and password may stand in the URL."""

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        """timeout: seconds. Raises InvalidSetting."""
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid or not url.isascii() or not url.isprintable() or " " in url:
            raise InvalidSetting("the URL to publish to is not http(s)://HOST[:PORT]/PATH")
        self._parts = parts
        self._timeout = timeout

    def __str__(self) -> str:
        """The URL without user, password and query, which may be secret."""
        return f"{self._parts.scheme}://{self._parts.netloc.rpartition('@')[2]}{self._parts.path}"

    def publish(self, note: bytes) -> None:
        parts = self._parts
        headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "auditledger", "Connection": "close"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        with closing(connection_to(parts, self._timeout, _MAX_ANSWER)) as connection:
            connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), note, headers)
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                text = " ".join(response.read(200).decode("utf-8", "replace").split())
                raise PublishingFailed(f"answered {response.status}{text and ': '}{text}")


class Redis:
    """The stream of checkpoints, beside the ledger's own in the same Redis: see stream/commands.py."""

    def __init__(self, run: Callable[[Plan[Any]], Any], ledger: str) -> None:
        """run: drives a plan, as `Ledger.run` does."""
        self._run = run
        self._ledger = ledger

    def __str__(self) -> str:
        return REDIS

    def publish(self, note: bytes) -> None:
        self._run(commands.publish_checkpoint(self._ledger, Checkpoint.of(note).size, note))


class Once:
    """A publisher that is not given again the note that it took last."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._taken = b""

    def __str__(self) -> str:
        return str(self._publisher)

    def publish(self, note: bytes) -> None:
        if note != self._taken:
            self._publisher.publish(note)
            self._taken = note


def publisher_of(what: AnyPublisher, run: Callable[[Plan[Any]], Any], ledger: str) -> Publisher:
    """A publisher from its text; run, ledger: for Redis. Raises InvalidSetting."""
    if not isinstance(what, str | os.PathLike):
        return what
    text = os.fspath(what)
    if text == REDIS:
        return Redis(run, ledger)
    if "://" in text:
        return Endpoint(text)
    if not text:
        raise InvalidSetting("a checkpoint is published to a folder, an http(s) URL or 'redis', not to an empty name")
    return Folder(Path(text))


def check_require(publishers: Sequence[object], require: int | None) -> int:
    """How many publishers must succeed; None: all. Raises InvalidSetting if there are not so many."""
    if require is None:
        return len(publishers)
    if not 0 <= require <= len(publishers):
        raise InvalidSetting(f"{require} publishers are required, and {len(publishers)} are given")
    return require


def publish(note: bytes, publishers: Sequence[Publisher], require: int | None = None) -> Published:
    """Gives the note to every publisher. Raises PublishingFailed if fewer than `require` took it; None: than all."""
    required = check_require(publishers, require)
    done: list[str] = []
    failed: list[tuple[str, str]] = []
    for publisher in publishers:
        try:
            publisher.publish(note)
        except (LedgerError, OSError, HTTPException) as error:
            failed.append((str(publisher), _problem(error)))
        except Exception as error:  # a publisher of the caller's own must not keep the note from the others
            failed.append((str(publisher), f"{type(error).__name__}: {error}"))
        else:
            done.append(str(publisher))
    if len(done) < required:
        problems = "; ".join(f"{name}: {problem}" for name, problem in failed)
        raise PublishingFailed(
            f"the checkpoint is signed and kept, but {len(done)} of {len(publishers)} publishers took it and "
            f"{required} are required: {problems}"
        )
    return Published(done, failed)


def _problem(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _published(path: Path) -> Checkpoint | None:
    """The checkpoint in a file; None if there is none, or it is malformed."""
    try:
        return Checkpoint.of(path.read_bytes())
    except (FileNotFoundError, NoteRefused):
        return None
