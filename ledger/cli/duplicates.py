"""Refuses JSON objects with duplicate keys, of which most parsers silently drop one. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class DuplicateKey(ValueError):
    """A duplicate key; the message begins with its path."""


def refuse_duplicates(text: bytes, value: Any) -> None:
    """Raises DuplicateKey for the first duplicate key, in the order of the text.

    text: JSON. value: the text as msgspec decoded it; a Struct may omit defaults.
    """
    # The quick proof: a colon is in a string or follows a key. Without escapes, strings are encoded again as they were,
    # so each pair that was dropped leaves a colon less.
    if b"\\" not in text and text.count(b":") == _encode(value).count(b":"):
        return
    for path in _repeated(_objects(text.decode()), ""):
        raise DuplicateKey(f"{path}: the key is given twice")


class _Object(list[tuple[str, Any]]):
    """An object with all pairs of its text."""


# Numbers are not converted: they may be longer than Python accepts.
_objects = json.JSONDecoder(object_pairs_hook=_Object, parse_int=len, parse_float=len, strict=False).decode


def _repeated(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Object):
        seen = set()
        for key, item in value:
            key_path = f"{path}.{key}" if _PLAIN.fullmatch(key) else f"{path}[{json.dumps(key)}]"
            if key in seen:
                yield key_path.removeprefix(".")
            seen.add(key)
            yield from _repeated(item, key_path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _repeated(item, f"{path}[{index}]")
