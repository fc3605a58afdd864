"""JSON in which an object has a key twice: every parser but a strict one drops a value without a word. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

_KEY = b'":'
_encode = msgspec.json.Encoder().encode
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class DuplicateKey(ValueError):
    """A key that one object has twice; the message begins with its path."""


def refuse_duplicates(text: bytes, value: Any) -> None:
    """Raises DuplicateKey for the first key, in the order of the text, that an object has for the second time.

    text: JSON. value: what msgspec decoded it to, from which a Struct may omit what has its default value.
    """
    # Most texts are proven free of it without a second parser: a key ends with a quotation mark and a colon. No string
    # holds those two, but one that begins with a colon, unless something is escaped; and what was dropped is missing
    # where the value is written again.
    if b"\\" not in text and not _has_blank_after_quote(text) and text.count(_KEY) == _encode(value).count(_KEY):
        return
    for path in _repeated(_objects(text.decode()), ""):
        raise DuplicateKey(f"{path}: the key is given twice")


def _has_blank_after_quote(text: bytes) -> bool:
    return b'" ' in text or b'"\n' in text or b'"\r' in text or b'"\t' in text


class _Object(list[tuple[str, Any]]):
    """An object with all the pairs that its text has."""


# Numbers are of no interest here, and may be longer than Python takes.
_objects = json.JSONDecoder(object_pairs_hook=_Object, parse_int=len, parse_float=len, strict=False).decode


def _repeated(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Object):
        seen = set()
        for key, item in value:
            at = f"{path}.{key}" if _PLAIN.fullmatch(key) else f"{path}[{json.dumps(key)}]"
            if key in seen:
                yield at.removeprefix(".")
            seen.add(key)
            yield from _repeated(item, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _repeated(item, f"{path}[{index}]")
