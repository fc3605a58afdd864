"""Who appends in transactions of its own: an order and the entry about it are recorded both, or neither."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec
import psycopg
from psycopg import errors

from ledger import Receipt
from ledger.errors import Unavailable
from tests.simulation.appenders import COLOURS
from tests.simulation.life import SETTLE, Life
from tests.simulation.voices import Voice
from tests.support.api import Api, Connected

ORDERS = "create table if not exists orders (part text, number int, primary key (part, number))"
ORDER = "order"
"""resource_type of the entries; the resource_id is `<part>/<number>`."""


class _Undone(Exception):
    """The application thought better of it."""


def transact(life: Life, colour: str, count: int) -> None:
    """Voices with a connection of their own each."""
    api = COLOURS[colour](life.settings)
    voices = [Voice(life, api, f"{life.name}-{number}-order") for number in range(count)]
    life.together(*(partial(voice.speak, _Orders(voice.api)) for voice in voices))
    api.close()


class _Orders:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._connection: Connected | None = None

    def __call__(self, voice: Voice) -> None:
        """One order, until it is known what became of it."""
        undo = voice.chance.random() < 0.2
        stopped = None
        while True:
            try:
                return self._order(voice, undo)
            except (Unavailable, psycopg.Error) as error:
                _check_sane(error)
                voice.life.saw(error)
                self._drop()
                if voice.life.stop.is_set():
                    stopped = stopped or time.monotonic()
                    if time.monotonic() - stopped > SETTLE:
                        raise
                time.sleep(voice.chance.uniform(0.02, 0.3))

    def _order(self, voice: Voice, undo: bool) -> None:
        connection = self._connection = self._connection or voice.api.connect(
            autocommit=True, connect_timeout=3, prepare_threshold=None
        )
        this = f"part = '{voice.part}' and number = {voice.number}"
        if connection.execute(f"select 1 from orders where {this}"):
            return self._known(voice)
        # Without an id of its own the entry goes the way of a guess, with one the way of a look-up.
        event = voice.event(voice.number, resource_type=ORDER, resource_id=f"{voice.part}/{voice.number}")
        if voice.number % 2:
            event = msgspec.structs.replace(event, id=None)
        receipt: Receipt | None = None
        try:
            with connection.transaction():
                connection.execute("set local lock_timeout = 3000")
                connection.execute(f"insert into orders values ('{voice.part}', {voice.number})")
                receipt = voice.api.append(event, connection=connection.raw)
                if undo:
                    raise _Undone
        except _Undone:
            return self._undone(voice)
        return voice.received(receipt)

    def _known(self, voice: Voice) -> None:
        """The commit had come through, and nobody was told."""
        voice.notes.add(n=voice.number, count=1, ordered=True)
        voice.number += 1

    def _undone(self, voice: Voice) -> None:
        voice.notes.add(n=voice.number, count=1, undone=True)
        voice.number += 1

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _check_sane(error: Any) -> None:
    """In the caller's transaction Postgres' own errors come out: of those that a sick server or network makes."""
    if isinstance(error, errors.UniqueViolation) and error.diag.table_name == "orders":
        return  # an earlier try has come through after all
    if not isinstance(error, Unavailable | psycopg.OperationalError | psycopg.InterfaceError):
        raise error
