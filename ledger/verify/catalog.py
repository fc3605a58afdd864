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
from ledger.migrate.journal import schema_folder
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


def differences(wanted: Facts, found: Facts, *, newer: bool = False) -> Iterator[str]:
    """A text for each object that is not as wanted, and for each privilege that is not.

    newer: the database has migrations beyond those of `wanted`, which may have added tables, columns and indexes.
    """
    for kind, name in sorted(wanted.keys() | found.keys()):
        should, there = wanted.get((kind, name)), found.get((kind, name))
        if kind == "privileges":
            of, _, target = name.partition(" ")
            gone = (of, target) in wanted and (of, target) not in found
            yield from _privileges(name, {} if gone else should or {}, there or {})
        elif there is None:
            if not _is_part_of_another(kind, name, found):
                yield f"{kind} {name} is missing"
        elif should is None:
            # A role that is let in is named with the privilege that lets it.
            if not (kind == "role" or (newer and kind in _PASSIVE) or _is_part_of_another(kind, name, wanted)):
                yield f"{kind} {name} is not of the schema"
        elif wrong := [
            key for key in sorted(should.keys() | there.keys()) if not _fits(should.get(key), there.get(key))
        ]:
            if all(there.get(key) == "no" for key in wrong):
                yield f"{kind} {name} is not {' and not '.join(wrong)}"
            else:
                told = "; ".join(_wrong(key, should.get(key), there.get(key)) for key in wrong)
                yield f"{kind} {name} is not the one of the schema: {told}"


def _is_part_of_another(kind: str, name: str, facts: Facts) -> bool:
    """Is it a column of a table that is not there either? The table is named, which is enough."""
    table = name.rpartition(".")[0]
    return kind == "column" and not any((of, table) in facts for of in ("table", "view"))


def _fits(should: Value | None, there: Value | None) -> bool:
    return there in should if isinstance(should, list) else there == should


def _wrong(key: str, should: Value | None, there: Value | None) -> str:
    if key == "body":
        return "its body differs"
    if isinstance(should, list):
        should = should[0]
    if isinstance(should, str) and isinstance(there, str):
        same = next((at for at, pair in enumerate(zip(should, there, strict=False)) if pair[0] != pair[1]), 0)
        at = max(same - _SHOWN // 4, 0)
        should, there = (("…" if at else "") + each[at : at + _SHOWN] for each in (should, there))
    if should is None:
        return f"{key} is {there}"
    return f"{key} is {'not' if there is None else f'{there}, not'} {should}"


def _privileges(on: str, should: dict[str, Value], there: dict[str, Value]) -> Iterator[str]:
    """By role, in lists."""
    for role in sorted(should.keys() | there.keys()):
        wanted, found = (set(str(each[role]).split("; ")) if role in each else set() for each in (should, there))
        for privilege in sorted(found - wanted):
            yield f"{role} has {privilege} on {on}: more than the schema grants"
        for privilege in sorted(wanted - found):
            yield f"{role} does not have {privilege} on {on}, which the schema grants"
