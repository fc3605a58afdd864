"""INSERT … ON CONFLICT DO UPDATE: the rows that it will conflict with, as they are before it.

They are found by the values that the statement gives for the columns of the conflict. Of a row that it gives an SQL
expression for, or an index of expressions, what was before is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, ClauseElement, Column, Connection, Insert, PrimaryKeyConstraint, Table
from sqlalchemy.dialects.postgresql.dml import OnConflictDoUpdate
from sqlalchemy.sql import visitors

from ledger.contrib.sqlalchemy.mapped import Identity, Mapped, Values


def is_upsert(statement: Insert) -> bool:
    return _clause(statement) is not None


def conflicting(connection: Connection, statement: Insert, parameters: Any, mapped: Mapped) -> dict[Identity, Values]:
    """The rows that are there already, locked."""
    clause = _clause(statement)
    targets = [] if clause is None else _targets(clause, statement, mapped)
    if not targets:
        return {}
    found = set()
    for row in _rows(statement, parameters, mapped):
        values = tuple(row.get(key) for key in targets)
        if not any(value is None or isinstance(value, ClauseElement) for value in values):
            found.add(values)
    return mapped.read(connection, list(found), mapped.columns, lock=True, by=targets)


def _clause(statement: Insert) -> OnConflictDoUpdate | None:
    clause = statement._post_values_clause
    each = () if clause is None else visitors.iterate(clause)
    return next((part for part in each if isinstance(part, OnConflictDoUpdate)), None)


def _targets(clause: OnConflictDoUpdate, statement: Insert, mapped: Mapped) -> list[str]:
    """The attributes of the columns that conflict; none if they are not plain columns."""
    elements: Sequence[Any] = clause.inferred_target_elements or ()
    if clause.constraint_target is not None and isinstance(statement.table, Table):
        known: list[Any] = [*statement.table.constraints, *statement.table.indexes]
        named = [each for each in known if clause.constraint_target in (each.name, _default_name(each))]
        elements = list(named[0].columns) if named else ()
    keys = [_attribute(each, mapped) for each in elements]
    return [] if None in keys else [key for key in keys if key is not None]


def _default_name(constraint: Any) -> str:
    """The name that Postgres gives a constraint without one."""
    table, columns = constraint.table.name, "_".join(each.name for each in constraint.columns)
    return f"{table}_pkey" if isinstance(constraint, PrimaryKeyConstraint) else f"{table}_{columns}_key"


def _rows(statement: Insert, parameters: Any, mapped: Mapped) -> Iterator[dict[str, Any]]:
    """What the statement inserts, by attribute."""
    sets: list[Any] = [parameters] if isinstance(parameters, Mapping) else list(parameters or [])
    sets += [row for rows in statement._multi_values for row in rows]
    for row in sets or [{}]:
        if isinstance(row, Mapping):
            pairs = {**(statement._values or {}), **row}
            values = {_attribute(name, mapped): value for name, value in pairs.items()}
            yield {
                key: value.effective_value if isinstance(value, BindParameter) else value
                for key, value in values.items()
                if key is not None
            }


def _attribute(of: Any, mapped: Mapped) -> str | None:
    """The attribute of a column, or of the name of a column or attribute."""
    name = of if isinstance(of, str) else of.name if isinstance(of, Column) else getattr(of, "key", None)
    by_column = {column.name: key for key, column in mapped.columns.items()}
    return name if isinstance(of, str) and name in mapped.columns else by_column.get(name or "")
