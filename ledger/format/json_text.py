"""What a caller's value may be, and the JSON text that stands for it in a body (format.md, "Body"). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from ledger.errors import InvalidEvent
from ledger.format.rules import MAX_DEPTH

encode = msgspec.json.Encoder(order="sorted").encode
"""A value as JSON, unchecked: the text that both cores write."""
_SIMPLE = frozenset({str, int, bool, type(None)})
_STRINGS = frozenset({str})
_NUL = b"\\u0000"


class CheckedText(NamedTuple):
    """A value of a body as a JSON text that stands to the letter, because it was checked before: by `ledger.record`.

    text: UTF-8, without blanks or line breaks between its parts.
    """

    text: bytes


def json_text(value: Any, path: str) -> bytes | None:
    """Compact UTF-8 JSON with sorted keys; None for None (SQL's NULL, hashed as `null`).

    Raises InvalidEvent with the JSON path for what the format does not allow: NaN, Infinity, U+0000, lone surrogates,
    keys that are not strings, two keys of one text, more than 64 levels, naive datetimes, times whose UTC offset JSON
    cannot say, and whatever msgspec cannot encode.
    """
    if value is None:
        return None
    if type(value) is CheckedText:
        return value.text
    try:
        text = encode(value)
    except RecursionError:
        raise InvalidEvent(path, f"deeper than {MAX_DEPTH} levels (or contains itself)") from None
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        for fault_path, problem in _faults(value, path, 1):
            raise InvalidEvent(fault_path, problem) from None
        raise InvalidEvent(path, f"cannot be written as JSON: {error}") from None
    if (b"\\" in text and _NUL in text) or not _is_plain(value):  # one byte is found far faster than six
        for fault_path, problem in _faults(value, path, 1):
            raise InvalidEvent(fault_path, problem)
    return text


def _is_plain(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Returns whether a value is made of dicts with string keys, lists and plain values, at most `levels` deep."""
    kind = type(value)
    if kind is dict:
        if not _STRINGS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list:
        return kind in _SIMPLE or (kind is float and isfinite(value))
    if levels == 0:
        return False
    for item in value:
        kind = type(item)
        if kind not in _SIMPLE and not (isfinite(item) if kind is float else _is_plain(item, levels - 1)):
            return False
    return True


def _bad_characters(text: str) -> str | None:
    if "\0" in text:
        return "contains U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate"
    return None


_ZERO, _MINUTE = timedelta(), timedelta(minutes=1)
LEAVES = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)
"""What msgspec writes as one JSON value, besides JSON's own types."""


def _is_unwritable(offset: timedelta | None) -> bool:
    """Returns whether a UTC offset is unknown or no whole number of minutes: msgspec omits or rounds such an offset."""
    return offset is None or bool(offset % timedelta(minutes=1))


def _faults(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Walks a value for what the format does not allow: (JSON path, problem), first fault first."""
    match value:
        case None | bool() | int():
            pass
        case str():
            if problem := _bad_characters(value):
                yield path, problem
        case float() if not isfinite(value):
            yield path, f"{value} is not JSON"
        case Decimal() if not value.is_finite():
            yield path, f"{value} is not JSON"
        case datetime() if value.tzinfo is None or value.utcoffset() is None:
            yield path, "a naive datetime: give it a time zone"
        case datetime() if _is_unwritable(value.utcoffset()):
            yield path, f"its UTC offset, {value.utcoffset()}, has seconds, which are not written: give it in UTC"
        case time() if value.tzinfo is not None and (value.utcoffset() is None or _is_unwritable(value.utcoffset())):
            yield path, "a time of day whose UTC offset is no whole number of minutes, or depends on the date"
        case float() | bytes() | bytearray() | memoryview() | date() | time() | timedelta() | UUID() | Decimal():
            pass
        case msgspec.Raw():
            yield path, "ready-made JSON (msgspec.Raw) is not checked: give the value itself"
        case dict() | list() | tuple() if depth > MAX_DEPTH:
            yield path, f"deeper than {MAX_DEPTH} levels"
        case dict():
            texts: set[str] = set()
            for key, item in dict.items(value):  # what it holds, whatever a subclass says
                if not isinstance(key, str):
                    yield path, f"the key {key!r} is not a string"
                elif problem := _bad_characters(key):
                    yield path, f"a key {problem}"
                elif (text := str.__str__(key)) in texts:
                    yield path, f"two keys are {text!r}"
                else:
                    texts.add(text)
                    yield from _faults(item, f"{path}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _faults(item, f"{path}[{index}]", depth + 1)
        case _:
            try:
                plain = msgspec.to_builtins(value, builtin_types=LEAVES)
            except (TypeError, ValueError, RecursionError) as error:
                yield path, f"cannot be written as JSON: {error}"
            else:
                yield from _faults(plain, path, depth)
