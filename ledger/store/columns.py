"""The columns of an entry's row: one list, from which every SQL statement about whole entries is made.

A .sql file that `entry_sql` reads has the name of a list in braces in the place of the list:

    {columns}           the names, as the table has them
    {as_entry}          for events.Entry: JSON as text; null for a time that no datetime holds (of a forged entry)
    {as_numbers}        as texts: JSON, and times as seconds since 1970, whatever they are
    {without_body}      the names, with null for the body, which may be damaged when the rest is not
    {row}               one parameter for each column, ledger_id first
    {typed_row}         the same, each cast to the column's type

The structs that rows become are checked against the list when this module is imported. The migrations, and what
schema/declared says, have lists of their own; tests/integration/store/test_schema.py compares the table's.
"""

from __future__ import annotations

from typing import Final

from ledger.events import Entry
from ledger.format.rules import Columns
from ledger.statements import sql

COLUMNS: Final = {
    "position": "bigint",
    "id": "uuid",
    "recorded_at": "timestamptz",
    "occurred_at": "timestamptz",
    "actor": "text",
    "actor_type": "text",
    "action": "text",
    "resource_type": "text",
    "resource_id": "text",
    "before": "json",
    "after": "json",
    "metadata": "json",
    "salt": "bytea",
    "body_hash": "bytea",
    "prev_hash": "bytea",
    "hash": "bytea",
}
"""Names and types of the columns of `ledger.audit_logs`, in the table's order. Before them it has ledger_id (int)."""
_BODY = ("before", "after", "metadata", "salt")


def _check(struct: str, fields: tuple[str, ...], expected: list[str]) -> None:
    if list(fields) != expected:
        raise RuntimeError(f"{struct} has the fields {fields}, and a row of ledger.audit_logs {expected}")


_check("Entry", Entry.__struct_fields__, ["ledger", *(f"{n}_json" if t == "json" else n for n, t in COLUMNS.items())])
_check("Columns", Columns._fields, [name.removesuffix("_at") for name in COLUMNS])


def _as_entry(name: str, kind: str) -> str:
    if kind == "timestamptz":
        return f"case when {name} >= '0001-01-01 00:00+00' and {name} < '10000-01-01 00:00+00' then {name} end"
    return f"{name}::text" if kind == "json" else name


def _as_number(name: str, kind: str) -> str:
    if kind == "timestamptz":
        return f"extract(epoch from {name})::text"
    return f"{name}::text" if kind == "json" else name


_LISTS: Final = {
    "{columns}": COLUMNS,
    "{as_entry}": [_as_entry(*column) for column in COLUMNS.items()],
    "{as_numbers}": [_as_number(*column) for column in COLUMNS.items()],
    "{without_body}": [f"null::{kind}" if name in _BODY else name for name, kind in COLUMNS.items()],
    "{row}": ["%s"] * (1 + len(COLUMNS)),
    "{typed_row}": [f"%s::{kind}" for kind in ("int", *COLUMNS.values())],
}


def entry_sql(module: str) -> dict[str, str]:
    """The statements of the .sql file beside a module, which gives its `__file__`, with the lists put in."""
    made = sql(module).copy()
    for marker, items in _LISTS.items():
        for name, statement in made.items():
            made[name] = statement.replace(marker, ", ".join(items))
    return made
