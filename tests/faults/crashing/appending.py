"""Jobs that append: one event, many, beside the caller's own rows, on a condition; and the ledger's own entries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ledger import Receipt, Unchanged, UnderLegalHold
from ledger.store import drafts
from tests.faults.crashing import orders
from tests.faults.crashing.jobs import BATCH, Job, Tell, World, again
from tests.faults.crashing.orders import Orders
from tests.support.helpers import checked


class Append(Job):
    """One event: quickly, with the tail locked, and in the caller's transaction, with the tail known or not."""

    count = 7

    def prepare(self, world: World) -> None:
        orders.create(world.admin)

    def run(self, tell: Tell) -> None:
        with self.opened() as api, closing(Orders(api, self.name, tell)) as caller:

            def say(number: int) -> None:
                tell(number, again(lambda: api.append(self.event(number))))

            def order(number: int) -> None:
                caller.order(number, lambda connection: api.append(self.event(number, id=None), connection=connection))

            say(0)  # knows no tail yet: locks it
            say(1)  # quickly
            order(2)  # knows no tail of its own yet: locks it
            say(3)  # knows an old one: is refused, then locks it
            order(4)  # knows an old one: locks it in one round trip, and writes in another
            order(5)  # locks it and writes in one
            say(6)

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        super().check(world, told)
        assert orders.numbers(world.admin, self.name) == [2, 4, 5]


class AppendIf(Job):
    """One event, if it was not said before, or if a condition holds."""

    count = 4

    def run(self, tell: Tell) -> None:
        with self.opened() as api:

            def say(number: int, event: dict[str, Any], **how: Any) -> Receipt:
                receipt = again(lambda: api.append(self.event(number, **event), **how))
                tell(number, receipt)
                return receipt

            keyed = {"id": None, "idempotency_key": self.name}
            first = say(0, keyed)
            say(0, keyed)
            second = say(1, {}, expect=Unchanged("case", self.name, since=first.position))
            say(2, {}, expect=second.position)
            say(3, {})


class AppendMany(Job):
    """Several batches; then several in the caller's transaction, all or none."""

    count = 5 * BATCH

    def prepare(self, world: World) -> None:
        orders.create(world.admin)

    def run(self, tell: Tell) -> None:
        drafts.FIRST_BATCH = drafts.BATCH = BATCH

        def beside(connection: Any) -> Receipt | None:
            return api.append_many(self.events(2 * BATCH, 3 * BATCH), connection=connection).last

        with self.opened() as api, closing(Orders(api, self.name, tell)) as caller:
            tell("many", again(lambda: api.append_many(self.events(3 * BATCH))).last)
            caller.order(0, beside)


@dataclass
class OwnEntries(Job):
    """Erasures and legal holds."""

    positions: Sequence[int] = ()
    count = 4

    def prepare(self, world: World) -> None:
        world.ledger.append_many(self.events(self.count))
        last = world.ledger.tail().position
        self.positions = range(last - self.count + 1, last + 1)
        world.ledger.hold(self.positions[2], "officer", "another case")

    def run(self, tell: Tell) -> None:
        erased, held, released, _ = self.positions
        with self.opened() as api:
            tell("erased", again(lambda: api.erase(erased, "officer", "asked for")))
            tell("held", again(lambda: api.hold(held, "officer", "a case")))
            tell("released", again(lambda: api.release(released, "officer", "the case is over")))
            tell("erased once released", again(lambda: api.erase(released, "officer", "asked for")))
            try:
                again(lambda: api.erase(held, "officer", "asked for"))
            except UnderLegalHold:
                return
            raise AssertionError("erased what is held")

    def look(self, world: World) -> None:
        """A body is gone if and only if an entry says so; and so with holds."""
        entries = checked(world.ledger)
        said = [(entry.action, int(entry.resource_id or 0)) for entry in entries if entry.action.startswith("ledger.")]
        assert len(set(said)) == len(said)
        assert {("ledger.entry_erased", each.position) for each in entries if each.erased} == {
            each for each in said if each[0] == "ledger.entry_erased"
        }
        holds = world.admin.execute("select resource_id::int, released is not null from ledger.holds").fetchall()
        assert {("ledger.hold_placed", position) for position, _ in holds} | {
            ("ledger.hold_released", position) for position, released in holds if released
        } == {each for each in said if each[0] != "ledger.entry_erased"}

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        self.look(world)
        entries = checked(world.ledger)
        assert [entry.erased for entry in self.entries(entries)] == [True, False, True, False]
        assert [what for what, *_ in told][-4:] == ["erased", "held", "released", "erased once released"]
