"""Cursors that converters registered by the application do not reach: values go and come as plans mean them.

psycopg converts values as a global table says, and as the connection's own says; applications register converters in
both. Our cursors have a table of their own, made from psycopg's defaults. They read and write UTF-8 and give times in
UTC, whatever the session's encoding and time zone are (connections.py and callers.py see to the encoding), and they
prepare a statement by name on a connection of ours that speaks to the server itself, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import adapt, generators, postgres, pq, waiting
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types import TypesRegistry, array
from psycopg.types.json import set_json_dumps, set_json_loads

from ledger.effects import Row

Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


class _Array(array.ListBinaryDumper):
    """Arrays go in binary: in a text, NULL is the word NULL where the session has array_nulls off.

    psycopg knows no type for one that holds nothing but NULLs, and would make a text of it.
    """

    def get_key(self, obj: list[Any], format: adapt.PyFormat) -> Any:
        return (self.cls, "nulls") if _is_nulls(obj) else super().get_key(obj, format)

    def upgrade(self, obj: list[Any], format: adapt.PyFormat) -> array.BaseListDumper:
        if not _is_nulls(obj):
            return super().upgrade(obj, format)
        dumper = _Array(self.cls, self._tx)
        dumper.oid = postgres.types["text"].array_oid
        return dumper


def _is_nulls(items: list[Any]) -> bool:
    return bool(items) and all(item is None for item in items)


def _defaults() -> adapt.AdaptersMap:
    """psycopg's converters as it comes, whatever was registered in `psycopg.adapters` since."""
    types = TypesRegistry()
    postgres.register_default_types(types)
    made = adapt.AdaptersMap(types=types)
    postgres.register_default_adapters(made)
    array.register_all_arrays(made)  # without which an array would come as its bytes
    # set_json_loads() without a context changes the default classes themselves.
    set_json_loads(json.loads, made)
    set_json_dumps(json.dumps, made)
    made.register_dumper(list, _Array)
    return made


def _as_stored() -> adapt.AdaptersMap:
    """uuid and json as bytes, times as microseconds since 2000: for effects.Stored."""
    made = adapt.AdaptersMap(ADAPTERS)
    as_bytes = made.get_loader(made.types["bytea"].oid, pq.Format.BINARY)
    as_integer = made.get_loader(made.types["int8"].oid, pq.Format.BINARY)
    if as_bytes is None or as_integer is None:
        raise RuntimeError("this psycopg has no loaders of bytea and int8")
    for name, loader in (("uuid", as_bytes), ("json", as_bytes), ("timestamptz", as_integer)):
        made.register_loader(name, loader)
    return made


ADAPTERS: Final = _defaults()
_STORED: Final = _as_stored()


class _Plain:
    """Rows as tuples, in binary."""

    def __init__(self, connection: Any, adapters: adapt.AdaptersMap = ADAPTERS) -> None:
        self._plain = adapters
        super().__init__(connection, row_factory=psycopg.rows.tuple_row)  # type: ignore[call-arg]
        self.format = pq.Format.BINARY

    def _start_query(self, query: Any = None) -> PQGen[None]:
        # As psycopg's own, but for the Transformer, which is made without the connection: so it has neither that one's
        # converters nor its encoding and time zone, and works in UTF-8 and UTC.
        self._reset()  # type: ignore[attr-defined]
        self._tx = adapt.Transformer(self._plain)
        yield from self._conn._start_query()  # type: ignore[attr-defined]


class Cursor(_Plain, psycopg.Cursor[Row]):
    """For a psycopg.Connection, ours or a caller's."""


class AsyncCursor(_Plain, psycopg.AsyncCursor[Row]):
    """For a psycopg.AsyncConnection."""


def stored_cursor(connection: Connection) -> Cursor:
    """A cursor for effects.Stored."""
    return Cursor(connection, _STORED)


def prepares(connection: Connection | AsyncConnection) -> bool | None:
    """psycopg's `prepare` for a statement: False for never, None for once it was executed often enough.

    Behind a pooler that changes servers between transactions, a name may stand for another client's statement.
    """
    return None if getattr(connection, "direct", False) or _callers.get(connection) is True else False


_BATCH = 64 * 1024
"""Bytes of a COPY OUT that are handed on at a time."""

_callers: WeakKeyDictionary[Any, bool | int] = WeakKeyDictionary()
"""Of callers' connections: whether they speak to the server itself, if that is known; else how often they came."""
_WORTH_WHILE = 5


def wants_to_know(connection: Connection | AsyncConnection) -> bool:
    """Whether a caller's connection came so often that it pays to ask for its backend, for `note`. Counts this call."""
    seen = _callers.get(connection, 0)
    if seen is True or seen is False:
        return False
    _callers[connection] = seen + 1
    return seen + 1 >= _WORTH_WHILE


def note(connection: Connection | AsyncConnection, backend: int) -> None:
    """Notes whether a caller's connection speaks to the server itself.

    backend: the result of pg_backend_pid(). A pooler gives its clients other numbers.
    """
    _callers[connection] = backend == connection.info.backend_pid


def copying(connection: Connection | AsyncConnection, sql: str, data: Iterable[bytes]) -> PQGen[list[Row] | Exception]:
    """Sends statements of which one is a COPY FROM STDIN, in one message: outside of a transaction they are one.

    Brings the rows of the last one, as texts; or what the data raised, once the COPY was taken back.
    psycopg's own copy() takes a COPY alone, and believes that one result comes at its end.
    """
    pgconn = connection.pgconn
    yield from connection._start_query()
    try:
        yield from _begin_copy(pgconn, sql, ExecStatus.COPY_IN)
        failed = yield from _send(pgconn, data)
        pgconn.put_copy_end(None if failed is None else b"the data ended early")
        results = yield from generators.execute(pgconn)
    except BaseException:
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            pgconn.finish()  # its state is unknown
        raise
    if failed is not None:
        return failed
    _check(results)
    return [_texts(results[-1], row) for row in range(results[-1].ntuples)]


def copying_out(
    connection: Connection | AsyncConnection, sql: str, take: Callable[[list[bytes]], object]
) -> PQGen[None]:
    """Hands the messages of a COPY TO STDOUT to `take`, some at a time. psycopg's own copy() waits for each anew.

    What `take` raises is raised once the rest was passed over, so that the connection goes on.
    """
    pgconn = connection.pgconn
    yield from connection._start_query()
    try:
        yield from _begin_copy(pgconn, sql, ExecStatus.COPY_OUT)
        messages: list[bytes] = []
        size = 0
        failed: Exception | None = None
        while True:
            length, data = pgconn.get_copy_data(1)
            if length > 0:
                messages.append(bytes(data))
                size += length
                if size < _BATCH:
                    continue
            elif length == 0:
                while not (yield waiting.Wait.R):
                    continue
                pgconn.consume_input()
                continue
            try:
                if failed is None:
                    take(messages)
            except Exception as error:
                failed = error
            messages, size = [], 0
            if length < 0:
                break
        results = yield from generators.fetch_many(pgconn)
        if failed is not None:
            raise failed
        _check(results)
    except BaseException:
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            pgconn.finish()  # its state is unknown
        raise


def _begin_copy(pgconn: PGconn, sql: str, status: ExecStatus) -> PQGen[None]:
    """Sends statements of which the last begins a COPY. status: COPY_IN or COPY_OUT."""
    pgconn.send_query(sql.encode())
    results = yield from generators.execute(pgconn)
    _check(results)
    if results[-1].status != status:
        raise psycopg.OperationalError("Postgres did not begin a COPY that it was asked for")


def _send(pgconn: PGconn, data: Iterable[bytes]) -> PQGen[Exception | None]:
    """Sends the data of a COPY. Returns what the iterable raised, if it did."""
    pieces = iter(data)
    while True:
        try:
            piece = next(pieces, None)
        except Exception as error:
            return error
        if piece is None:
            return None
        yield from generators.copy_to(pgconn, piece, flush=False)


def _check(results: list[PGresult]) -> None:
    """Raises the first error among them, and where there are no results at all."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result, encoding="utf-8")
    if not results:
        raise psycopg.OperationalError("the server ended the session")


def _texts(result: PGresult, row: int) -> Row:
    values = (result.get_value(row, column) for column in range(result.nfields))
    return tuple(None if value is None else value.decode() for value in values)
