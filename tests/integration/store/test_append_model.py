"""Any sequence of appends against a plain list: same entries, same order, a valid chain."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ledger import Appended, Event, Ledger, Receipt, Unchanged
from ledger.errors import ConditionFailed, IdempotencyConflict, InvalidEvent
from tests.support.helpers import checked, event, numbers, receipt_of

who = st.integers(0, 1)
resource = st.sampled_from(["a", "b"])
key = st.integers(1, 6)


class Appends(RuleBasedStateMachine):
    """Two Ledger objects and a caller's connection on one ledger. `model` is the numbers that should be recorded."""

    url: str
    admin: psycopg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.model: list[int] = []
        self.receipts: list[Receipt | None] = []
        self.keyed: dict[int, tuple[Event, int]] = {}  # what was said under each key, and its position
        self.touched: dict[str, int] = {}
        self.next = 0

    @initialize()
    def open(self) -> None:
        self.name = f"model-{uuid4()}"
        self.admin.execute("select ledger.create_ledger(%s)", [self.name])
        self.ledgers = [Ledger.open(database_url=self.url, name=self.name) for _ in range(2)]
        self.caller = psycopg.connect(self.url, autocommit=True)

    def said(self, **fields: object) -> Event:
        self.next += 1
        return event(self.next, **fields)

    def recorded(self, said: Event, receipt: Receipt | None) -> None:
        self.model.append(said.after["number"])
        self.receipts.append(receipt)
        if receipt is not None:
            assert receipt.position == len(self.model)

    @rule(who=who, resource=resource)
    def append(self, who: int, resource: str) -> None:
        said = self.said(resource_type="thing", resource_id=resource)
        self.recorded(said, self.ledgers[who].append(said))
        self.touched[resource] = len(self.model)

    @rule(who=who, count=st.integers(0, 5))
    def append_many(self, who: int, count: int) -> None:
        batch = [self.said() for _ in range(count)]
        result = self.ledgers[who].append_many(batch)
        assert result.count == count
        for said in batch:
            self.recorded(said, result.last if said is batch[-1] else None)

    @rule(who=who, count=st.integers(0, 3))
    def append_many_with_a_bad_one(self, who: int, count: int) -> None:
        batch = [self.said() for _ in range(count)]
        with pytest.raises(InvalidEvent, match=f"^event {count + 1}: actor"):
            self.ledgers[who].append_many([*batch, self.said(actor=""), self.said()])
        for said in batch:
            self.recorded(said, None)

    @rule(who=who, key=key, other=st.booleans())
    def append_keyed(self, who: int, key: int, other: bool) -> None:
        known = self.keyed.get(key)
        if known is None:
            said = self.said(id=UUID(int=key))
            self.recorded(said, self.ledgers[who].append(said))
            self.keyed[key] = said, len(self.model)
        elif other:
            with pytest.raises(IdempotencyConflict):
                self.ledgers[who].append(self.said(id=UUID(int=key)))
        else:
            assert self.ledgers[who].append(known[0]).position == known[1]

    @rule(who=who, keys=st.lists(key, max_size=5))
    def append_many_keyed(self, who: int, keys: list[int]) -> None:
        """New ones, repeats, and twins among them."""
        batch: list[Event] = []
        fresh: list[Event] = []
        for key in keys:
            if key not in self.keyed:
                self.keyed[key] = self.said(id=UUID(int=key)), len(self.model) + len(fresh) + 1
                fresh.append(self.keyed[key][0])
            batch.append(self.keyed[key][0])
        result: Appended = self.ledgers[who].append_many(batch)
        assert result.count == len(fresh)
        assert (result.last.position if result.last else 0) == (self.keyed[keys[-1]][1] if keys else 0)
        for said in fresh:
            self.recorded(said, None)

    @rule(who=who, behind=st.integers(0, 2))
    def append_expecting_a_position(self, who: int, behind: int) -> None:
        said = self.said()
        expect = len(self.model) - behind
        if behind == 0:
            self.recorded(said, self.ledgers[who].append(said, expect=expect))
        else:
            with pytest.raises(ConditionFailed):
                self.ledgers[who].append(said, expect=expect)

    @rule(who=who, resource=resource, since=st.integers(0, 30))
    def append_expecting_no_change(self, who: int, resource: str, since: int) -> None:
        said = self.said(resource_type="thing", resource_id=resource)
        expect = Unchanged("thing", resource, since)
        if self.touched.get(resource, 0) <= since:
            self.recorded(said, self.ledgers[who].append(said, expect=expect))
            self.touched[resource] = len(self.model)
        else:
            with pytest.raises(ConditionFailed):
                self.ledgers[who].append(said, expect=expect)

    @rule(who=who, count=st.integers(1, 3), roll_back=st.booleans(), many=st.booleans())
    def append_within_the_callers_transaction(self, who: int, count: int, roll_back: bool, many: bool) -> None:
        batch = [self.said() for _ in range(count)]
        receipts: list[Receipt | None] = [None] * count
        with self.caller.transaction(force_rollback=roll_back):
            if many:
                self.ledgers[who].append_many(batch, connection=self.caller)
            else:
                receipts = [self.ledgers[who].append(said, connection=self.caller) for said in batch]
        if not roll_back:
            for said, receipt in zip(batch, receipts, strict=True):
                self.recorded(said, receipt)

    @invariant()
    def the_tail_is_where_the_list_ends(self) -> None:
        if self.model:
            assert self.ledgers[0].tail().position == len(self.model)

    def teardown(self) -> None:
        if not hasattr(self, "ledgers"):
            return
        try:
            entries = checked(self.ledgers[1])
            assert numbers(entries) == self.model
            for entry, receipt in zip(entries, self.receipts, strict=True):
                assert receipt in (None, receipt_of(entry))
        finally:
            for ledger in self.ledgers:
                ledger.close()
            self.caller.close()


@pytest.fixture
def machine(migrated_url: str, admin: psycopg.Connection) -> Iterator[type[Appends]]:
    class OnThisDatabase(Appends):
        url = migrated_url

    OnThisDatabase.admin = admin
    yield OnThisDatabase


def test_any_sequence_of_appends_is_that_list(machine: type[Appends]) -> None:
    bounds = settings(
        max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=bounds)
