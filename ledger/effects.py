"""What a plan may ask of the outside. No file below `drive` does any input or output; it asks for it here.

A plan is a generator: it yields effects, receives what they brought, and returns its result. It is written once and
driven in two colours (`drive` and `adrive` of drivers/run.py), on our connections and on the caller's. It can be
stopped after any effect, which is how crashes are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """One SQL statement with its parameters. Brings its rows: list[Row], empty where it has none."""

    sql: str
    params: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Begin:
    """Opens a transaction, with the settings of drivers/connections.py. Brings no rows."""

    sql: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Several statements in one round trip. Brings a list of rows for each."""

    queries: tuple[Query | Begin, ...]


@dataclass(frozen=True, slots=True)
class CopyIn:
    """Statements without parameters, of which one is a COPY … FROM STDIN, with its data, ready-made.

    They are sent in one message: outside of a transaction they are a transaction of their own.
    Brings the rows of the last one, each value as Postgres writes it as text.
    """

    sql: str
    data: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Stored:
    """One query of any length, whose rows go to `take` one by one as they are stored. Brings None. Sync only.

    uuid, json and bytea come as bytes, timestamptz as microseconds since 2000-01-01 UTC: a forged row may hold what no
    UUID or datetime can. Memory is bounded by a few rows.
    """

    sql: str
    params: Sequence[Any]
    take: Callable[[Row], object]


@dataclass(frozen=True, slots=True)
class CopyOut:
    """A COPY … TO STDOUT (FORMAT binary) without parameters, whose messages go to `take`, some at a time. Brings None.

    A message is a row; the first one begins with the header, and the last one is the trailer. Memory is bounded by
    some 64 KiB and a row.
    """

    sql: str
    take: Callable[[list[bytes]], object]


@dataclass(frozen=True, slots=True)
class LentTransactions:
    """Asks which connections that callers lent (`connection=`) are in a transaction. Brings their backends' pids."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """Ends the open transaction, if there is one, with nothing done. Brings None.

    By the driver's own way: only so it forgets which statements it took for prepared in a pipeline that was given up.
    """


@dataclass(frozen=True, slots=True)
class Command:
    """One Redis command. Brings its reply, bytes undecoded."""

    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SqlScript:
    """Several SQL statements without parameters, such as a migration. Brings None."""

    sql: str


@dataclass(frozen=True, slots=True)
class LuaScript:
    """One Lua script, run atomically by Redis. Brings its reply."""

    lua: str
    keys: tuple[str, ...]
    args: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds. Brings None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Apply:
    """Let a function write through the connection's open transaction, as a projection does. Sync only.

    Brings None, or what the function raised, unless that was the connection's end.
    """

    function: Callable[[Any], None]


Effect: TypeAlias = (
    Query
    | Begin
    | Pipeline
    | CopyIn
    | Stored
    | CopyOut
    | SqlScript
    | LentTransactions
    | Rollback
    | Command
    | LuaScript
    | Wait
    | Apply
)
Plan: TypeAlias = Generator[Effect, Any, T]
Feed: TypeAlias = Generator[Plan[Any] | list[T], Any, None]
"""A conversation of many plans, such as a follower's: yields plans, and is sent what each returned; or lists of items,
which go to the caller one by one. Each plan is run by itself: between two of them no connection is held.
"""


class Refused(Exception):
    """A server refused an effect; thrown into the plan, which may know what to do about it.

    `sqlstate` is Postgres' five characters, empty for Redis. `away`: it is Redis that refused, for whatever reason.
    To a plan, what it does not expect of Redis (a key of another type, a forbidden command, a node of a cluster) is the
    same as no answer.
    """

    def __init__(self, message: str, sqlstate: str = "", away: bool = False) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.away = away

    @property
    def is_damage(self) -> bool:
        """Whether Postgres could not read what it stores. Class XX: internal errors; 58: those of the file system."""
        return self.sqlstate.startswith(("XX", "58"))

    @property
    def first_line(self) -> str:
        """Of its message: the lines after it are the server's details, hints and context."""
        return str(self).partition("\n")[0]

    @property
    def hint(self) -> str:
        """The server's hint, or nothing."""
        return str(self).partition("\nHINT:")[2].partition("\n")[0].strip()


@contextmanager
def foreseen(command: str) -> Iterator[None]:
    """Around the parsing of a reply of Redis. Raises Refused for one that has not the form of the command's replies."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refused(f"its reply to {command} is not of the form that was expected", away=True) from error
