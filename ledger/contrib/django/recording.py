"""Records events on Django's own connections, in the transaction that is open there."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db import connections

from ledger.capture.record import SQL, as_json
from ledger.contrib.django import conf
from ledger.contrib.django.asking import ask_actor
from ledger.events import Event

_RECORD = SQL["record_all"].format(ledger="%s", events="%s")


def record(event: Event, using: str = "default") -> UUID:
    """Records an event: an entry if and only if the transaction commits. Returns the id of the entry to come.

    Outside a transaction it is recorded by itself. An event without an actor takes the context's.
    using: the alias of the database. Raises InvalidEvent, and Django's database errors.
    """
    ask_actor()
    [id_] = _record([event], using)
    return id_


def record_many(events: Iterable[Event], using: str = "default") -> list[UUID]:
    """`record` for any number of events, in one statement. Returns the ids in their order."""
    ask_actor()
    return _record(events, using)


def _record(events: Iterable[Event], using: str) -> list[UUID]:
    options = conf.options()
    with connections[using].cursor() as cursor:
        cursor.execute(_RECORD, (options.ledger, as_json(options.ledger, events)))
        return [UUID(str(id_)) for (id_,) in cursor.fetchall()]
