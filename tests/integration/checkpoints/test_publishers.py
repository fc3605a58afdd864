"""Checkpoints published to a folder, a real HTTP endpoint, a real Redis; and how many must succeed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import InvalidSetting, Ledger, PublishingFailed, create_redis_connection
from ledger.checkpoints.publishers import Endpoint, Folder, Published, Publisher, check_require, publish, publisher_of
from tests.support.http_endpoint import Taker, endpoint
from tests.support.logs import Log


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(300)


@pytest.fixture
def taker() -> Iterator[Taker]:
    with endpoint() as taker:
        yield taker


def at(ledger: Ledger, *places: str) -> list[Publisher]:
    return [publisher_of(place, ledger.run, "main") for place in places]


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


# ------------------------------------------------------------------------------------------------------------- folder


def test_a_folder_has_the_newest_and_all(log: Log, tmp_path: Path) -> None:
    folder = tmp_path / "a/log"
    for size in (100, 100, 300, 200):
        publish(log.note(size), [Folder(folder)])
    assert (folder / "checkpoint").read_bytes() == log.note(300)
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == {
        str(size): log.note(size) for size in (100, 200, 300)
    }
    assert (folder / "checkpoint").stat().st_mode & 0o044, "a web server may read it"
    publish(log.note(300, witnesses=0), [Folder(folder)])
    publish(log.note(300, witnesses=2), [Folder(folder)])
    assert (folder / "checkpoint").read_bytes() == log.note(300, witnesses=2)


def test_a_folder_with_another_history_is_not_written_over(log: Log, tmp_path: Path) -> None:
    fork, other = Log(299), Log(300, name="other")
    fork.append(1, actor="user:43")
    publish(log.note(), [Folder(tmp_path)])
    for note, problem in ((fork.note(), "forked"), (other.note(), r"is a checkpoint of log\.example/audit/main")):
        with pytest.raises(PublishingFailed, match=problem):
            publish(note, [Folder(tmp_path)])
    assert (tmp_path / "checkpoint").read_bytes() == log.note()
    (tmp_path / "checkpoint").write_bytes(b"rubbish")
    publish(log.note(), [Folder(tmp_path)])
    assert (tmp_path / "checkpoint").read_bytes() == log.note()


def test_a_folder_that_cannot_be_written(log: Log, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PublishingFailed, match=r"0 of 1 publishers took it and 1 are required: .*file/log: Not a dir"):
        publish(log.note(), [Folder(tmp_path / "file/log")])


# --------------------------------------------------------------------------------------------------------------- HTTP


def test_an_endpoint_gets_the_note(log: Log, taker: Taker) -> None:
    taker.status = 204
    url = taker.url.replace("http://", "http://us%65r:p%40ss@") + "?token=secret"
    place = Endpoint(url)
    publish(log.note(), [place])
    [(path, headers, body)] = taker.taken
    assert (path, body) == ("/log?token=secret", log.note())
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Authorization"] == "Basic dXNlcjpwQHNz"
    assert str(place) == taker.url
    publish(log.note(), [Endpoint(taker.url.removesuffix("/log"))])
    assert taker.taken[1][0] == "/"


@pytest.mark.parametrize("status", [301, 307, 400, 403, 500, 503])
def test_an_endpoint_that_answers_otherwise(log: Log, taker: Taker, status: int) -> None:
    taker.status = status
    taker.location = taker.url if status < 400 else ""
    with pytest.raises(PublishingFailed, match=f"127.0.0.1:[0-9]+/log: answered {status}: so it is"):
        publish(log.note(), [Endpoint(taker.url.replace("http://", "http://user:pa55@"))])
    assert len(taker.taken) == 1, "no redirect is followed: it may lead anywhere"


def test_an_endpoint_that_is_away_or_hangs(log: Log, taker: Taker) -> None:
    taker.hang.clear()
    with pytest.raises(PublishingFailed, match="timed out"):
        publish(log.note(), [Endpoint(taker.url, timeout=0.2)])
    with pytest.raises(PublishingFailed, match="Connection refused") as caught:
        publish(log.note(), [Endpoint(f"http://user:pa55@127.0.0.1:{closed_port()}/")])
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "ftp://host/", "http://", "http://host:0/", "http://host:x/", "http://h/a b"])
def test_what_is_no_place(ledger: Ledger, place: str) -> None:
    with pytest.raises(InvalidSetting):
        at(ledger, place)


# -------------------------------------------------------------------------------------------------------------- Redis


def test_the_stream_has_the_note(log: Log, ledger: Ledger) -> None:
    for size in (100, 300):
        publish(log.note(size), at(ledger, "redis"))
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        entries = redis.xrange("ledger:{main}:checkpoints")
    assert [fields for _, fields in entries] == [
        {b"size": b"%d" % size, b"note": log.note(size)} for size in (100, 300)
    ]


def test_redis_being_away_is_a_failure_like_any(log: Log, ledger: Ledger, tmp_path: Path) -> None:
    with Ledger.open(
        database_url=ledger.settings.database_url, redis_url=f"redis://127.0.0.1:{closed_port()}/0"
    ) as other:
        done = publish(log.note(), at(other, "redis", str(tmp_path)), 1)
    assert done.done == [str(tmp_path)]
    [(name, problem)] = done.failed
    assert name == "redis"
    assert problem.startswith("Redis cannot be reached")


# ------------------------------------------------------------------------------------------------------------- policy


class Own:
    """A publisher of a user's own."""

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.taken: list[bytes] = []

    def __str__(self) -> str:
        return "own"

    def publish(self, note: bytes) -> None:
        if self.problems:
            raise self.problems.pop()
        self.taken.append(note)


def test_how_many_must_succeed(log: Log, taker: Taker, ledger: Ledger, tmp_path: Path) -> None:
    taker.status = 500
    own = Own(ValueError("no"), ValueError("no"), ValueError("no"), ValueError("no"))
    places = [*at(ledger, str(tmp_path), taker.url, "redis"), own]
    failed = [(taker.url, "answered 500: so it is"), ("own", "ValueError: no")]
    for require in (0, 1, 2):
        assert publish(log.note(), places, require) == Published([str(tmp_path), "redis"], failed)
    with pytest.raises(PublishingFailed) as caught:
        publish(log.note(), places, 3)
    assert str(caught.value) == (
        "the checkpoint is signed and kept, but 2 of 4 publishers took it and 3 are required: "
        f"{taker.url}: answered 500: so it is; own: ValueError: no"
    )
    with pytest.raises(PublishingFailed, match="3 of 4 publishers took it and 4 are required"):
        publish(log.note(), places)
    assert own.taken == [log.note()]
    taker.status = 200
    assert publish(log.note(), places) == Published([str(tmp_path), taker.url, "redis", "own"], [])


def test_more_than_there_are_cannot_be_required() -> None:
    assert check_require([1, 2], None) == 2
    assert check_require([1, 2], 0) == 0
    for require in (-1, 3):
        with pytest.raises(InvalidSetting, match="publishers are required"):
            check_require([1, 2], require)
