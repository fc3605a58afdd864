"""The parts of a deployment as processes of their own, to be killed: `python -m tests.support.parts PART …`.

They write what they were promised to a file line by line, so that it is there after kill -9.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import threading
import time
from uuid import UUID, uuid5

import psycopg

from ledger import Event, Ledger, LedgerError, Receipt, Unavailable
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream.relay import Relay

NAMESPACE = UUID("5b0f6a58-7d5f-4d7c-9a70-2f3f5d1f5a11")


def said(part: str, number: int) -> Event:
    """Event `number` of an appender: the same after a restart, so that saying it again is safe."""
    return Event(
        actor=f"user:{number % 7}",
        action="invoice.updated",
        resource_type="invoice",
        resource_id=f"inv_{number % 11}",
        before={"total": number},
        after={"total": number + 1, "by": part},
        id=uuid5(NAMESPACE, f"{part} {number}"),
    )


def append(part: str, promised: str) -> None:
    """Appends events, each again and again until its receipt has come; notes `number position hash` of each."""
    with Ledger.open() as ledger, open(promised, "a+", buffering=1) as notes:  # noqa: PTH123
        notes.seek(0)
        number = sum(1 for line in notes if line.endswith("\n"))
        while True:
            batch = [said(part, number + offset) for offset in range(1 if number % 3 else 5)]
            try:
                receipts = [ledger.append(batch[0])] if len(batch) == 1 else _all(ledger, batch)
            except Unavailable:
                time.sleep(0.05)
                continue
            for receipt in receipts:
                notes.write(f"{number} {receipt.position} {receipt.hash.hex()}\n")
                number += 1


def _all(ledger: Ledger, batch: list[Event]) -> list[Receipt]:
    ledger.append_many(batch)
    return [ledger.append(event) for event in batch]  # repeats: their first receipts


def relay() -> None:
    Relay(Connector(Settings.load())).run(threading.Event())


def seal() -> None:
    Sealer(Connector(Settings.load())).run(threading.Event())


COUNTERS = 5


def record() -> None:
    """Counts in rows of `counters`, and records each number in the transaction that counted; some roll back."""
    url = os.environ["LEDGER_DATABASE_URL"]
    with Ledger.open() as ledger:
        while True:
            try:
                with psycopg.connect(url) as connection:
                    while True:
                        _count(ledger, connection, random.randrange(COUNTERS))
            except (psycopg.Error, psycopg.Rollback, Unavailable):
                time.sleep(0.05)


def _count(ledger: Ledger, connection: psycopg.Connection, counter: int) -> None:
    with connection.transaction():
        counted = connection.execute(
            "update counters set number = number + 1 where counter = %s returning number", (counter,)
        ).fetchone()
        event = Event("user:1", "counter.counted", "counter", str(counter), after=counted)
        ledger.record(event, connection=connection)
        if random.random() < 0.2:
            raise psycopg.Rollback


def project() -> None:
    projector = Projector(Connector(Settings.load()), find_projections())
    while True:
        try:
            projector.install()
            break
        except Unavailable:
            time.sleep(0.1)
    projector.run(threading.Event())
    raise SystemExit(f"projections failed: {projector.failed}")


def subscribe(dealt_with: str) -> None:
    """A consumer of group `mailer`: notes each position, then acknowledges it."""
    with Ledger.open() as ledger, open(dealt_with, "a", buffering=1) as notes:  # noqa: PTH123
        for delivery in ledger.subscribe("mailer", after=0, claim_after=2.0):
            notes.write(f"{delivery.entry.position}\n")
            time.sleep(0.01)
            delivery.ack()


def read(shown: str) -> None:
    """Notes `position hash` of what tail() and read() return, as soon as they do."""
    with Ledger.open() as ledger, open(shown, "a", buffering=1) as notes:  # noqa: PTH123
        after = 0
        while True:
            try:
                tail = ledger.tail()
                notes.write(f"{tail.position} {tail.hash.hex()}\n")
                for entry in ledger.read(after):
                    notes.write(f"{entry.position} {entry.hash.hex()}\n")
                    after = entry.position
            except Unavailable:
                time.sleep(0.005)


def follow(shown: str) -> None:
    """The same of a follower that reads Postgres."""
    settings = dataclasses.replace(Settings.load(), redis_url=None)
    with Ledger(settings) as ledger, open(shown, "a", buffering=1) as notes:  # noqa: PTH123
        after = 0
        while True:
            try:
                for entry in ledger.follow(after):
                    notes.write(f"{entry.position} {entry.hash.hex()}\n")
                    after = entry.position
            except Unavailable:
                time.sleep(0.005)


def main() -> None:
    part, *args = sys.argv[1:]
    try:
        match part:
            case "append":
                append(*args)
            case "relay":
                relay()
            case "seal":
                seal()
            case "record":
                record()
            case "project":
                project()
            case "subscribe":
                subscribe(*args)
            case "read":
                read(*args)
            case "follow":
                follow(*args)
    except LedgerError as error:
        print(f"{part}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(9)


if __name__ == "__main__":
    main()
