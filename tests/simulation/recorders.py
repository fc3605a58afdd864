"""Who records in the outbox: in transactions of its own, and beside rows of its own that it has locked.

recorded: events with ids, each until it is recorded; now and then one that contradicts it, or its receipt is asked for.
counted: counts in rows, and records each number in the transaction that counted. So a row's entries are its numbers
from 1 on, in this order, whatever was repeated, given up or restored: the database itself says how many there must be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from uuid import UUID, uuid4

import msgspec
import psycopg
from psycopg import errors

from ledger import Event
from ledger.errors import Unavailable
from tests.simulation.appenders import COLOURS
from tests.simulation.life import Life
from tests.simulation.voices import Voice
from tests.support.api import Connected

ROWS = 4
COUNTED = f"""
create table if not exists counts (row int primary key, number int not null);
create table if not exists counted (row int, number int, primary key (row, number));
insert into counts select row, 0 from generate_series(1, {ROWS}) as row on conflict do nothing
"""
"""`counted` is there so that a connection that is made twice (tests/support/proxy.py) counts once."""
COUNT = "count"
"""resource_type of the entries; the resource_id is `<row>/<number>`."""
CONTRADICTED = "simulation.contradicted"
"""Action of what is recorded under a known id, and must be set aside."""


class _Undone(Exception):
    """The application thought better of it."""


def record(life: Life, colour: str, kinds: list[str]) -> None:
    """Voices that share one Ledger, or one AsyncLedger."""
    api = COLOURS[colour](life.settings)
    voices = [(Voice(life, api, f"{life.name}-{number}-{kind}"), KINDS[kind]) for number, kind in enumerate(kinds)]
    life.together(*(partial(voice.speak, make()) for voice, make in voices))
    api.close()


def recorded(voice: Voice) -> None:
    count = voice.chance.choice((1, 1, 1, 5))
    events = [voice.event(voice.number + offset) for offset in range(count)]
    if count > 1:
        ids = voice.life.settle(lambda: voice.api.record_many(events))
    else:
        ids = [voice.life.settle(lambda: voice.api.record(events[0]))]
    assert ids == [event.id for event in events]
    contradicts = voice.chance.random() < 0.05
    if contradicts:
        contradiction = msgspec.structs.replace(events[-1], action=CONTRADICTED)
        voice.life.settle(lambda: voice.api.record(contradiction))
    _note(voice, ids[-1], count, recorded=True, contradicted=contradicts)


class Counting:
    def __init__(self) -> None:
        self._connection: Connected | None = None

    def __call__(self, voice: Voice) -> None:
        """Counts once, or a few times at once; if that fails, nobody needs to know what became of it."""
        try:
            row, number, id_ = self._count(voice)
        except _Undone:
            return
        except (Unavailable, psycopg.Error) as error:
            _check_sane(error)
            voice.life.saw(error)
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            time.sleep(voice.chance.uniform(0.02, 0.3))
            return
        _note(voice, id_, counted=f"{row}/{number}")

    def _count(self, voice: Voice) -> tuple[int, int, UUID]:
        """The row, the number that it has now, and the id of the event about that."""
        connection = self._connection = self._connection or voice.api.connect(
            autocommit=True, connect_timeout=3, prepare_threshold=None
        )
        row, count = voice.chance.randint(1, ROWS), voice.chance.choice((1, 1, 1, 3))
        with connection.transaction():
            connection.execute("set local lock_timeout = 3000")
            [(last,)] = connection.execute(
                f"update counts set number = number + {count} where row = {row} returning number"
            )
            numbers = range(last - count + 1, last + 1)
            connection.execute(f"insert into counted values {', '.join(f'({row}, {number})' for number in numbers)}")
            events = [_event(voice, row, number) for number in numbers]
            if count > 1:
                ids = voice.api.record_many(events, connection=connection.raw)
            else:
                ids = [voice.api.record(events[0], connection=connection.raw)]
            if voice.chance.random() < 0.1:
                voice.life.stop.wait(voice.chance.uniform(0, 0.5))
            if voice.chance.random() < 0.2:
                raise _Undone
        return row, last, ids[-1]


KINDS: dict[str, Callable[[], Callable[[Voice], None]]] = {"recorded": lambda: recorded, "counted": Counting}


def _event(voice: Voice, row: int, number: int) -> Event:
    id_ = uuid4() if voice.chance.random() < 0.5 else None
    return Event("user:1", "row.counted", COUNT, f"{row}/{number}", after={"by": voice.part}, id=id_)


def _note(voice: Voice, id_: UUID, count: int = 1, **fields: object) -> None:
    """Notes what was recorded; now and then with its receipt, once that is there."""
    if voice.chance.random() < 0.3:
        voice.received(voice.life.settle(lambda: voice.api.receipt(id_, timeout=2.0)), count, **fields)
    else:
        voice.notes.add(n=voice.number, count=count, **fields)
        voice.number += count


def _check_sane(error: Exception) -> None:
    """As in transactions.py: only what a sick server or network makes, or a connection that was made twice."""
    if isinstance(error, errors.UniqueViolation) and error.diag.table_name == "counted":
        return
    if not isinstance(error, Unavailable | psycopg.OperationalError | psycopg.InterfaceError):
        raise error
