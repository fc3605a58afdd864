"""The sealer beside others, with servers that are in the way or gone, and with the least rights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from ledger import Event, Ledger
from ledger.capture import sealer
from ledger.drivers.run import drive
from ledger.effects import Plan
from ledger.errors import TailBusy, UnknownLedger, UsageError
from ledger.settings import Settings
from ledger.store.appender import Appender
from ledger.store.idempotency import Outcome
from ledger.store.ledgers import create_ledger
from tests.support.captured import capture
from tests.support.clusters import Cluster
from tests.support.helpers import checked, event, eventually, numbers, race
from tests.support.logins import Logins
from tests.support.outbox import record, running, sealing, waiting
from tests.support.pgbouncer import pgbouncer

DOZING = """
select pid from pg_locks join pg_database on pg_database.oid = database and datname = current_database()
where locktype = 'advisory' and classid = 710183015 and objid = 0 and granted
"""


@pytest.fixture
def second(ledger: Ledger, admin: psycopg.Connection) -> Iterator[Ledger]:
    """Another ledger of the database."""
    drive(create_ledger("second"), admin)
    with Ledger(Settings(database_url=ledger.settings.database_url, name="second")) as opened:
        yield opened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a notification nothing is found for a minute."""
    monkeypatch.setattr(sealer, "NET_SECONDS", 60.0)
    monkeypatch.setattr(sealer, "AWAKE", 3)


# --------------------------------------------------------------------------------------------------- beside others


def test_two_at_once(ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "BATCH", 20)
    record(admin, 1500)
    with sealing(ledger.settings) as one, sealing(ledger.settings) as two:
        counts = race(one.seal, two.seal)
        assert not one.stopped + two.stopped
    assert sum(counts) == 1500, "each counts what it took itself"
    assert all(counts), "one of them did all of it"
    assert numbers(checked(ledger)) == list(range(1500))
    assert waiting(admin) == 0


def test_a_held_tail_holds_up_no_other_ledger(
    ledger: Ledger, second: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer, "TAIL_SECONDS", 0.2)
    with psycopg.connect(ledger.settings.database_url or "") as holder, running(ledger.settings) as at_work:
        ledger.append(event(0), connection=holder)
        record(admin, 3, 1)
        eventually(lambda: bool(at_work.stopped))
        for number in range(5):
            record(admin, 1, number, "second")
        eventually(lambda: second.tail().position == 5)
        [error] = at_work.stopped
        assert isinstance(error, TailBusy)
        assert "holds the tail of ledger 'main' for longer than the lock timeout (0.2 s)" in str(error)
        holder.commit()
        eventually(lambda: ledger.tail().position == 4)
        eventually(lambda: not at_work.stopped)
    assert numbers(checked(ledger)) == list(range(4))


def test_once_waits_for_a_tail_as_an_append_does(ledger: Ledger, admin: psycopg.Connection) -> None:
    impatient = Settings(database_url=ledger.settings.database_url, lock_timeout=0.3)
    record(admin, 2)
    with psycopg.connect(ledger.settings.database_url or "") as holder, sealing(impatient) as once:
        ledger.append(event(5), connection=holder)
        assert once.seal() == 0
        assert [type(error) for error in once.stopped] == [TailBusy]
        assert "for longer than the lock timeout (0.3 s)" in str(once.stopped[0])
        holder.rollback()
        assert once.seal() == 2
        assert not once.stopped


def test_it_stops_between_two_batches(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer, "BATCH", 2)
    record(admin, 3000)
    with running(ledger.settings):
        eventually(lambda: ledger.tail().position > 0)
    left = waiting(admin)
    assert left > 0
    assert numbers(checked(ledger)) == list(range(3000 - left))
    with sealing(ledger.settings) as once, pytest.raises(KeyboardInterrupt):
        once.seal(_interrupt)
    assert waiting(admin) == left - 2


def _interrupt(count: int) -> None:
    assert count == 2
    raise KeyboardInterrupt


def test_a_batch_ends_where_its_bodies_come_to_much(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/integration/stream/test_bounded_memory.py measures."""
    monkeypatch.setattr(sealer, "BATCH_BYTES", 1000)
    bodies = [*["x" * 2000] * 3, *["y" * 300] * 9, *["z"] * 400]
    ledger.record_many(Event("user:1", "a.b", after=body) for body in bodies)
    batches: list[int] = []
    with sealing(ledger.settings) as once:
        assert once.seal(batches.append) == len(bodies), "all, though no batch is full"
    assert batches[:5] == [1, 1, 1, 2, 4], "the one that goes beyond it is the last; twice as many are tried next"
    assert max(batches) > 100
    assert [entry.after for entry in checked(ledger)] == bodies


def test_a_transaction_that_commits_long_after_it_recorded(ledger: Ledger, admin: psycopg.Connection) -> None:
    with psycopg.connect(ledger.settings.database_url or "") as long, sealing(ledger.settings) as once:
        record(long, 2, 0)
        record(admin, 3, 10)
        assert once.seal() == 3
        record(long, 1, 2)
        long.commit()
        record(admin, 1, 13)
        assert once.seal() == 4
    assert numbers(checked(ledger)) == [10, 11, 12, 0, 1, 2, 13]


# ----------------------------------------------------------------------------------------- recorders that mean no good


def test_many_other_bodies_under_known_ids(ledger: Ledger, admin: psycopg.Connection) -> None:
    """The tail is not held while `first_difference`, which takes 5 ms, says of one after the other that it differs."""
    again = "select ledger.record('main', 'user:1', 'a.b', id => id, after => %s) from unnest(%s::uuid[]) as id"
    ids = [uuid4() for _ in range(300)]
    admin.execute(again, ("1", ids))
    with sealing(ledger.settings) as once:
        assert once.seal() == 300
        admin.execute("alter function ledger.first_difference rename to first_of_one_who_may_not_read")
        admin.execute(again, ("1", ids[:100]))
        admin.execute(again, ("2", ids[100:]))
        assert (once.seal(), once.stopped) == (300, [])
    reasons = admin.execute(
        "select distinct regexp_replace(reason, '[0-9a-f-]{36}|[0-9]+', '', 'g') from ledger.rejected"
    )
    assert reasons.rowcount == 1 and "with another body" in reasons.fetchall()[0][0]
    assert admin.execute("select count(*) from ledger.rejected where after::text = '2'").fetchall() == [(200,)]
    assert ledger.tail().position == 300


def test_many_ids_of_the_outbox_that_were_given_as_ones_own(
    ledger: Ledger, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found together, not by halves."""
    tries: list[object] = []
    append = Appender.append_from

    def counted(*given: Any) -> Plan[Sequence[Outcome]]:
        tries.append(given)
        return append(*given)

    monkeypatch.setattr(Appender, "append_from", counted)
    with psycopg.connect(ledger.settings.database_url or "") as late, sealing(ledger.settings) as once:
        made = late.execute("select ledger.record('main', 'user:1', 'a.b') from generate_series(1, 50)").fetchall()
        ids = [id_ for (id_,) in made]
        admin.execute("select ledger.record('main', 'user:2', 'a.b', id => id) from unnest(%s::uuid[]) as id", (ids,))
        assert once.seal() == 50
        late.commit()
        record(admin, 1)
        assert (once.seal(), once.stopped) == (51, [])
    assert len(tries) == 3
    assert [entry.actor for entry in ledger.read()] == ["user:2"] * 50 + ["user:1"]
    assert admin.execute("select count(*) from ledger.rejected").fetchall() == [(50,)]


# ------------------------------------------------------------------------------------------------------------ waking


def test_a_notification_wakes_it(ledger: Ledger, admin: psycopg.Connection, patient: None) -> None:
    with running(ledger.settings), running(ledger.settings):
        for _ in range(2):
            eventually(lambda: admin.execute(DOZING).rowcount == 1)
            assert ledger.receipt(ledger.record(event()), timeout=30)


def test_it_is_woken_after_its_sessions_were_ended(ledger: Ledger, admin: psycopg.Connection, patient: None) -> None:
    """As a restart of Postgres does it."""
    end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> %s"
    with running(ledger.settings):
        eventually(lambda: admin.execute(DOZING).rowcount == 1)
        before = admin.execute(DOZING).fetchall()
        admin.execute(end, (admin.info.backend_pid,))
        eventually(lambda: admin.execute(DOZING).fetchall() not in ([], before))
        assert ledger.receipt(ledger.record(event()), timeout=30)


def test_behind_a_pooler_it_looks_again_and_again(ledger: Ledger, admin: psycopg.Connection, patient: None) -> None:
    url = ledger.settings.database_url or ""
    with pgbouncer(url) as pooler, running(Settings(database_url=pooler.url(url))):
        for _ in range(3):
            assert ledger.receipt(ledger.record(event()), timeout=30)
            assert admin.execute(DOZING).rowcount == 0, "a lock of a session that is the pooler's"


def test_transactions_that_are_prepared(primary: Cluster, patient: None) -> None:
    """One that has notified could not be: so nothing is notified where there may be such."""
    url = primary.url()
    with (
        Ledger(Settings(database_url=url)) as ledger,
        psycopg.connect(url, autocommit=True) as connection,
        running(ledger.settings),
    ):
        time.sleep(0.5)
        connection.execute("begin; create table t (id int primary key)")
        record(connection, 1)
        capture(connection, "t")
        connection.execute("insert into t values (1); prepare transaction 'one'")
        connection.execute("commit prepared 'one'")
        eventually(lambda: ledger.tail().position == 3)


# ------------------------------------------------------------------------------------------------------------ rights


_ADVICE = "auditledger grant"


def test_who_may_seal(ledger: Ledger, second: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """The rights of a projector on the outbox, and of a writer on the ledger. One that lacks holds up no other."""
    record(admin, 1)
    record(admin, 1, name="second")

    def seal_as(*roles: str, ledgers: list[str] | None = None) -> list[str]:
        with sealing(Settings(database_url=login(*roles, ledgers=ledgers))) as once:
            once.seal()
            return [str(error) for error in once.stopped]

    assert [_ADVICE in error for error in seal_as("ledger_projector")] == [True, True]
    assert (ledger.tail().position, second.tail().position) == (0, 0)
    assert [_ADVICE in error for error in seal_as("ledger_projector", "ledger_writer", ledgers=["second"])] == [True]
    assert (ledger.tail().position, second.tail().position) == (0, 1)
    with pytest.raises(UsageError, match="outbox"):
        seal_as("ledger_writer")
    with pytest.raises(UsageError, match="outbox"):
        seal_as("ledger_recorder")
    assert seal_as("ledger_projector", "ledger_writer") == []
    assert waiting(admin) == 0


def test_ledgers_by_name(ledger: Ledger, second: Ledger, admin: psycopg.Connection) -> None:
    record(admin, 2)
    record(admin, 3, name="second")
    with sealing(ledger.settings, ["second"]) as once:
        assert once.seal() == 3
    with sealing(ledger.settings, ["third"]) as once, pytest.raises(UnknownLedger, match="third"):
        once.seal()
    assert (ledger.tail().position, second.tail().position) == (0, 3)
