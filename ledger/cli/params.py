"""Parameter types: JSON, resources, times, positions. Their errors quote the value, on one line."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import click
import msgspec

from ledger.cli.duplicates import DuplicateKey, refuse_duplicates

if TYPE_CHECKING:
    Kind: TypeAlias = click.ParamType[Any]
else:
    Kind = click.ParamType  # generic only since click 8.2


class Whole(Kind):
    """A whole number within limits, such as a position. what: its name in errors."""

    name = "integer"

    def __init__(self, what: str, least: int, most: int) -> None:
        self.what, self.least, self.most = what, least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        number = int(text) if re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) else None
        if number is None or not self.least <= number <= self.most:
            most = f" to {self.most:,}" if self.most < 2**63 - 1 else ""
            self.fail(f"{text[:40]!r} is not a {self.what}: a whole number from {self.least}{most}", param, ctx)
        return number


POSITION = Whole("position", 1, 2**63 - 1)
AFTER = Whole("position", 0, 2**63 - 1)
"""A position, or 0 for the beginning."""
COUNT = Whole("count", 1, 10**9)


class Json(Kind):
    """A JSON text, decoded."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return exact_json(value.encode())
        except DuplicateKey as error:
            self.fail(str(error), param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"not JSON: {error}", param, ctx)


class Resource(Kind):
    """TYPE:ID, split at the first colon."""

    name = "type:id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        resource_type, _, resource_id = value.partition(":")
        if not resource_type or not resource_id:
            self.fail(f"{value!r} is not TYPE:ID, such as invoice:inv_7", param, ctx)
        return resource_type, resource_id


class Span(Kind):
    """A time span, in seconds: 60s, 5m, 1h, or a plain number of seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|h)?", value)
        seconds = float(match[1]) * {"m": 60, "h": 3600}.get(match[2] or "s", 1) if match else 0.0
        if not seconds:
            self.fail(f"{value!r} is not a time span such as 60s, 5m or 1h", param, ctx)
        return seconds


class ResourceOrPosition(Kind):
    """TYPE:ID, or the position of one entry."""

    name = "type:id|position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str] | int:
        if isinstance(value, int):
            return value
        if value.isdecimal():
            position: int = POSITION(value, param, ctx)
            return position
        return Resource().convert(value, param, ctx)


class PositionOrId(Kind):
    """The position of an entry, or its id."""

    name = "position|id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | UUID:
        if isinstance(value, int | UUID):
            return value
        if value.isdecimal():
            position: int = POSITION(value, param, ctx)
            return position
        try:
            return UUID(value)
        except ValueError:
            self.fail(f"{value!r} is neither a position (a whole number from 1) nor the id of an entry", param, ctx)


class Address(Kind):
    """[HOST:]PORT to listen on, as host and port. HOST defaults to 127.0.0.1; an IPv6 address is in brackets."""

    name = "[host:]port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):)?([0-9]{1,5})", value)
        host, port = ((match[1] or "127.0.0.1").strip("[]"), int(match[2])) if match else ("", 65536)
        try:
            host.encode("idna")  # as in the DNS query
        except UnicodeError:
            port = 65536
        if port > 65535:
            self.fail(f"{value!r} is neither a port nor HOST:PORT", param, ctx)
        return host, port


class Moment(Kind):
    """A time in ISO 8601. zone_needed: whether a time zone is required; if not, UTC is the default."""

    name = "time"

    def __init__(self, *, zone_needed: bool) -> None:
        self.zone_needed = zone_needed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None and not self.zone_needed:
                moment = moment.replace(tzinfo=UTC)
            return aware(moment)
        except ValueError as error:
            text = str(error)
            if text.startswith("Invalid isoformat"):
                text = f"{value!r} is not a time: write it as 2026-11-29T12:00:00Z, or a date as 2026-11-29"
            self.fail(text, param, ctx)


def moment_of(text: str) -> datetime:
    """ISO 8601 with a time zone. Digits beyond microseconds are cut off (format.md). Raises ValueError."""
    return aware(datetime.fromisoformat(text))


def aware(moment: datetime) -> datetime:
    """The time in UTC. Raises ValueError without a time zone, and outside the years 0001-9999 in UTC."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: end it with Z or an offset such as +02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the years 0001-9999 in UTC") from None


def exact_float(digits: str) -> float:
    """The float of exactly this number, for msgspec's float_hook. Raises ValueError if there is none.

    Without this, a number with more digits than a float has would be recorded as another number.
    """
    number = float(digits)
    if repr(number) == digits:  # the common case
        return number
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    try:
        kept = Decimal(repr(number)) == Decimal(digits)
    except InvalidOperation:  # the exponent is out of Decimal's range
        kept = False
    if not kept:
        raise ValueError(f"the number {digits[:40]} has more digits than can be kept: write it as a string")
    return number


def exact_json(text: bytes) -> Any:
    """The decoded JSON. Raises ValueError (also for numbers that would change, and duplicate keys), RecursionError."""
    value = _decode(text)
    refuse_duplicates(text, value)
    return value


_decode = msgspec.json.Decoder(float_hook=exact_float).decode
