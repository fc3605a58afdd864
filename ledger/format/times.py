"""Times as they are stored and hashed: microseconds since 2000-01-01 UTC, and `YYYY-MM-DDTHH:MM:SS.ffffffZ`. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from ledger.errors import InvalidEvent

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Postgres stores a time as its microseconds since then."""
_MINUTE = 60_000_000
_MICROSECOND = timedelta(microseconds=1)


def timestamp(moment: datetime) -> bytes:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ` of an aware datetime (format.md, "Envelope")."""
    in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[:26].encode() + b"Z"


def microseconds(moment: datetime) -> int:
    """An aware datetime as Postgres stores it."""
    return (moment - POSTGRES_EPOCH) // _MICROSECOND


def timestamp_from(stored: int) -> bytes:
    """`timestamp` of a Postgres timestamptz as it is stored: microseconds since 2000-01-01 UTC.

    Raises OverflowError outside the years 0001-9999.
    """
    minutes, rest = divmod(stored, _MINUTE)
    seconds, fraction = divmod(rest, 1_000_000)
    return b"%b%02d.%06dZ" % (_minute(minutes), seconds, fraction)


@lru_cache(maxsize=4096)
def _minute(minutes: int) -> bytes:
    return (POSTGRES_EPOCH + timedelta(minutes=minutes)).isoformat(timespec="minutes")[:16].encode() + b":"


def utc(moment: datetime, path: str) -> datetime:
    """The same moment in UTC. Raises InvalidEvent for a naive one, and where UTC leaves the years 0001-9999."""
    if not isinstance(moment, datetime):
        raise InvalidEvent(path, f"must be a datetime, not {type(moment).__name__}")
    offset = moment.utcoffset()
    if moment.tzinfo is None or offset is None:
        raise InvalidEvent(path, "a naive datetime: give it a time zone")
    try:
        # Not by astimezone, nor by a difference: a subclass (pendulum's, freezegun's) may give what is no datetime.
        fields = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond)
        return datetime(*fields, tzinfo=UTC) - offset
    except OverflowError:
        raise InvalidEvent(path, "outside the years 0001-9999 in UTC") from None
