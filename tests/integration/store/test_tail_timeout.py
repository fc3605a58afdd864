"""An append waits for the tail lock no longer than its timeout; then an error, and nothing recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from ledger import ErasureRefused
from ledger.errors import TailBusy
from tests.support.api import Api, Opener
from tests.support.helpers import LOCK, checked, event, events, numbers, race
from tests.support.logins import Logins

TIMEOUT = 1.0
SLACK = 0.9
"""Seconds of a slow machine. Less than TIMEOUT: what waits twice is found."""


@pytest.fixture
def roles() -> tuple[str, ...]:
    return ("ledger_writer", "ledger_reader", "ledger_eraser")


@pytest.fixture
def api(opener: Opener) -> Api:
    return opener(lock_timeout=TIMEOUT)


@contextmanager
def held(url: str) -> Iterator[psycopg.Connection]:
    """The tail of `main`, by a transaction that does not end."""
    with psycopg.connect(url) as holder:
        holder.execute(LOCK)
        yield holder


def waited(call: Callable[[], object]) -> float:
    """How long a call took that found the tail busy, in seconds."""
    began = time.monotonic()
    with pytest.raises(TailBusy, match=r"lock timeout \(1 s\): nothing was recorded, appending again is safe; 'auditl"):
        call()
    return time.monotonic() - began


def test_every_way_of_appending(api: Api, migrated_url: str) -> None:
    api.append_many(events(2))
    calls: list[Callable[[], object]] = [
        lambda: api.append(event(2), expect=2),
        lambda: api.append(event(3)),
        lambda: api.append_many(events(3, 4)),
        lambda: api.erase(1, "user:dpo", "asked for"),
    ]
    with held(migrated_url):
        took = [waited(call) for call in calls]
        assert max(took) < TIMEOUT + SLACK and min(took) > 0.9 * TIMEOUT
    assert numbers(checked(api)) == [0, 1]
    for call in calls:
        call()
    assert len(checked(api)) == 2 + 1 + 1 + 3 + 1


@pytest.mark.parametrize("how", ["together", "each for itself"])
def test_threads_behind_one_another(api: Api, migrated_url: str, how: str) -> None:
    """Whoever stands in line waits no longer for it: the wait of those before counts."""
    api.append(event(0))

    def call() -> object:
        return api.append(event(1)) if how == "together" else api.append(event(1), expect=1)

    with held(migrated_url):
        took = race(*[lambda: waited(call)] * 8)
        assert max(took) < TIMEOUT + SLACK
    assert numbers(checked(api)) == [0]
    call()


def test_processes_behind_one_another(opener: Opener, migrated_url: str) -> None:
    """Postgres has them wait twice: for the others in line, then for whoever holds the row."""
    apis = [opener(lock_timeout=TIMEOUT) for _ in range(4)]
    for number, api in enumerate(apis):
        api.append(event(number))

    def caller(number: int) -> Callable[[], float]:
        def call() -> float:
            time.sleep(0.02 * number)
            return waited(lambda: apis[number].append(event(9), expect=4))

        return call

    with held(migrated_url):
        took = race(*map(caller, range(4)))
        assert max(took) < TIMEOUT + SLACK
    assert numbers(checked(apis[0])) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["together", "each for itself"])
def test_who_came_later_waits_for_the_rest_of_its_time(api: Api, migrated_url: str, how: str) -> None:
    """The first gives up; those that came while it waited have not waited for long enough, and are served."""
    api.append(event(0))
    expect = None if how == "together" else 1
    with ThreadPoolExecutor(3) as executor, held(migrated_url) as holder:
        first = executor.submit(waited, lambda: api.append(event(1), expect=expect))
        time.sleep(0.7 * TIMEOUT)
        later = executor.submit(api.append, event(2), expect=expect)
        first.result(10)
        holder.rollback()
        assert later.result(10).position == 2
    assert numbers(checked(api)) == [0, 2]


def test_a_batch_behind_a_busy_tail_is_recorded_whole_or_not_at_all(api: Api, migrated_url: str) -> None:
    with held(migrated_url), pytest.raises(TailBusy) as busy:
        api.append_many(events(2500))
    assert busy.value.__notes__ == ["Recorded before it: 0 entries, nothing."]
    assert checked(api) == []
    assert api.append_many(events(2500)).count == 2500


def test_in_the_callers_transaction_its_own_lock_timeout_counts(api: Api, opener: Opener, migrated_url: str) -> None:
    """And Postgres' own error is what it gets, as for any statement of its own."""
    api.append(event(0))
    caller = opener.connect(api)
    caller.execute("set lock_timeout = '300ms'; commit")
    with held(migrated_url):
        for expect in (None, 1):
            began = time.monotonic()
            with pytest.raises(psycopg.errors.LockNotAvailable), caller.transaction():
                api.append(event(1), connection=caller.raw, expect=expect)
            assert time.monotonic() - began < TIMEOUT + SLACK
            caller.execute("rollback")
    with caller.transaction():
        api.append(event(1), connection=caller.raw)
    assert numbers(checked(api)) == [0, 1]


def test_a_limit_of_the_databases_own_holds_for_what_follows(
    opener: Opener, admin: psycopg.Connection, migrated_url: str
) -> None:
    """statement_timeout bounds the wait for the tail; what an administrator has set counts for the rest."""
    [(name,)] = admin.execute("select current_database()").fetchall()
    admin.execute(f"alter database \"{name}\" set statement_timeout = '77s'")
    admin.execute(
        """
        create table public.seen (statement_timeout text); grant insert on public.seen to public;
        create function public.see() returns trigger language plpgsql as
        $$ begin insert into public.seen values (current_setting('statement_timeout')); return null; end $$;
        create trigger see after insert on ledger.audit_logs for each statement execute function public.see();
        """
    )
    api = opener(lock_timeout=TIMEOUT)
    api.append(event(0), expect=0)
    assert admin.execute("select distinct statement_timeout from public.seen").fetchall() == [("77s",)]
    with pytest.raises(ErasureRefused):
        api.erase(9, "user:dpo", "asked for")


def test_whoever_keeps_the_line_stops_nobody(
    api: Api, opener: Opener, admin: psycopg.Connection, login: Logins
) -> None:
    """Its lock is one that any user of the database can take. What is right is decided by the row."""
    api.append(event(0))
    with psycopg.connect(login()) as stranger:
        for ledger_id in admin.execute("select ledger_id from ledger.ledgers").fetchall():
            stranger.execute("select pg_advisory_lock(710183014, %s)", ledger_id)
        began = time.monotonic()
        for number in range(1, 11):
            api.append(event(number), expect=number)
        assert api.erase(1, "user:dpo", "asked for").position == 12
        assert time.monotonic() - began < 0.5 * TIMEOUT + SLACK  # once, not each time
        opener(lock_timeout=TIMEOUT).append(event(11))
    assert len(checked(api)) == 13


def test_users_without_the_right_to_stand_in_line(api: Api, admin: psycopg.Connection) -> None:
    """Everybody has that right, unless an administrator takes it."""
    admin.execute("revoke execute on function pg_advisory_xact_lock(int, int) from public")
    api.append(event(0))
    api.append(event(1), expect=1)
    assert numbers(checked(api)) == [0, 1]
