"""Writers are granted ledgers; their queries cost no more than an append."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from ledger import Event, IdempotencyConflict, Ledger, UnknownLedger, UsageError
from ledger.drivers.run import drive
from ledger.migrate.migrate import load_migrations
from ledger.migrate.roles import grant
from ledger.store.ledgers import create_ledger
from tests.support.cli import Cli
from tests.support.helpers import checked, event, events, numbers
from tests.support.logins import Logins, user_of
from tests.support.rows import row

FORBIDDEN = psycopg.errors.InsufficientPrivilege
ASK = "select ledger.first_difference({}, %s, %s, %s, %s)"


@pytest.fixture
def two(ledger: Ledger, admin: psycopg.Connection) -> Iterator[Ledger]:
    """Ledger `second`, with id 2; `main` has id 1."""
    drive(create_ledger("second"), admin)
    with Ledger.open(database_url=ledger.settings.database_url, name="second") as second:
        second.append(event(1, idempotency_key="known", resource_type="invoice", resource_id="7"))
        yield second


def insert(admin: psycopg.Connection, ledger_id: int) -> str:
    """A sound next entry of a ledger, as a statement."""
    [(position, prev, now)] = admin.execute(
        "select position, hash, clock_timestamp() from ledger.tails where ledger_id = %s", (ledger_id,)
    ).fetchall()
    values = row(position + 1, now, ledger_id=ledger_id, prev_hash=prev)
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    literals = sql.SQL(", ").join(map(sql.Literal, values.values()))
    return sql.SQL("insert into ledger.audit_logs ({}) values ({})").format(names, literals).as_string()


def test_a_writer_of_one_ledger_appends_to_that_one(two: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    url = login("ledger_writer", ledgers=["main"])
    with Ledger.open(database_url=url) as main, Ledger.open(database_url=url, name="second") as second:
        first = main.append(event(0, idempotency_key="a"))
        assert main.append(event(0, idempotency_key="a")) == first
        assert main.append_many(events(300, 1)).count == 300
        with pytest.raises(
            UnknownLedger, match="no ledger 'second' in this database, or none that this user was granted"
        ):
            second.append(event())
        assert numbers(checked(Ledger.open(database_url=two.settings.database_url))) == list(range(301))
    [(known,)] = admin.execute("select id from ledger.audit_logs where ledger_id = 2").fetchall()
    statement = insert(admin, 2)
    with psycopg.connect(url, autocommit=True) as writer:
        for refused in (
            statement,
            "select * from ledger.recorded(2, '{}')", "select ledger.changed(2, 'invoice', '7', 0)",
            f"select ledger.first_difference(2, '{{{known}}}', '{{null}}', '{{null}}', '{{null}}')",
            f"select * from ledger.differences(2, '{{{known}}}', '{{null}}', '{{null}}', '{{null}}')",
        ):  # fmt: skip
            with pytest.raises(FORBIDDEN, match="may not append to the ledger with the id 2"):
                writer.execute(refused)
        with pytest.raises(FORBIDDEN), writer.cursor().copy("copy ledger.audit_logs from stdin") as copy:
            [line] = admin.execute("select * from ledger.audit_logs where ledger_id = 2").fetchall()
            copy.write_row(
                (2, 2, uuid4(), *(json.dumps(each) if isinstance(each, dict) else each for each in line[3:]))
            )
        # Nor does it hold up the other ledger's writers, or learn of it.
        assert writer.execute("update ledger.tails set fence = fence + 1").rowcount == 1
        assert writer.execute("select ledger_id from ledger.tails").fetchall() == [(1,)]
        assert writer.execute("select name from ledger.ledgers").fetchall() == [("main",)]
    assert two.tail().position == 1


def test_granted_and_taken_back(two: Ledger, login: Logins) -> None:
    url = login()
    user, cli = user_of(url), Cli("--database-url", two.settings.database_url or "")
    append = ("append", "--actor", "a", "--action", "b")
    mine = Cli("--database-url", url)

    def appends_to() -> list[str]:
        return [name for name in ("main", "second") if mine("--ledger", name, *append).code == 0]

    assert appends_to() == []
    assert cli.well("grant", "ledger_writer", user, "--ledger", "second", "--json").json == {
        "granted": "ledger_writer", "user": user, "ledgers": ["second"],
    }  # fmt: skip
    assert appends_to() == ["second"]
    cli.well("grant", "ledger_writer", user, "--ledger", "main")
    assert appends_to() == ["main", "second"]
    cli.well("revoke", "ledger_writer", user, "--ledger", "second")
    assert appends_to() == ["main"]
    cli.well("revoke", "ledger_writer", user, "--ledger", "main")
    assert appends_to() == []
    for all_of_them in ((), ("--all-ledgers",)):
        cli.well("grant", "ledger_writer", user, *all_of_them)
        assert appends_to() == ["main", "second"]
        assert "appends to all ledgers" in cli("revoke", "ledger_writer", user, "--ledger", "main").error
        cli.well("revoke", "ledger_writer", user)
        assert appends_to() == []
    assert cli("grant", "ledger_writer", user, "--ledger", "main", "--all-ledgers").code == 2
    assert cli("grant", "ledger_writer", user, "--ledger", "third").code == 2


def test_the_role_that_is_taken_counts(two: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """As behind a pool; by a role that inherits nothing; and in a function of somebody else."""
    tenant = user_of(login("ledger_writer", ledgers=["main"]))
    reserved = login("ledger_writer", ledgers=["main"], attributes="noinherit")
    with psycopg.connect(two.settings.database_url or "", autocommit=True) as pooled:
        pooled.execute(f"set role {tenant}")
        pooled.execute(insert(admin, 1))
        with pytest.raises(FORBIDDEN):
            pooled.execute(insert(admin, 2))
        with pytest.raises(FORBIDDEN):
            pooled.execute("select * from ledger.recorded(2, '{}')")
    with psycopg.connect(reserved, autocommit=True) as connection:
        with pytest.raises(FORBIDDEN):
            connection.execute(insert(admin, 1))
        connection.execute("set role ledger_writer")
        connection.execute(insert(admin, 1))
        connection.execute("select * from ledger.recorded(1, '{}')")
        with pytest.raises(FORBIDDEN):
            connection.execute(insert(admin, 2))
    admin.execute("create function public.for_all(statement text) returns void language plpgsql security definer as"
                  " $$ begin execute statement; end $$")  # fmt: skip
    admin.execute(f"grant create on schema public to {tenant}; alter function public.for_all owner to {tenant}")
    everywhere = login("ledger_writer")
    with psycopg.connect(everywhere, autocommit=True) as connection:
        connection.execute("select public.for_all(%s)", (insert(admin, 1),))
        with pytest.raises(FORBIDDEN):  # the function's owner may not, whoever calls it
            connection.execute("select public.for_all(%s)", (insert(admin, 2),))
        connection.execute(insert(admin, 2))
    admin.execute(f"drop function public.for_all; revoke create on schema public from {tenant}")


def test_who_appended_before_goes_on(two: Ledger, admin: psycopg.Connection) -> None:
    """The migration takes members of the group as they are."""
    migration = next(each.sql for each in load_migrations() if each.file.endswith("_least_rights.sql"))
    [statement] = [part for part in migration.split(";\n") if "from pg_auth_members" in part]
    admin.execute("create role test_before")
    try:
        admin.execute("grant ledger_writer to test_before")
        with admin.transaction(force_rollback=True):
            admin.execute("delete from ledger.writers")
            admin.execute(statement.encode())
            found = admin.execute("select role::text from ledger.writers where ledger_id is null").fetchall()
            assert {"test_before", "ledger_owner"} <= {role for (role,) in found}
    finally:
        admin.execute("drop role test_before")


# ------------------------------------------------------------------------------------------------------------- guesses


def test_guesses_cost_what_appends_do(two: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """One body that differs is told of a time, and not where; each takes 5 ms, with the ledger's tail held."""
    [(known, right)] = admin.execute("select id, after::text from ledger.audit_logs where ledger_id = 2").fetchall()
    guesses = [f'{{"number":{number}}}' for number in range(10_000)]
    with psycopg.connect(login("ledger_writer"), autocommit=True) as writer:

        def ask(ids: list[object], afters: list[str], call: str = ASK) -> list[tuple[object, ...]]:
            nothing = [None] * len(ids)
            return writer.execute(call.format(2), (ids, nothing, afters, nothing)).fetchall()

        for call in (ASK, "select * from ledger.differences({}, %s, %s, %s, %s)"):
            with pytest.raises(psycopg.Error, match="stands for more than one body: each is compared once") as refused:
                ask([known] * len(guesses), guesses, call)
            assert refused.value.sqlstate == "LE002"
        assert ask([known], [right]) == [(None,)]
        assert ask([known, known], [right, right]) == [(None,)]
        began = time.monotonic()
        for guess in guesses[2:22]:
            assert ask([known], [guess]) == [(1,)]
        assert time.monotonic() - began >= 20 * 0.005
        began = time.monotonic()
        writer.execute(
            "select ledger.first_difference(2, array[%s::uuid], array[null], array[guess], array[null])"
            " from unnest(%s::text[]) as guess", (known, guesses[2:42]),
        )  # fmt: skip
        assert time.monotonic() - began >= 40 * 0.005
        with psycopg.connect(two.settings.database_url or "") as other:
            other.execute("update ledger.tails set fence = fence + 1 where ledger_id = 2")
            writer.execute("set lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                ask([known], [right])


def test_of_a_batch_each_repeat_has_its_outcome(ledger: Ledger) -> None:
    """Conflicts among repeats, twice in one batch too, with the first receipt for what says the same."""
    said = [event(number, idempotency_key=str(number)) for number in range(6)]
    first = [ledger.append(each) for each in said]
    other = [event(100 + number, idempotency_key=str(number)) for number in range(6)]
    for batch in (
        [said[0], other[1], said[2]], [said[0], other[0]], [other[3], said[3], other[3]], [other[5], other[4]],
    ):  # fmt: skip
        for each in batch:
            place = int(each.idempotency_key or "")
            if each in said:
                assert ledger.append(each) == first[place]
            else:
                with pytest.raises(IdempotencyConflict, match=f"position {place + 1} with another body"):
                    ledger.append(each)
        with pytest.raises(IdempotencyConflict, match="another body"):
            ledger.append_many(batch)
    ledger.append_many([*said, *said, event(6)])
    assert numbers(checked(ledger)) == list(range(7))


def test_a_batch_that_was_recorded_is_repeated_quickly(ledger: Ledger) -> None:
    said = [Event("a", "b", after={"number": number}, idempotency_key=str(number)) for number in range(10_000)]
    began = time.monotonic()
    ledger.append_many(said)
    recorded = time.monotonic()
    ledger.append_many(said)
    repeated = time.monotonic()
    assert ledger.tail().position == 10_000
    assert repeated - recorded < 3 * (recorded - began) + 1


def test_other_roles_have_no_say(ledger: Ledger, login: Logins) -> None:
    for role in ("ledger_projector", "ledger_eraser", "ledger_admin"):
        with pytest.raises(UsageError, match="only ledger_recorder, ledger_reader, ledger_writer are granted"):
            drive(grant(role, user_of(login()), ["main"]), lambda: None)  # type: ignore[arg-type,return-value]
