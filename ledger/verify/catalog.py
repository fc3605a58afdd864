"""What the migrations make, object by object, and how a database differs from that.

schema/catalog.json holds it. `make journal` reads it from a migrated scratch database with the statement by which
`verify` reads any other database (catalog.sql): whatever a migration makes is protected without being listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from ledger.effects import Plan, Query, SqlScript
from ledger.errors import MigrationTampered
from ledger.migrate.migrate import schema_folder
from ledger.statements import sql

SQL = sql(__file__)
FILE = "catalog.json"
Value: TypeAlias = str | int | list[str]
Facts: TypeAlias = dict[tuple[str, str], dict[str, Value]]
"""By kind and name of an object: what it is. A list: any of these, as a restored dump words it otherwise."""

_PASSIVE = ("table", "column", "constraint", "index", "sequence", "type")
"""What changes nothing that is written: a newer migration may have added it."""
_SHOWN = 120
"""Characters of a definition that are shown from shortly before the first that differs."""


def load(folder: Path | None = None) -> Facts:
    """What the migrations make. Raises MigrationTampered."""
    try:
        content = ((folder or schema_folder()) / FILE).read_bytes()
        rows = msgspec.json.decode(content, type=list[tuple[str, str, dict[str, Value]]])
    except (OSError, ValueError) as error:
        raise MigrationTampered(f"{FILE} is missing or damaged: {error}") from None
    return {(kind, name): fact for kind, name, fact in rows}


def read() -> Plan[Facts]:
    """What the database has. Changes settings of the transaction that it runs in."""
    yield SqlScript(SQL["settings"])
    rows = yield Query(SQL["facts"])
    return {(kind, name): msgspec.json.decode(fact) for kind, name, fact in rows}


def differences(wanted: Facts, actual: Facts, *, newer: bool = False) -> Iterator[str]:
    """A text for each object that is not as wanted, and for each privilege that is not.

    newer: the database has migrations beyond those of `wanted`, which may have added tables, columns and indexes.
    """
    for kind, name in sorted(wanted.keys() | actual.keys()):
        expected, present = wanted.get((kind, name)), actual.get((kind, name))
        if kind == "privileges":
            of, _, target = name.partition(" ")
            gone = (of, target) in wanted and (of, target) not in actual
            yield from _privileges(name, {} if gone else expected or {}, present or {})
        elif present is None:
            if not _is_part_of_another(kind, name, actual):
                yield f"{kind} {name} is missing"
        elif expected is None:
            # A role that is let in is named with the privilege that lets it.
            if not (kind == "role" or (newer and kind in _PASSIVE) or _is_part_of_another(kind, name, wanted)):
                yield f"{kind} {name} is not of the schema"
        elif wrong := [
            key for key in sorted(expected.keys() | present.keys()) if not _fits(expected.get(key), present.get(key))
        ]:
            if all(present.get(key) == "no" for key in wrong):
                yield f"{kind} {name} is not {' and not '.join(wrong)}"
            else:
                texts = "; ".join(_wrong(key, expected.get(key), present.get(key)) for key in wrong)
                yield f"{kind} {name} is not the one of the schema: {texts}"


def _is_part_of_another(kind: str, name: str, facts: Facts) -> bool:
    """Returns whether it is a column of a missing table, which is named itself."""
    table = name.rpartition(".")[0]
    return kind == "column" and not any((of, table) in facts for of in ("table", "view"))


def _fits(expected: Value | None, present: Value | None) -> bool:
    return present in expected if isinstance(expected, list) else present == expected


def _wrong(key: str, expected: Value | None, present: Value | None) -> str:
    if key == "body":
        return "its body differs"
    if isinstance(expected, list):
        expected = expected[0]
    if isinstance(expected, str) and isinstance(present, str):
        same = next((start for start, pair in enumerate(zip(expected, present, strict=False)) if pair[0] != pair[1]), 0)
        start = max(same - _SHOWN // 4, 0)
        expected, present = (("…" if start else "") + each[start : start + _SHOWN] for each in (expected, present))
    if expected is None:
        return f"{key} is {present}"
    return f"{key} is {'not' if present is None else f'{present}, not'} {expected}"


def _privileges(on: str, expected: dict[str, Value], present: dict[str, Value]) -> Iterator[str]:
    """By role, in lists."""
    for role in sorted(expected.keys() | present.keys()):
        wanted, actual = (set(str(each[role]).split("; ")) if role in each else set() for each in (expected, present))
        for privilege in sorted(actual - wanted):
            yield f"{role} has {privilege} on {on}: more than the schema grants"
        for privilege in sorted(wanted - actual):
            yield f"{role} does not have {privilege} on {on}, which the schema grants"
