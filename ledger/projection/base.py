"""What a projection is, its tables and its positions, and how one is found. apply.py moves it, rebuild.py rebuilds it.

A projection's tables have plain names. They are in the schema `ledger_views`; while they are rebuilt, in a schema of
their own. The search_path decides which of the two a statement means, so a projection never names a schema.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from typing import Any, ClassVar, NamedTuple, Never, Protocol

from ledger.effects import Begin, Feed, Pipeline, Plan, Query, Refused, Row, SqlScript, Wait
from ledger.errors import InvalidSetting, UnknownProjection, WaitTimeout
from ledger.events import Entry, Receipt, Tail
from ledger.store.columns import entry_sql
from ledger.store.ledgers import BEGIN, COMMIT, LedgerRef
from ledger.stream.reader import POLL

SQL = entry_sql(__file__)
LIVE_SCHEMA = "ledger_views"
NAME = re.compile(r"[a-z][a-z0-9_]*")
GROUP = "auditledger.projections"
"""The entry points under which packages offer their projections."""
_FAULTS = ("22", "23", "42", "0A", "3F")
"""Classes of SQLSTATE: errors of the SQL, not of the server."""
_EXISTS = "42P07"
"""SQLSTATE duplicate_table: the tables exist without view positions."""


class Writes(Protocol):
    """The transaction in which `apply` changes its tables, and its position moves."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """Runs one statement. Returns its rows, as tuples."""

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each set of parameters, in few round trips."""

    def copy(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], types: Sequence[str] = ()
    ) -> None:
        """Copies many rows into one table, which is the fastest way.

        types: of the columns, as Postgres names them, with `text` for json. Then the rows go in binary, which takes a
        fifth of the time, and each value must be of the class that psycopg reads from such a column: Postgres casts
        nothing.
        """


class Projection(ABC):
    """A read view made from entries, exactly once each, in order.

    name: of the projection, `[a-z][a-z0-9_]*`. version: raise it when `schema` or `apply` changes; the view is then
    rebuilt. tables: the tables that `schema` creates. schema: SQL that creates them, with plain names, every key
    beginning with ledger_id.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]]
    schema: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises InvalidSetting if `apply` or `erase` cannot be called as they are."""
        super().__init_subclass__(**options)
        for method, parameters in (("apply", _APPLY), ("erase", _ERASE)):
            if method in cls.__dict__:
                _check_method(cls, method, parameters)

    @abstractmethod
    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        """Applies the next entries of one ledger to the tables: all of them or, by raising, none.

        Must depend on nothing but its tables and the entries: a rebuild has to give the same rows.
        """

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        """Drops from the tables what came from the body of an erased entry; by default nothing.

        Called after `apply` got the erasure (`ledger.entry_erased`), before the entries after it, in the same
        transaction. A rebuild gets the entry without its body from the start: both have to give the same rows.
        entry: as it is now, without its body. about: all entries about the same resource up to the erasure, as they
        are now, read from Postgres while they are iterated; none if the entry is about no resource.
        """
        return


_APPLY = ("self", "ledger_id", "entries", "tx")
_ERASE = ("self", "ledger_id", "entry", "about", "tx")


def _check_method(cls: type, method: str, parameters: tuple[str, ...]) -> None:
    function = cls.__dict__[method]
    what = f"projection {cls.__name__}: {method}({', '.join(parameters)})"
    if any(check(function) for check in (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)):
        raise InvalidSetting(f"{what} must be a plain `def` without await and yield: it writes through tx, which waits")
    try:
        signature(function).bind(*parameters)
    except (TypeError, ValueError) as error:
        raise InvalidSetting(f"{what} is how it is called, and this method does not take that: {error}") from None


def check_projection(projection: object) -> Projection:
    """Returns the projection. Raises InvalidSetting if it is none, or incomplete."""
    if isinstance(projection, type) and issubclass(projection, Projection):
        raise InvalidSetting(
            f"{projection.__name__} is the class of a projection: pass an instance, {projection.__name__}()"
        )
    if not isinstance(projection, Projection):
        raise InvalidSetting(
            f"{type(projection).__name__} is not a projection: it must be a subclass of ledger.Projection"
        )
    what = f"projection {type(projection).__name__}"
    missing = [each for each in ("name", "tables", "schema") if not hasattr(projection, each)]
    if missing:
        raise InvalidSetting(f"{what} has no {' and no '.join(missing)}")
    if not (isinstance(projection.name, str) and NAME.fullmatch(projection.name)):
        raise InvalidSetting(f"{what}: its name must be lowercase letters, digits and _, not {projection.name!r}")
    if isinstance(projection.tables, str) or not all(isinstance(each, str) for each in projection.tables):
        raise InvalidSetting(f"{what}: its tables must be a tuple of names, not {projection.tables!r}")
    return projection


class ViewPosition(NamedTuple):
    """How far a projection has come in a ledger: the tail of what it has seen, and the stream's epoch at that time.

    failed_position: of the entry at which it is blocked.
    """

    name: str
    version: int
    epoch: int
    position: int
    hash: bytes
    recorded_at: datetime
    failed_position: int | None = None

    @property
    def tail(self) -> Tail:
        return Tail(self.position, self.hash, self.recorded_at)


class Retry(NamedTuple):
    """A skip that a rebuild takes back: the entry is applied at its position.

    record: makes the plan that records this in the open transaction, which swaps the view in, and commits.
    """

    ledger_id: int
    position: int
    record: Callable[[], Plan[Any]]


def install(projection: Projection, ledgers: Sequence[LedgerRef]) -> Plan[None]:
    """Creates the tables if the projection is new, and its position in each ledger where it has none."""
    yield Pipeline(
        (
            *(BEGIN, Query(SQL["as_projector"]), Query(SQL["lock_name"], (projection.name,))),
            lock_work(LIVE_SCHEMA, [projection]),
            Query(SQL["set_path"], (LIVE_SCHEMA,)),
        )
    )
    if not (yield Query(SQL["known"], (projection.name,))):
        yield from create_tables(projection, LIVE_SCHEMA)
    yield from add_view_positions(projection, ledgers, building=False)
    yield COMMIT


def read_views(tables: Sequence[str], query: Query) -> Plan[list[Row]]:
    """The rows of a query on read views, in a transaction of its own. tables: those of `ledger_views` that it names.

    Raises RecordRefused if one of them is no plain table: Postgres would run what its owner put there, with the rights
    of the reader.
    """
    lock = Query(SQL["lock_plain"], (list(tables),))
    *_, rows, _ = yield Pipeline((Begin("begin isolation level read committed read only"), lock, query, COMMIT))
    return list(rows)


def clear_rebuilds() -> Plan[None]:
    """Drops the tables that killed rebuilds left behind."""
    yield Query(SQL["clear_rebuilds"])


def view_positions(name: str, building: bool = False) -> Plan[dict[int, ViewPosition]]:
    """The positions of a projection, by ledger_id. building: those of its rebuild."""
    rows = yield Query(SQL["checkpoints"], (name, building))
    return {row[0]: ViewPosition(*row[1:]) for row in rows}


def reached(ledger: LedgerRef, name: str) -> Plan[int]:
    """The position that the live projection has reached. Raises UnknownProjection."""
    positions = yield from view_positions(name)
    if ledger.ledger_id not in positions:
        raise UnknownProjection(f"there is no projection {name!r} yet: build it with 'auditledger project {name}'")
    return positions[ledger.ledger_id].position


def lock_work(schema: str, projections: Iterable[Projection]) -> Query:
    """The statement that locks the tables, and refuses if a worker with more rights than ledger_projector would run
    code that their owner put there."""
    return Query(SQL["lock_work"], (schema, [table for projection in projections for table in projection.tables]))


def building_schema(projection: Projection) -> str:
    """The schema of its tables while they are rebuilt."""
    return f"ledger_rebuild_{projection.name}"


def create_tables(projection: Projection, schema: str) -> Plan[None]:
    """Creates the tables in `schema`, which the search_path names. Raises InvalidSetting if its SQL is wrong."""
    try:
        yield SqlScript(projection.schema)
    except Refused as refused:
        lacks_positions = schema == LIVE_SCHEMA and refused.sqlstate == _EXISTS
        if refused.sqlstate[:2] not in _FAULTS or lacks_positions:
            raise
        problem = " ".join(str(refused).split())
        raise InvalidSetting(f"the schema of projection {projection.name!r} cannot be created: {problem}") from refused
    yield Query(SQL["protect"], (schema, list(projection.tables)))


def add_view_positions(projection: Projection, ledgers: Sequence[LedgerRef], building: bool) -> Plan[None]:
    """Adds a position, at the beginning, in each ledger where there is none."""
    ids = [ledger.ledger_id for ledger in ledgers]
    yield Query(SQL["add_checkpoints"], (projection.name, building, projection.version, ids))


class ProjectionWait:
    """Waits until a projection has reached a receipt or position. timeout: in seconds, from now on."""

    def __init__(self, receipt: Receipt | int, projection: str, timeout: float) -> None:
        self._position = receipt if isinstance(receipt, int) else receipt.position
        self._projection = projection
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def polls(self, ledger: LedgerRef) -> Feed[Never]:
        """Asks where it is until it is there. Raises WaitTimeout, UnknownProjection."""
        while self._is_behind((yield reached(ledger, self._projection))):
            yield _pause()

    def _is_behind(self, reached: int) -> bool:
        if reached >= self._position:
            return False
        if time.monotonic() >= self._end:
            raise WaitTimeout(
                f"projection {self._projection!r} stands at {reached}, not yet at {self._position}, "
                f"after {self._timeout:g} s: is 'auditledger project' running?"
            )
        return True


def _pause() -> Plan[None]:
    yield Wait(POLL)


def find_projections(names: list[str] | None = None) -> list[Projection]:
    """Projections by name, or as `module:Class`; without names, all installed ones. Raises UnknownProjection."""
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    projections: list[Projection] = []
    for name in names or sorted(offered):
        try:
            loaded = offered[name].load() if name in offered else _load(name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise UnknownProjection(f"projection {name!r} cannot be loaded: {error}") from error
        if isinstance(loaded, Projection):
            raise UnknownProjection(f"{name!r} is an instance: name its class, {type(loaded).__name__}")
        if not (isinstance(loaded, type) and issubclass(loaded, Projection)):
            raise UnknownProjection(f"{name!r} is not a Projection: it must be a subclass of ledger.Projection")
        try:
            projections.append(check_projection(loaded()))
        except TypeError as error:  # its __init__ takes arguments, or a method is missing
            raise UnknownProjection(f"{name!r} cannot be made: {error}") from error
    return projections


def _load(name: str) -> object:
    module, colon, attribute = name.partition(":")
    if not colon or not all(each.isidentifier() for each in (*module.split("."), attribute)):
        known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP)))
        raise UnknownProjection(f"there is no projection {name!r}; known are {known}; name your own as module:Class")
    return getattr(import_module(module), attribute)
