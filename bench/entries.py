"""The same entries for everybody: events of about 400 bytes of body, and the CloudTrail records of ../shared/data."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from ledger import Event
from ledger.cli.commands.cloudtrail import event_of

CLOUDTRAIL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "cloudtrail.jsonl.gz"
ACTORS = 500
PER_RESOURCE = 10
"""Events about one resource: its history is as long in a long ledger as in a short one."""
_WINDOW = 200
"""Resources that are being changed at a time."""
_SCATTER = 2_654_435_761
"""Knuth's multiplicative hash: neighbours in time are none in an index, as with the random ids of real life."""
_STATUS = ("draft", "sent", "reminded", "paid", "archived")
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def resource_id(number: int) -> str:
    """The resource that the event of this number is about."""
    resource = number // PER_RESOURCE + number * 7919 % _WINDOW
    return f"inv_{resource * _SCATTER % 2**32:08x}{resource:x}"


def event(number: int) -> Event:
    """One event: an invoice's fields before and after a change, and where the request came from."""
    total = number * 7 % 90_000 / 100
    stage = number % len(_STATUS)
    customer = {"id": f"cus_{number % 5000:05d}", "city": "Springfield", "vat": "EU372001951"}
    metadata = {
        "ip": f"192.0.2.{number % 254}",
        "user_agent": _AGENT,
        "request": f"req_{number * _SCATTER % 2**32:08x}",
        "session": f"ses_{number // 20:08x}",
    }
    return Event(
        actor=f"user:{number * 31 % ACTORS}",
        action=f"invoice.{_STATUS[stage]}",
        resource_type="invoice",
        resource_id=resource_id(number),
        before={"status": _STATUS[stage - 1], "total": total, "currency": "EUR"},
        after={"status": _STATUS[stage], "total": total, "currency": "EUR", "customer": customer},
        metadata=metadata,
    )


def events(count: int, first: int = 0) -> Iterator[Event]:
    return map(event, range(first, first + count))


def body_bytes(some: Event) -> int:
    """Bytes of before, after and metadata as JSON."""
    return sum(len(msgspec.json.encode(part)) for part in (some.before, some.after, some.metadata) if part is not None)


def has_cloudtrail() -> bool:
    return CLOUDTRAIL.exists()


def cloudtrail(count: int, first: int = 0) -> Iterator[Event]:
    """The records in turn, again and again; without their ids, which would make the second time a repetition."""
    records = _cloudtrail()
    return (records[number % len(records)] for number in range(first, first + count))


@cache
def _cloudtrail() -> list[Event]:
    with gzip.open(CLOUDTRAIL, "rb") as lines:
        return [msgspec.structs.replace(event_of(msgspec.json.decode(line)), id=None) for line in lines]
