"""The differences of two JSON values, field by field. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET

from ledger_projections.jsontext import same, write

_PLAIN = re.compile(r'[^."\\\[\]]+').fullmatch


class Change(msgspec.Struct, frozen=True):
    """One field before and after; UNSET on the side that lacks it.

    field: the path, `customer.city`. A key that holds a dot, a quote, a backslash or a bracket, or is empty, is written
    as `customer["a.b"]`. The path of the whole value is empty.
    """

    field: str
    before: Any = UNSET
    after: Any = UNSET


def changes(before: Any, after: Any) -> list[Change]:
    """The fields that differ, in order of their keys. Objects are compared by field, arrays as a whole.

    None at the top means no value: every field of the other side was added or removed.
    """
    if before is None:
        before = {} if isinstance(after, dict) else UNSET
    if after is None:
        after = {} if isinstance(before, dict) else UNSET
    differences: list[Change] = []
    if isinstance(before, dict) and isinstance(after, dict):
        _compare("", before, after, differences)
    elif not same(before, after):
        differences.append(Change("", before, after))
    return differences


def _compare(path: str, before: dict[str, Any], after: dict[str, Any], differences: list[Change]) -> None:
    for key in sorted(before | after):
        was, now = before.get(key, UNSET), after.get(key, UNSET)
        if was.__class__ is dict and now.__class__ is dict:
            _compare(_join(path, key), was, now, differences)
        elif not same(was, now):
            differences.append(Change(_join(path, key), was, now))


def _join(path: str, key: str) -> str:
    if not _PLAIN(key):
        return f"{path}[{write(key)}]"
    return f"{path}.{key}" if path else key
