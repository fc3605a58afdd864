"""A column's value as it is recorded: typed, and what the database stores rather than what the application holds. Pure.

| value | recorded as |
|---|---|
| None, bool, int, float, str; date, time, timedelta, UUID, bytes, Decimal, dicts and lists | what format.md says |
| a datetime with a time zone | in UTC; without one: ISO 8601 without an offset |
| NaN and infinities | the strings that Postgres prints |
| integers of more than 64 bits | their digits, as Decimal |
| Enum of SQLAlchemy | the label that is stored |
| TypeDecorator | what its `process_bind_param` returns: of an encrypting type the ciphertext |
| addresses and networks | their text |
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from math import isfinite
from typing import Any

from sqlalchemy import ARRAY, JSON, Dialect, Enum, Interval, Numeric
from sqlalchemy.types import TypeDecorator, TypeEngine

from ledger.format.json_text import encode

_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


def typed(value: Any, kind: TypeEngine[Any], dialect: Dialect) -> Any:
    """The value of a column of this type, as it is recorded."""
    if value is None:
        return None
    if isinstance(kind, TypeDecorator) and not isinstance(kind, Interval):
        if type(kind).bind_processor is not TypeDecorator.bind_processor:
            return _bound(value, kind, dialect)
        if type(kind).process_bind_param is not TypeDecorator.process_bind_param:
            value = kind.process_bind_param(value, dialect)
        return typed(value, kind.impl_instance, dialect)
    if isinstance(kind, ARRAY) and isinstance(value, list | tuple):
        return [typed(item, kind if isinstance(item, list | tuple) else kind.item_type, dialect) for item in value]
    if isinstance(kind, Enum):
        return _bound(value, kind, dialect)
    if isinstance(kind, JSON) and value in (JSON.NULL, None):
        return None
    if isinstance(kind, Numeric) and kind.asdecimal:
        value = _decimal(value, kind.scale)
    return plain(value)


def same(old: Any, new: Any, kind: TypeEngine[Any]) -> bool:
    """Whether the two are one value to the database."""
    if old is None or new is None:
        return old is new
    if isinstance(old, dict | list | tuple) and isinstance(new, dict | list | tuple):
        try:
            return encode(plain(old)) == encode(plain(new))  # True is not 1
        except (TypeError, ValueError):
            return bool(kind.compare_values(old, new))
    return bool(kind.compare_values(old, new))


def plain(value: Any) -> Any:
    """The value in what format.md knows; other types stay, to be refused by name."""
    match value:
        case bool() | str() | None:
            return value
        case int() if not -(2**63) <= value < 2**64:
            return Decimal(value)
        case float() if not isfinite(value):
            return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
        case Decimal() if not value.is_finite():
            return str(value)
        case datetime():
            return value.isoformat() if value.tzinfo is None else value.astimezone(UTC)
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _ if isinstance(value, _ADDRESSES):
            return str(value)
    return value


def key_text(values: tuple[Any, ...]) -> str:
    """The resource_id of a key, as triggers make it: its values joined by commas, each `,` and `\\` behind a `\\`."""
    texts = [_key_part(value) for value in values]
    return texts[0] if len(texts) == 1 else ",".join(each.replace("\\", "\\\\").replace(",", "\\,") for each in texts)


def _key_part(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"\\x{bytes(value).hex()}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):  # that stands for a card number
        return encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _bound(value: Any, kind: Any, dialect: Dialect) -> Any:
    """As the driver is given it."""
    processor = kind.bind_processor(dialect)
    return plain(value if processor is None else processor(value))


def _decimal(value: Any, scale: int | None) -> Any:
    """As Postgres stores it: a numeric with that many digits after the point, halves rounded away from zero."""
    try:
        number = value if isinstance(value, Decimal) else Decimal(str(value))
        if scale is None or not number.is_finite():
            return number
        return number.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_UP)
    except InvalidOperation:
        return value
