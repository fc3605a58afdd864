"""Counts the effects of a job where they are performed, and strikes one of them.

That is in `ledger.drive` for the servers; for files, where Python says that it is about to make, rename or remove one
in the job's folder. So whatever a job comes to do is covered without being named here.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import redis
from psycopg.pq import TransactionStatus

from ledger.drivers import postgres, run
from ledger.effects import (
    Apply,
    Begin,
    Command,
    CopyIn,
    CopyOut,
    Effect,
    LuaScript,
    Pipeline,
    Query,
    SqlScript,
    Stored,
    Wait,
)
from ledger.store.ledgers import COMMIT

_NOWHERE = (Wait,)
"""Effects that reach no server."""
_ON_FILES = ("os.rename", "os.remove", "os.mkdir")
_perform, _aperform = run._perform, run._aperform


class How(StrEnum):
    KILLED = "killed"
    """The process is gone, by SIGKILL: no `finally`, no rollback, no goodbye."""
    CUT = "cut"
    """Only the connection is gone; the process lives on and has to deal with it."""


class When(StrEnum):
    FAILED = "failed"
    """The effect did not happen."""
    PERSISTED = "persisted"
    """It happened, but the answer never came."""
    HALF_DONE = "half done"
    """Some of its statements, or of its data, arrived."""
    COMMITTED = "committed"
    """Its COMMIT was done, and nothing that comes behind it in the same round trip: the entry is not flushed yet."""


class Fault(NamedTuple):
    """at: which effect, from 1 on."""

    at: int
    how: How
    when: When


class Seen(NamedTuple):
    """An effect as it came by. of_files: not of a server's. in_parts: it can be half done. commits: before its end.

    lasting: what it did stays whatever comes then, because no transaction is open. handed_out: something was, between
    it and the next one.
    """

    text: str
    of_files: bool = False
    in_parts: bool = False
    commits: bool = False
    lasting: bool = False
    handed_out: bool = False

    @property
    def kind(self) -> str:
        """The text's first word: what follows may be another one in every run."""
        return self.text.split()[0]

    def faults(self, at: int, how: How) -> Iterator[Fault]:
        """Those that can strike it, but for such as leave the same behind as another one.

        Killed behind an effect is killed before the next one, unless something was handed out between them; and what an
        open transaction did is undone, however much of it arrived, and whether the answer came or not.
        """
        killed = how == How.KILLED
        if killed or not self.of_files:
            yield Fault(at, how, When.FAILED)
            if self.handed_out if killed else self.lasting:
                yield Fault(at, how, When.PERSISTED)
            if self.in_parts and (self.lasting or not killed):
                yield Fault(at, how, When.HALF_DONE)
            if self.commits:
                yield Fault(at, how, When.COMMITTED)


class Effects:
    """The effects of this process, counted for one job after the other.

    say: is told of each, as `effect`; of the number of each that turns out `lasting`; and of the one that is `struck`.
    """

    def __init__(self, say: Callable[[str, Any], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._folder = ""
        self._fault: Fault | None = None
        self._count = 0
        run._perform, run._aperform = self._performed, self._aperformed
        sys.addaudithook(self._heard)

    def begin(self, folder: Path, fault: Fault | None) -> None:
        """Counts anew. folder: where a job has its files."""
        self._folder, self._fault, self._count = str(folder), fault, 0

    def _performed(self, effect: Effect, connection: Any, client: Any) -> Any:
        if isinstance(effect, _NOWHERE):
            return _perform(effect, connection, client)
        number, is_struck = self._next(_seen(effect))
        steps = self._steps(effect, None if _is_redis(effect) else connection(), client) if is_struck else [effect]
        for step in steps:
            brought = _perform(step, connection, client)
        if _is_redis(effect) or connection().info.transaction_status == TransactionStatus.IDLE:
            self._say("lasting", number)
        return brought

    async def _aperformed(self, effect: Effect, connection: Any, client: Any) -> Any:
        if isinstance(effect, _NOWHERE):
            return await _aperform(effect, connection, client)
        number, is_struck = self._next(_seen(effect))
        steps = self._steps(effect, await connection(), client) if is_struck else [effect]
        for step in steps:
            brought = await _aperform(step, connection, client)
        if (await connection()).info.transaction_status == TransactionStatus.IDLE:
            self._say("lasting", number)
        return brought

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        opens = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in _ON_FILES) and self._folder and str(args[0]).startswith(self._folder):
            text = f"{event} {str(args[0]).removeprefix(self._folder)}"
            _, is_struck = self._next(Seen(text, of_files=True, in_parts=bool(opens), lasting=True))
            if is_struck:
                if self._fault is not None and self._fault.when == When.HALF_DONE:
                    os.open(args[0], args[2], 0o600)  # and nothing is written
                _die()

    def _next(self, seen: Seen) -> tuple[int, bool]:
        """Its number, and whether the fault strikes it."""
        with self._lock:
            self._count += 1
            self._say("effect", seen)
            is_struck = self._fault is not None and self._count == self._fault.at
            if is_struck:
                self._say("struck", seen)
            return self._count, is_struck

    def _steps(self, effect: Effect, postgres: Any, client: Any) -> Iterator[Effect]:
        """What is performed in the effect's place: the last one fails, or is never come to."""
        assert self._fault is not None

        def strike() -> None:
            if self._fault is not None and self._fault.how == How.KILLED:
                _die()
            elif postgres is not None:
                _cut(postgres)
            else:
                client.connection_pool.disconnect()
                raise redis.ConnectionError("cut by the test")

        match self._fault.when, effect:
            case When.FAILED, _:
                strike()
                yield effect
            case When.PERSISTED, _:
                yield effect
                strike()
                yield Query("select 1")
            case _, Pipeline():
                half = len(effect.queries) // 2
                if self._fault.when == When.COMMITTED:
                    half = effect.queries.index(COMMIT) + 1
                yield Pipeline(effect.queries[:half])
                strike()
                yield Pipeline(effect.queries[half:])
            case _, CopyIn():
                yield replace(effect, data=_broken_off(effect.data, strike))
            case _, Apply():
                yield Apply(lambda tx: effect.function(_BrokenOff(tx, strike)))
            case _:
                raise AssertionError(f"{effect} cannot be half done")


def _broken_off(data: Iterable[bytes], strike: Callable[[], None]) -> Iterator[bytes]:
    for piece in data:
        yield piece[: len(piece) // 2]
        strike()
        yield piece[len(piece) // 2 :]


class _BrokenOff:
    """A projection's transaction of which the first statement is the last that arrives."""

    def __init__(self, tx: postgres.Transaction, strike: Callable[[], None]) -> None:
        self._tx = tx
        self._strike = strike

    def execute(self, sql: str, params: Any = ()) -> Any:
        rows = self._tx.execute(sql, params)
        self._strike()
        return rows

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        self._tx.execute_many(sql, params)
        self._strike()

    def copy(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], types: Sequence[str] = ()
    ) -> None:
        self._tx.copy(table, columns, rows, types)
        self._strike()


def _is_redis(effect: Effect) -> bool:
    return isinstance(effect, Command | LuaScript)


def _seen(effect: Effect) -> Seen:
    match effect:
        case Pipeline():
            text = "; ".join(query.sql for query in effect.queries)
        case Query() | Begin() | CopyIn() | CopyOut() | SqlScript() | Stored():
            text = effect.sql
        case Command():
            text = " ".join(map(str, effect.args))
        case LuaScript():
            text = effect.lua
        case _:
            text = ""
    words = " ".join(line.strip() for line in text.splitlines() if not line.startswith("--"))
    in_parts = isinstance(effect, Apply | CopyIn) or (isinstance(effect, Pipeline) and len(effect.queries) > 1)
    commits = isinstance(effect, Pipeline) and COMMIT in effect.queries[:-1]
    return Seen(f"{type(effect).__name__} {words:.80}", in_parts=in_parts, commits=commits)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _cut(postgres: Any) -> None:
    """As a broken network does it: whatever is asked of this connection from now on fails in the driver's own way."""
    with socket.socket(fileno=os.dup(postgres.fileno())) as connected:
        connected.shutdown(socket.SHUT_RDWR)
