"""append in the caller's transaction: recorded if and only if it commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from ledger import AsyncLedger, Event, Ledger, Unchanged
from ledger.errors import ConditionFailed, IdempotencyConflict, InvalidEvent, UsageError
from tests.support.api import Api, Connected, Opener
from tests.support.helpers import checked, event, events, numbers, receipt_of


@pytest.fixture
def caller(api: Api, opener: Opener, admin: psycopg.Connection) -> Connected:
    """The caller's own connection, and a table of the application's."""
    admin.execute("create table public.invoices (id int primary key); grant all on public.invoices to public")
    return opener.connect(api)


def test_commit_records_both(api: Api, caller: Connected) -> None:
    with caller.transaction():
        caller.execute("insert into invoices values (7)")
        receipt = api.append(event(7), connection=caller.raw)
        assert api.read() == []
    assert [receipt_of(entry) for entry in checked(api)] == [receipt]
    assert caller.execute("select id from invoices") == [(7,)]
    assert api.append(event(8)).position == 2


def test_rollback_records_neither(api: Api, caller: Connected) -> None:
    api.append(event(0))
    with pytest.raises(ZeroDivisionError), caller.transaction():
        caller.execute("insert into invoices values (7)")
        assert api.append(event(7), connection=caller.raw).position == 2
        raise ZeroDivisionError
    assert caller.execute("select id from invoices") == []
    caller.execute("rollback")
    assert api.append(event(1)).position == 2
    assert numbers(checked(api)) == [0, 1]


def test_a_savepoint_rolled_back_takes_its_entry_with_it(api: Api, caller: Connected) -> None:
    with caller.transaction():
        api.append(event(0), connection=caller.raw)
        with pytest.raises(ZeroDivisionError), caller.transaction():
            api.append(event(99), connection=caller.raw)
            raise ZeroDivisionError
        assert api.append(event(1), connection=caller.raw).position == 2
    assert numbers(checked(api)) == [0, 1]


def test_many_are_recorded_together(api: Api, caller: Connected) -> None:
    with caller.transaction():
        caller.execute("insert into invoices values (7)")
        count, last = api.append_many(events(2500), connection=caller.raw)
    assert (count, last) == (2500, receipt_of(checked(api)[-1]))


@pytest.mark.parametrize("bad", [event(3, actor=""), event(3, id=UUID(int=7))], ids=["invalid", "conflict"])
def test_many_with_a_bad_one_are_recorded_not_at_all(api: Api, caller: Connected, bad: Event) -> None:
    api.append(event(0, id=UUID(int=7)))

    def source() -> Iterator[Event]:
        yield from events(1500)
        yield bad
        yield from events(10)

    with pytest.raises((InvalidEvent, IdempotencyConflict)), caller.transaction():
        caller.execute("insert into invoices values (7)")
        api.append_many(source(), connection=caller.raw)
    assert numbers(checked(api)) == [0]
    assert caller.execute("select id from invoices") == []


def test_many_with_a_conflict_end_before_it_though_the_caller_commits(api: Api, caller: Connected) -> None:
    """As without connection=: what the error says of what was recorded is true."""
    api.append(event(0, id=UUID(int=1)))
    batch = [event(1), event(99, id=UUID(int=1)), event(2), event(3)]
    with caller.transaction(), pytest.raises(IdempotencyConflict) as conflict:
        api.append_many(batch, connection=caller.raw)
    assert conflict.value.__notes__ == ["Recorded before it: 1 entries, up to position 2."]
    assert numbers(checked(api)) == [0, 1]


def test_conditions_and_repeats_within_a_transaction(api: Api, caller: Connected) -> None:
    named = event(0, id=UUID(int=7), resource_type="invoice", resource_id="7")
    with caller.transaction():
        first = api.append(named, connection=caller.raw, expect=0)
        assert api.append(named, connection=caller.raw) == first
        with pytest.raises(ConditionFailed):
            api.append(event(1), connection=caller.raw, expect=Unchanged("invoice", "7", since=0))
        with pytest.raises(ConditionFailed):
            api.append(event(1), connection=caller.raw, expect=0)
        with pytest.raises(IdempotencyConflict):
            api.append(event(9, id=UUID(int=7)), connection=caller.raw)
        caller.execute("insert into invoices values (7)")
    assert [receipt_of(entry) for entry in checked(api)] == [first]
    assert caller.execute("select id from invoices") == [(7,)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_snapshot_that_is_too_old_gets_postgres_own_error(api: Api, caller: Connected, level: str) -> None:
    api.append(event(0))
    with pytest.raises(psycopg.errors.SerializationFailure), caller.transaction():
        caller.execute(f"set transaction isolation level {level}")
        caller.execute("insert into invoices values (7)")
        api.append(event(1))
        api.append(event(2), connection=caller.raw)
    with caller.transaction():  # as the caller's code retries it
        caller.execute(f"set transaction isolation level {level}")
        caller.execute("insert into invoices values (7)")
        api.append(event(2), connection=caller.raw)
    assert numbers(checked(api)) == [0, 1, 2]


def test_the_tail_is_held_until_the_transaction_ends(api: Api, caller: Connected) -> None:
    api.append(event(0))
    with ThreadPoolExecutor(1) as executor:
        with caller.transaction():
            api.append(event(1), connection=caller.raw)
            waiting = executor.submit(api.append, event(2))
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert waiting.result(10).position == 3
    assert numbers(checked(api)) == [0, 1, 2]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_waited_continues_the_tail_as_it_is_then(
    api: Api, opener: Opener, caller: Connected, end: str
) -> None:
    """Both append in the round trip that locks, and the second with entries made for the tail before the first's."""
    other = opener()
    later = opener.connect(other)
    for each, connection in ((api, caller), (other, later), (api, caller)):
        with connection.transaction():
            each.append(event(0), connection=connection.raw)
    with later.transaction():
        other.append(event(0), connection=later.raw)

    def append_later() -> int:
        with later.transaction():
            return other.append(event(2), connection=later.raw).position

    with ThreadPoolExecutor(1) as executor:
        caller.execute("begin")
        assert api.append(event(1), connection=caller.raw).position == 5
        waiting = executor.submit(append_later)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        caller.execute(end)
        assert waiting.result(10) == (6 if end == "commit" else 5)
    assert numbers(checked(api)) == [0] * 4 + [1, 2][end == "rollback" :]


def test_other_ledgers_do_not_wait(api: Api, opener: Opener, caller: Connected, admin: psycopg.Connection) -> None:
    admin.execute("select ledger.create_ledger('second')")
    second = opener(name="second", lock_timeout=0.5)
    with caller.transaction():
        api.append(event(0), connection=caller.raw)
        second.append(event(1))
        second.append(event(2), connection=caller.raw)
        assert numbers(second.read()) == [1]
    assert (numbers(checked(api)), numbers(checked(second))) == ([0], [1, 2])


def test_connections_with_rows_and_transactions_of_their_own_kind(api: Api, opener: Opener) -> None:
    rows = opener.connect(api, row_factory=dict_row, autocommit=True)
    named = event(0, id=UUID(int=7), after={"number": 0, "text": "é"})
    with rows.transaction():
        first = api.append(named, connection=rows.raw)
        assert api.append(named, connection=rows.raw) == first
    implicit = opener.connect(api)
    api.append(event(1), connection=implicit.raw)
    assert len(api.read()) == 1
    implicit.execute("commit")
    by_hand = opener.connect(api, autocommit=True)
    by_hand.execute("begin")
    api.append(event(2), connection=by_hand.raw, expect=Unchanged("a", "b", since=0))
    by_hand.execute("commit")
    assert numbers(checked(api)) == [0, 1, 2]


def test_a_connection_without_a_transaction_is_refused(api: Api, opener: Opener) -> None:
    connected = opener.connect(api, autocommit=True)
    with pytest.raises(
        UsageError, match=r"^the connection is not in a transaction: open one with connection.transaction"
    ):
        api.append(event(), connection=connected.raw)
    with pytest.raises(UsageError, match=r"^the connection is not in a transaction"):
        api.append_many([event()], connection=connected.raw)
    assert checked(api) == []


def test_an_aborted_transaction_gets_postgres_own_error(api: Api, caller: Connected) -> None:
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), caller.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero):
            caller.execute("select 1/0")
        api.append(event(), connection=caller.raw)
    assert checked(api) == []


def test_a_closed_connection_is_refused_and_nothing_is_recorded(api: Api, opener: Opener) -> None:
    connected = opener.connect(api)
    connected.close()
    with pytest.raises((UsageError, psycopg.OperationalError), match="closed"):
        api.append(event(), connection=connected.raw)
    assert checked(api) == []


def test_a_connection_of_the_other_colour_is_refused(migrated_url: str) -> None:
    async def crossed() -> None:
        connection = await psycopg.AsyncConnection.connect(migrated_url)
        try:
            with Ledger.open(database_url=migrated_url) as ledger:
                with pytest.raises(UsageError, match=r"^connection= takes a psycopg.Connection .* not psycopg.AsyncC"):
                    ledger.append(event(), connection=connection)  # type: ignore[arg-type]
                with psycopg.connect(migrated_url) as plain:
                    async with AsyncLedger.open(database_url=migrated_url) as other:
                        with pytest.raises(
                            UsageError, match=r"^connection= takes a psycopg.AsyncConnection .* not psycopg.Conn"
                        ):
                            await other.append(event(), connection=plain)  # type: ignore[arg-type]
                assert checked(ledger) == []
        finally:
            await connection.close()

    asyncio.run(crossed())
