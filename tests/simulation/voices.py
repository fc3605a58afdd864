"""The voices that append, each event again and again until its receipt has come. A voice is one of these kinds:

single, keyed (idempotency key), batch (append_many), expecting (a tail position), counting (nothing about the resource
since). transactions.py has the callers' own transactions. All are said once and live in both colours
(tests/support/api.py).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid5

import msgspec

from ledger import Event, Receipt
from ledger.errors import ConditionFailed
from ledger.events import Tail, Unchanged
from ledger.format.canonical import entry_id_for
from tests.simulation.life import Life
from tests.simulation.notes import Notes
from tests.support.api import Api
from tests.support.parts import NAMESPACE, said

COUNTER = ("counter", "c")
"""The resource that the counting voices take turns to change."""
PAUSE = 0.03
"""Seconds between two events of a voice, on average."""


class Voice:
    """One who says events 0, 1, 2 …, and goes on after a restart at the first without a receipt in the notes."""

    def __init__(self, life: Life, api: Api, part: str) -> None:
        self.life = life
        self.api = api
        self.part = part
        self.chance = random.Random(f"{life.role.draws} {part}")
        self.notes = Notes(life.folder / "said" / part)
        self._shown = Notes(life.folder / "shown" / part)
        self.number = max((line["n"] + line["count"] for line in self.notes.lines() if "n" in line), default=0)
        self.began = 0.0

    def speak(self, say: Callable[[Voice], None]) -> None:
        while not self.life.stop.is_set():
            self.began = time.monotonic()
            say(self)
            self.life.stop.wait(self.chance.expovariate(1 / PAUSE))

    def event(self, number: int, **fields: Any) -> Event:
        return msgspec.structs.replace(said(self.part, number), **fields)

    def shown(self, newest: Tail) -> None:
        """Notes the newest entry that the ledger returned."""
        if newest.position:
            self._shown.add(position=newest.position, hash=newest.hash.hex())

    def received(self, receipt: Receipt, count: int = 1, **fields: Any) -> None:
        """Notes what was promised of events `number` … `number + count - 1`: the last one's receipt."""
        self.notes.add(
            n=self.number,
            count=count,
            position=receipt.position,
            hash=receipt.hash.hex(),
            recorded_at=receipt.recorded_at.timestamp(),
            now=time.clock_gettime(time.CLOCK_REALTIME),
            took=time.monotonic() - self.began,
            **fields,
        )
        self.number += count


def id_of(part: str, number: int) -> UUID:
    """The id of a voice's event, unless it is keyed."""
    return uuid5(NAMESPACE, f"{part} {number}")


def key_of(part: str, number: int) -> str:
    return f"{part} {number}"


def keyed_id_of(part: str, number: int) -> UUID:
    return entry_id_for(key_of(part, number))


def single(voice: Voice) -> None:
    event = voice.event(voice.number)
    receipt = voice.life.settle(lambda: voice.api.append(event))
    if voice.chance.random() < 0.1:
        again = voice.life.settle(lambda: voice.api.append(event))
        assert again == receipt, f"said twice, promised two things: {receipt} {again}"
    voice.received(receipt)


def keyed(voice: Voice) -> None:
    event = voice.event(voice.number, id=None, idempotency_key=key_of(voice.part, voice.number))
    voice.received(voice.life.settle(lambda: voice.api.append(event)))


def batch(voice: Voice) -> None:
    count = voice.chance.randrange(1, 40)

    def events() -> Iterator[Event]:
        return (voice.event(voice.number + offset) for offset in range(count))

    appended = voice.life.settle(lambda: voice.api.append_many(events()))
    assert appended.last is not None
    voice.received(appended.last, count)
    voice.life.stop.wait(10 * PAUSE)


def expecting(voice: Voice) -> None:
    """Others are faster most of the time: a few tries, then without a condition."""
    event = voice.event(voice.number)
    for _ in range(3):
        tail = voice.life.settle(voice.api.tail)
        voice.shown(tail)
        expect = tail.position
        with suppress(ConditionFailed):
            receipt = voice.life.settle(lambda expect=expect: voice.api.append(event, expect=expect))  # type: ignore[misc]
            voice.received(receipt, expected=expect)
            return
    voice.received(voice.life.settle(lambda: voice.api.append(event)))


def counting(voice: Voice) -> None:
    """Compare and set: recorded only if nothing about the counter came after what this voice has seen of it."""
    event = voice.event(voice.number, resource_type=COUNTER[0], resource_id=COUNTER[1])
    while not voice.life.stop.is_set():
        seen = voice.life.settle(lambda: _newest_count(voice))
        with suppress(ConditionFailed):
            unchanged = Unchanged(*COUNTER, since=seen)
            receipt = voice.life.settle(lambda: voice.api.append(event, expect=unchanged))  # noqa: B023
            voice.received(receipt, since=seen)
            return


def _newest_count(voice: Voice) -> int:
    api = voice.api
    known = getattr(api, "newest_count", 0), getattr(api, "read_to", 0)
    newest, read_to = known
    for entry in api.read(after=read_to):
        read_to = entry.position
        voice.shown(entry.tail)
        if (entry.resource_type, entry.resource_id) == COUNTER:
            newest = entry.position
    api.newest_count, api.read_to = newest, read_to  # type: ignore[attr-defined]
    return newest


KINDS: dict[str, Callable[[Voice], None]] = {
    each.__name__: each for each in (single, keyed, batch, expecting, counting)
}
