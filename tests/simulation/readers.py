"""Who reads on: followers, and consumers of groups. Each notes what it was given, in the order in which it was."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from ledger import AsyncLedger, Entry, Ledger
from ledger.errors import Unavailable
from tests.simulation.life import Life
from tests.simulation.notes import Notes, restores, standing

CLAIM_AFTER = 2.0
MAX_TRIES = 1000
"""Nothing may be parked here: whatever was handed out and not acknowledged must come again."""
LONE, SHARED = "alone", "shared"
"""A group of one consumer, and one of several."""
IDLE = 0.5
FORGETS = 0.02
"""How often a consumer does not acknowledge what it has dealt with."""


def read_on(life: Life, group: str) -> None:
    """A follower and a consumer of each colour, all in one process: with threads, and with tasks in another thread."""
    life.together(partial(_follow, life), partial(_consume, life, group), lambda: asyncio.run(_tasks(life, group)))


class _Followed:
    """Where a follower stands, and each session's entries."""

    def __init__(self, life: Life, colour: str) -> None:
        self._notes = Notes(life.folder / "followed" / f"{life.name}-{colour}")
        self._session = ""
        before = standing(self._notes.lines(), restores(life.folder))
        self.position = max((line["position"] for line in before), default=0)

    def begin(self) -> int:
        self._session = secrets.token_hex(4)
        return self.position

    def got(self, entry: Entry) -> None:
        self._notes.add(position=entry.position, hash=entry.hash.hex(), session=self._session)
        self.position = entry.position


class _Consumed:
    """What a consumer of a group was handed out."""

    def __init__(self, life: Life, group: str, colour: str) -> None:
        self._notes = Notes(life.folder / "consumed" / f"{group}-{life.name}-{colour}")
        self._session = ""

    def begin(self) -> None:
        self._session = secrets.token_hex(4)

    def got(self, entry: Entry, tries: int) -> None:
        self._notes.add(position=entry.position, hash=entry.hash.hex(), tries=tries, session=self._session)


def _follow(life: Life) -> None:
    followed = _Followed(life, "threads")
    with Ledger(life.settings) as ledger:
        while not life.stop.is_set():
            try:
                for entry in ledger.follow(after=followed.begin(), idle=IDLE):
                    followed.got(entry)
            except Unavailable as error:
                life.saw(error)
                life.stop.wait(0.1)


def _consume(life: Life, group: str) -> None:
    consumed = _Consumed(life, group, "threads")
    with Ledger(life.settings) as ledger:
        while not life.stop.is_set():
            try:
                consumed.begin()
                for delivery in ledger.subscribe(
                    group, after=0, claim_after=CLAIM_AFTER, max_tries=MAX_TRIES, idle=IDLE
                ):
                    consumed.got(delivery.entry, delivery.tries)
                    if life.chance.random() > FORGETS:
                        delivery.ack()
            except Unavailable as error:
                life.saw(error)
                life.stop.wait(0.1)


async def _tasks(life: Life, group: str) -> None:
    async with AsyncLedger(life.settings) as ledger:
        tasks = [_follow_async(life, ledger)]
        if group != LONE:
            tasks.append(_consume_async(life, ledger, group))
        await asyncio.gather(*tasks)


async def _follow_async(life: Life, ledger: AsyncLedger) -> None:
    followed = _Followed(life, "tasks")
    while not life.stop.is_set():
        try:
            async for entry in ledger.follow(after=followed.begin(), idle=IDLE):
                followed.got(entry)
        except Unavailable as error:
            life.saw(error)
            await asyncio.sleep(0.1)


async def _consume_async(life: Life, ledger: AsyncLedger, group: str) -> None:
    consumed = _Consumed(life, group, "tasks")
    while not life.stop.is_set():
        try:
            consumed.begin()
            async for delivery in ledger.subscribe(
                group, after=0, claim_after=CLAIM_AFTER, max_tries=MAX_TRIES, idle=IDLE
            ):
                consumed.got(delivery.entry, delivery.tries)
                if life.chance.random() > FORGETS:
                    await delivery.ack()
        except Unavailable as error:
            life.saw(error)
            await asyncio.sleep(0.1)
