"""Jobs on the outbox: events are recorded, by themselves and beside the caller's own rows; and sealed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from ledger.capture import sealer
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from tests.faults.crashing import orders
from tests.faults.crashing.jobs import BATCH, Job, Tell, World, again
from tests.faults.crashing.orders import Orders
from tests.support.helpers import checked

CONTRADICTED = "case.contradicted"
_PUT = """
insert into ledger.outbox (
    ledger_id, id, named, recorded_at, actor, actor_type, action, resource_type, resource_id, after
)
values (1, coalesce(%s, gen_random_uuid()), false, now(), 'user:42', 'user', %s, 'case', %s, %s)
"""


class _Undone(Exception):
    """The caller thought better of it."""


class Record(Job):
    """One event and several, in transactions of their own and in the caller's; a duplicate, a conflict, a rollback."""

    count = 10

    def prepare(self, world: World) -> None:
        orders.create(world.admin)

    def run(self, tell: Tell) -> None:
        with self.opened() as api, closing(Orders(api, self.name, tell)) as caller:

            def say(*numbers: int, **fields: Any) -> UUID:
                events = [self.event(number, **fields) for number in numbers]
                if len(events) > 1:
                    ids = again(lambda: api.record_many(events))
                else:
                    ids = [again(lambda: api.record(events[0]))]
                for number, id_ in zip(numbers, ids, strict=True):
                    tell(number, id_)
                return ids[0]

            def beside(number: int, connection: Any) -> None:
                api.record(self.event(number, id=None), connection=connection)

            def many_beside(connection: Any) -> None:
                api.record_many([self.event(4), self.event(5, id=None)], connection=connection)

            def undone(connection: Any) -> None:
                beside(99, connection)
                raise _Undone

            say(0)
            caller.order(1, partial(beside, 1))
            say(2, 3)
            caller.order(4, many_beside)
            known = say(6, id=None, idempotency_key=self.name if self.named else None)
            with suppress(_Undone):
                caller.order(98, undone)
            say(6, id=known)
            contradiction = msgspec.structs.replace(self.event(6, id=known), action=CONTRADICTED)
            again(lambda: api.record(contradiction))
            caller.order(7, partial(beside, 7))
            say(8, 9)

    def look(self, world: World) -> None:
        """An event was recorded beside each order that is there, and beside no other."""
        seal_all(world)
        ordered = set(orders.numbers(world.admin, self.name))
        assert ordered <= {1, 4, 7}
        beside = {number for number in self._numbers(world) if number in (1, 4, 5, 7, 99)}
        assert beside == ordered | ({5} if 4 in ordered else set())

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        self.look(world)
        super().check(world, [(number, world.ledger.receipt(id_, timeout=0)) for number, id_ in told])
        assert self._numbers(world) == list(range(self.count)), "not in the order in which they were recorded"
        assert orders.numbers(world.admin, self.name) == [1, 4, 7]
        rejected = _rejected(world, self.name)
        assert rejected in ([CONTRADICTED], [CONTRADICTED] * 2), "once, or twice around a fault"

    def _numbers(self, world: World) -> list[int]:
        return [entry.after["number"] for entry in self.entries(checked(world.ledger))]


@dataclass
class Seal(Job):
    """Several batches; among them a duplicate, a conflict, and what only the owner can put there. Then two receipts."""

    ids: Sequence[UUID] = ()
    count = BATCH + 3

    def prepare(self, world: World) -> None:
        first, *others = self.events(self.count)
        with world.admin.transaction():
            known = world.ledger.record(msgspec.structs.replace(first, id=None), connection=world.admin)
            again_ = msgspec.structs.replace(first, id=known)
            others = [msgspec.structs.replace(each, id=None) for each in others]
            self.ids = [known, *world.ledger.record_many(others[:-BATCH], connection=world.admin)]
            world.ledger.record(again_, connection=world.admin)
            world.ledger.record(msgspec.structs.replace(again_, action=CONTRADICTED), connection=world.admin)
            for id_, action, after in (
                (known, "an.impostor", None),
                (None, "a.zero", '"\\u0000"'),
                (None, "ledger.x", None),
            ):
                world.admin.execute(_PUT, (id_, action, self.name, after))
            self.ids += world.ledger.record_many(others[-BATCH:], connection=world.admin)

    def run(self, tell: Tell) -> None:
        sealer.BATCH = BATCH
        with closing(Connector(self.settings)) as connector, self.opened() as api:
            running = Sealer(connector)
            again(running.seal)
            assert not running.stopped
            for number in (0, self.count - 1):
                tell(number, again(lambda number=number: api.receipt(self.ids[number], timeout=0)))  # type: ignore[misc]

    def look(self, world: World) -> None:
        """What was appended has left the outbox, and what was not is still there."""
        rows = world.admin.execute(
            "select id from ledger.outbox where not named and action = 'case.went_on'"
        ).fetchall()
        sealed = [entry.id for entry in self.entries(checked(world.ledger))]
        assert sorted([*sealed, *(id_ for (id_,) in rows)]) == sorted(self.ids)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        super().check(world, told)
        assert [entry.id for entry in self.entries(checked(world.ledger))] == self.ids
        assert world.admin.execute("select count(*) from ledger.outbox").fetchall() == [(0,)]
        assert _rejected(world, self.name) == [CONTRADICTED, "an.impostor", "a.zero", "ledger.x"]


def seal_all(world: World) -> None:
    with closing(Connector(world.ledger.settings)) as connector:
        running = Sealer(connector)
        running.seal()
        assert not running.stopped


def _rejected(world: World, name: str) -> list[str]:
    """The actions of what was set aside, in the order in which it was recorded."""
    rows = world.admin.execute("select action from ledger.rejected where resource_id = %s order by seq", (name,))
    return [action for (action,) in rows.fetchall()]
