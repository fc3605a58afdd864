"""INSERT, UPDATE and DELETE statements that a session executes: every row that they write is recorded.

| statement | statements added, besides the one that records |
|---|---|
| INSERT | none: RETURNING is added to it |
| INSERT … ON CONFLICT DO UPDATE | 1: the rows that it conflicts with, locked |
| UPDATE | 2: the matching rows, locked, and the same rows afterwards |
| DELETE | 1: the matching rows, locked |

UPDATE and DELETE are restricted to the rows that were locked, so that what is recorded is what they write: a row that
begins to match in between stays as it is, as if they had run a moment earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Delete, FromClause, Insert, Update, literal_column, select
from sqlalchemy.engine import Result
from sqlalchemy.orm import ORMExecuteState

from ledger.contrib.sqlalchemy.mapped import Identity, Mapped, Values
from ledger.contrib.sqlalchemy.policy import CREATED, DELETED, UPDATED
from ledger.contrib.sqlalchemy.results import without_returning
from ledger.contrib.sqlalchemy.tables import Tables
from ledger.contrib.sqlalchemy.upsert import conflicting, is_upsert
from ledger.errors import UsageError


class Statements:
    """Listens to `do_orm_execute`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def execute(self, state: ORMExecuteState) -> Result[Any] | None:
        """The result of a statement that was captured, None for any other."""
        statement = getattr(state.statement, "element", state.statement)  # of select().from_statement(…)
        if not isinstance(statement, Insert | Update | Delete):
            return None
        mapped = self._mapped(state, statement.table)
        if mapped is None:
            return None
        if statement is not state.statement:
            raise UsageError(f"from_statement() of what writes {mapped.resource_type} is not captured: execute it")
        if state.is_orm_statement and state.session.autoflush and state.execution_options.get("autoflush", True):
            state.session.flush()
        connection = state.session.connection(bind_arguments=dict(state.bind_arguments))
        if isinstance(statement, Insert):
            return self._insert(state, statement, mapped, connection)
        if isinstance(state.parameters, list):
            return self._update_by_key(state, mapped, connection)
        return self._change(state, statement, mapped, connection)

    def _mapped(self, state: ORMExecuteState, table: Any) -> Mapped | None:
        """By the class of a statement of the ORM, or by the table of a Core statement."""
        if state.is_orm_statement and state.bind_mapper is not None:
            return self._tables.of(state.bind_mapper)
        return self._tables.of_table(table)

    def _insert(self, state: ORMExecuteState, statement: Insert, mapped: Mapped, connection: Connection) -> Result[Any]:
        upsert = is_upsert(statement)
        before = conflicting(connection, statement, state.parameters, mapped) if upsert else {}
        rest = [key for key in mapped.columns if key not in mapped.primary]
        ours: list[Any] = [mapped.attribute(key) for key in (*mapped.primary, *rest)]
        if not state.is_orm_statement:
            ours = [mapped.columns[key] for key in (*mapped.primary, *rest)]
        ours = [each.label(f"ledger_{at}") for at, each in enumerate(ours)]
        if upsert:  # which rows are new: no transaction has locked or replaced them
            ours.append(literal_column("xmax = 0").label("ledger_new"))
        returns = bool(statement._returning)
        frozen = state.invoke_statement(statement=statement.returning(*ours)).freeze()
        rows = [tuple(row)[-len(ours) :] for row in frozen.data]
        events = []
        for row in rows:
            [(identity, after)] = mapped.rows([row], rest).items()
            if identity in before:
                events.append(mapped.updated(identity, before[identity], after, connection.dialect))
            else:  # or was there, but what it held is not known
                events.append(mapped.whole(UPDATED if upsert and not row[-1] else CREATED, after, connection.dialect))
        self._tables.record(connection, events)
        if not returns:
            return without_returning(rows, len(mapped.primary))
        result = frozen()
        return result.columns(*range(len(result.keys()) - len(ours)))

    def _change(
        self, state: ORMExecuteState, statement: Update | Delete, mapped: Mapped, connection: Connection
    ) -> Result[Any]:
        before = _matching(state, statement, mapped, connection)
        restricted = statement.where(mapped.among(list(before)))
        # What is added to it, SQLAlchemy cannot evaluate in Python: it has the database return the keys instead.
        evaluate = state.update_delete_options._synchronize_session == "evaluate"
        options = {"synchronize_session": "fetch"} if evaluate else {}
        result = state.invoke_statement(statement=restricted, execution_options=options)
        if isinstance(statement, Delete):
            left: Iterable[Identity] = ()
            if getattr(result, "rowcount", len(before)) != len(before):
                left = mapped.read(connection, list(before), ())
            self._deleted(connection, mapped, [values for key, values in before.items() if key not in left])
        else:
            self._updated(connection, mapped, before)
        return result

    def _update_by_key(self, state: ORMExecuteState, mapped: Mapped, connection: Connection) -> Result[Any]:
        """`session.execute(update(Invoice), [{"id": 1, "total": 5}, …])`."""
        parameters: list[dict[str, Any]] = list(state.parameters or ())  # type: ignore[arg-type]
        if (
            not state.is_orm_statement
            or state.is_delete
            or not all(key in row for row in parameters for key in mapped.primary)
        ):
            raise UsageError(
                f"a statement that writes {mapped.resource_type} with several sets of parameters is captured as "
                "execute(update(Class), [{primary key and values}, …]) only: execute one each, or use triggers"
            )
        identities = [tuple(row[key] for key in mapped.primary) for row in parameters]
        before = mapped.read(connection, identities, mapped.columns, lock=True)
        result = state.invoke_statement()
        self._updated(connection, mapped, before)
        return result

    def _updated(self, connection: Connection, mapped: Mapped, before: dict[Identity, Values]) -> None:
        after = mapped.read(connection, list(before), mapped.columns)
        if len(after) != len(before):
            raise UsageError(
                f"an UPDATE of primary keys of {mapped.resource_type} is not captured: change the objects, or capture "
                "the table by triggers"
            )
        dialect = connection.dialect
        self._tables.record(connection, [mapped.updated(key, old, after[key], dialect) for key, old in before.items()])

    def _deleted(self, connection: Connection, mapped: Mapped, rows: Sequence[Values]) -> None:
        self._tables.record(connection, [mapped.whole(DELETED, row, connection.dialect, gone=True) for row in rows])


def _matching(
    state: ORMExecuteState, statement: Update | Delete, mapped: Mapped, connection: Connection
) -> dict[Identity, Values]:
    """The rows that the statement will write, locked. Not by the session, whose listeners may filter SELECTs."""
    rest = [key for key in mapped.columns if key not in mapped.primary]
    query = select(*map(mapped.attribute, (*mapped.primary, *rest))).options(*statement._with_options)
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    tables: list[FromClause] = list(mapped.mapper.tables)
    query = query.with_for_update(key_share=isinstance(statement, Update), of=tables)
    query = query.order_by(*map(mapped.attribute, mapped.primary))
    options = {**statement.get_execution_options(), **state.execution_options}
    kept = {name: value for name, value in options.items() if name == "schema_translate_map"}
    return mapped.rows(connection.execute(query, state.parameters or {}, execution_options=kept), rest)
