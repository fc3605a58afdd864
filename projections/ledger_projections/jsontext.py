"""JSON texts, read so that writing them again loses nothing.

A number that is not an integer keeps its text: `1.10` and `1e400` come out as they went in. A text that cannot be
decoded (another writer's lone surrogates, a thousand levels) is kept whole, because a view must not stop at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from ledger import BodyUnreadable

MAX_DEPTH = 100
"""Levels of objects and arrays that are decoded; writers that follow format.md use fewer."""

_decode = msgspec.json.Decoder(float_hook=lambda digits: Raw(digits.encode())).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def read(text: str | None) -> Any:
    """The value; None for NULL. A number with a fraction or exponent is a Raw, and a text that cannot be decoded."""
    if text is None:
        return None
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return Raw(text.encode())
    if len(text) > 2 * MAX_DEPTH and text.count("{") + text.count("[") > MAX_DEPTH and _is_deep(value):
        return Raw(text.encode())
    return value


def decoded(what: str, text: str, decode: Callable[[str], Any]) -> Any:
    """The value of a view's text. Raises BodyUnreadable if it cannot be decoded, as only another writer could store it.

    what: names the text in the error.
    """
    try:
        return decode(text)
    except (ValueError, RecursionError) as error:
        raise BodyUnreadable(f"{what} cannot be read ({error}); its text can") from None


def write(value: Any) -> str:
    """The JSON text of a value of `read`, or of a Struct that holds such values."""
    return _encode(value).decode()


def same(one: Any, other: Any) -> bool:
    """Whether two values of `read` are equal as JSON. Unlike `==`: true is not 1, and 1.0 is not 1.00."""
    if one.__class__ is not other.__class__:
        return False
    if one.__class__ is dict or one.__class__ is list:
        return _encode_sorted(one) == _encode_sorted(other)
    return bool(one == other)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for each in level for item in _items(each)]
        if not level:
            return False
    return True


def _items(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
