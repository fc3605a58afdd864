"""Each part works under its own role, with its own login."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger_projections import activity, history, search, state

from ledger import Event, Ledger, Unchanged
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.errors import ConditionFailed, IdempotencyConflict, UnknownLedger, UsageError
from ledger.export.check import verify_bundle
from ledger.migrate.migrate import migrate
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.store.ledgers import SQL as READ
from ledger.store.ledgers import create_ledger
from ledger.store.stored_rows import SQL as VERIFY
from ledger.stream.relay import Relay, open_epoch
from ledger.verify import database
from tests.support.cli import Cli
from tests.support.helpers import checked, event, events, numbers
from tests.support.logins import Logins, user_of
from tests.support.signed_checkpoints import TRIGGERS
from tests.support.views import leftovers, project, some_events

SECRET = "a-secret-of-the-second-ledger"


@pytest.fixture
def two(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> Ledger:
    """Ledgers `main` and `second` with views made by a projector; only second's entries hold SECRET."""
    drive(create_ledger("second"), admin)
    url = ledger.settings.database_url or ""
    ledger.append_many(some_events(30))
    with Ledger.open(database_url=url, name="second") as second:
        said = Event(SECRET, SECRET, SECRET, SECRET, SECRET, after={SECRET: SECRET})
        second.append_many([said, *some_events(10), Event("a", "b", metadata={SECRET: SECRET})])
    projector = Ledger.open(database_url=login("ledger_projector"))
    project(projector)
    projector.close()
    return ledger


def test_the_whole_way_of_an_entry(ledger: Ledger, admin: psycopg.Connection, login: Logins, tmp_path: Path) -> None:
    """Written, published, projected, read, followed, erased, rebuilt, verified and exported, by five logins."""
    redis_url = ledger.settings.redis_url or ""
    writing = Ledger.open(database_url=login("ledger_writer"))
    reading = Ledger.open(database_url=login("ledger_reader", ledgers=["main"]), redis_url=redis_url)
    erasing = Ledger.open(database_url=login("ledger_eraser"))
    working = Connector(Settings(database_url=login("ledger_projector"), redis_url=redis_url))
    with writing, reading, erasing:
        writing.append_many(some_events(25))
        relay, projector = Relay(working), Projector(working, find_projections())
        projector.install()
        assert relay.publish() == 25
        relay.trim()
        assert projector.catch_up() == 25 and not projector.failed
        assert [entry.position for entry in reading.follow(0, idle=0.2)] == list(range(1, 26))
        assert len(reading.run(search(reading.ref, text="curl"))[0]) == 25

        erasing.hold(("invoice", "inv_1"), "user:1", "a lawsuit")
        with pytest.raises(UsageError):
            erasing.erase(2, "user:1", "asked to")
        erasing.release(("invoice", "inv_1"), "user:1", "it is over")
        assert erasing.erase(2, "user:1", "asked to").position == 28
        relay.publish()
        projector.catch_up()
        projector.close()
        with pytest.raises(UsageError, match="run 'auditledger migrate' as the database's owner"):
            rebuild(working.settings, find_projections()[0])  # in a copy of a database, as the tests' is
        migrate(ledger.settings)
        for view in find_projections():
            rebuild(working.settings, view)
        assert leftovers(admin) == 0
        working.close()

        assert len(checked(reading)) == 28
        assert reading.verify().findings == []
        manifest = database.verify(working.settings)
        assert manifest.ok and manifest.last == 28
        assert admin.execute("select count(*) from ledger.verifications").fetchall() == [(1,)]
        Cli("--database-url", reading.settings.database_url or "").well("export", str(tmp_path / "bundle"))
        assert verify_bundle(tmp_path / "bundle").ok
    owners = admin.execute(
        "select distinct tableowner from pg_tables where schemaname in ('ledger', 'ledger_views') order by 1"
    ).fetchall()
    assert owners == [("ledger_owner",), ("ledger_projector",)]


def test_a_writer_alone_appends_in_every_way(ledger: Ledger, login: Logins) -> None:
    """It may not read what it has written, and needs not to, to tell a repeat from a conflict."""
    with Ledger.open(database_url=login("ledger_writer")) as writing:
        first = writing.append(event(0, idempotency_key="a", resource_type="invoice", resource_id="7"))
        assert writing.append(event(0, idempotency_key="a", resource_type="invoice", resource_id="7")) == first
        assert writing.append_many(events(2000, 1)).count == 2000
        for changed, named in (
            ({"actor": "user:1"}, "another actor"), ({"after": {"number": 1}}, "another body"),
            ({"before": 0}, "another body"), ({"metadata": {}}, "another body"),
        ):  # fmt: skip
            repeated: Any = {"idempotency_key": "a", "resource_type": "invoice", "resource_id": "7"} | changed
            with pytest.raises(IdempotencyConflict, match=f"at position 1 with {named}"):
                writing.append(event(0, **repeated))
        with pytest.raises(ConditionFailed, match="changed at position 1"):
            writing.append(event(1), expect=Unchanged("invoice", "7", 0))
        writing.append(event(2001), expect=Unchanged("invoice", "7", 1))
        with psycopg.connect(writing.settings.database_url or "") as connection:
            writing.append(event(2002), connection=connection)
            writing.append_many(events(3, 2003), connection=connection)
        for refused in (lambda: list(writing.read()), writing.verify):
            with pytest.raises(UsageError, match="may not do that: permission denied"):
                refused()
        assert writing.tail().position == 2006
    assert numbers(checked(ledger)) == list(range(2006))


def test_an_admin_creates_ledgers_opens_epochs_and_grants(ledger: Ledger, login: Logins) -> None:
    cli = Cli("--database-url", login("ledger_admin"))
    assert cli.well("create", "second", "--json").json == {"ledger": "second", "created": True}
    servers = Connector(Settings(database_url=login("ledger_admin")))
    assert servers.run(open_epoch(ledger.ref)) == 2
    servers.close()
    url = login()
    for grant, allowed in (("ledger_writer", ["tail"]), ("ledger_reader", ["read"])):
        more = ["--all-ledgers"] if grant == "ledger_reader" else []
        cli.well("grant", grant, user_of(url), *more)
        with Ledger.open(database_url=url) as granted:
            for call in allowed:
                list(granted.read()) if call == "read" else granted.append(event())
    with pytest.raises(UsageError, match="permission denied"), Ledger.open(database_url=login("ledger_admin")) as admin:
        admin.append(event())


def test_a_reader_of_one_ledger_reads_that_one(two: Ledger, login: Logins, tmp_path: Path) -> None:
    url = login("ledger_reader", ledgers=["main"])
    with Ledger.open(database_url=url) as main, Ledger.open(database_url=url, name="second") as second:
        assert len(checked(main)) == 30
        assert main.verify(workers=2).findings == []
        filters: Any
        for filters in ({}, {"text": "curl"}, {"action": "invoice.*"}):
            assert len(main.run(search(main.ref, **filters)).entries) == 30
        assert main.run(state(main.ref, "invoice", "inv_1")) is not None
        assert main.run(history(main.ref, "invoice", "inv_1"))
        assert main.run(activity(main.ref))
        with pytest.raises(UnknownLedger, match="no ledger 'second'"):
            second.tail()
        foreign = (2, "second")
        assert main.run(search(foreign)).entries == main.run(search(foreign, text=SECRET)).entries == []
        assert main.run(state(foreign, SECRET, SECRET)) is None
        assert main.run(activity(foreign)) == []
    cli = Cli("--database-url", url)
    assert [each["ledger"] for each in cli.well("status", "--json").json["ledgers"]] == ["main"]
    assert SECRET not in cli.well("status").out + cli.well("tail").out + cli.well("query").out
    cli.well("export", str(tmp_path / "bundle"))
    assert cli("--ledger", "second", "tail").code == 2


def test_no_table_and_no_trick_shows_a_reader_another_ledger(
    two: Ledger, admin: psycopg.Connection, login: Logins
) -> None:
    """Not a condition that talks of the rows that it is asked about, before they are filtered."""
    found = admin.execute(
        "select format('%I.%I', relnamespace::regnamespace, relname) from pg_attribute join pg_class as c"
        " on c.oid = attrelid"
        " where relnamespace in ('ledger'::regnamespace, 'ledger_views'::regnamespace) and attname = 'ledger_id'"
        " and relkind in ('r', 'p', 'v')"
    ).fetchall()
    readable = 0
    heard: list[str] = []
    with psycopg.connect(login("ledger_reader", ledgers=["main"]), autocommit=True) as reader:
        reader.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        reader.execute(
            "create function pg_temp.tells(anyelement) returns boolean language plpgsql cost 0.0000001 as"
            " $$ begin raise notice '%', $1; return true; end $$"
        )
        for (name,) in found:
            try:
                ids = reader.execute(f"select distinct ledger_id from {name} as t where pg_temp.tells(t)").fetchall()
            except psycopg.errors.InsufficientPrivilege:
                continue
            readable += 1
            assert [each for each in ids if each != (1,)] == [], name
            assert reader.execute(f"select from {name} where ledger_id = 2 and pg_temp.tells(ledger_id)").rowcount == 0
        matches = (
            "select ledger.timeline_matches({}, %s, null, null, null, null, null, null, null, null, null, null, 9)"
        )
        assert reader.execute(matches.format(1), ("curl",)).rowcount == 9
        assert reader.execute(matches.format(2), (SECRET.replace("-", " "),)).rowcount == 0
        assert reader.execute("select name from ledger.readable").fetchall() == [("main",)]
    assert readable >= 11 and heard and not [each for each in heard if SECRET in each]


def test_a_role_that_is_taken_by_set_role_counts_and_not_the_login(two: Ledger, login: Logins) -> None:
    """As behind a pool that logs in once and takes each tenant's role."""
    tenant = user_of(login("ledger_reader", ledgers=["main"]))
    matches = "select ledger.timeline_matches({}, %s, null, null, null, null, null, null, null, null, null, null, 9)"
    with psycopg.connect(two.settings.database_url or "", autocommit=True) as pooled:
        assert pooled.execute(matches.format(2), (SECRET.replace("-", " "),)).rowcount > 0
        pooled.execute(f"set role {tenant}")
        assert pooled.execute(matches.format(2), (SECRET.replace("-", " "),)).rowcount == 0
        assert pooled.execute("select distinct ledger_id from ledger.entries").fetchall() == [(1,)]
        assert pooled.execute("select distinct ledger_id from ledger_views.timeline").fetchall() == [(1,)]


def test_granted_ledger_by_ledger_and_taken_back(two: Ledger, login: Logins) -> None:
    url = login()
    user, cli, reader = user_of(url), Cli("--database-url", two.settings.database_url or ""), Cli("--database-url", url)
    assert reader("tail").code == 2 and "'auditledger grant'" in reader("tail").error

    def readable() -> list[str]:
        with psycopg.connect(url) as connection:
            return [name for (name,) in connection.execute("select name from ledger.readable order by 1")]

    assert cli("grant", "ledger_reader", user).code == 2
    assert cli.well("grant", "ledger_reader", user, "--ledger", "main", "--json").json == {
        "granted": "ledger_reader", "user": user, "ledgers": ["main"],
    }  # fmt: skip
    assert readable() == ["main"]
    cli.well("grant", "ledger_reader", user, "--ledger", "second", "--ledger", "main")
    assert readable() == ["main", "second"]
    cli.well("revoke", "ledger_reader", user, "--ledger", "main")
    assert readable() == ["second"]
    cli.well("revoke", "ledger_reader", user, "--ledger", "second")
    assert reader("tail").code == 2
    cli.well("grant", "ledger_reader", user, "--all-ledgers")
    cli.well("create", "third")
    assert readable() == ["main", "second", "third"]
    assert "reads all ledgers" in cli("revoke", "ledger_reader", user, "--ledger", "main").error
    cli.well("revoke", "ledger_reader", user)
    assert reader("tail").code == 2
    for wrong in (
        ("grant", "ledger_owner", user), ("grant", "ledger_projector", user, "--ledger", "main"),
        ("grant", "ledger_writer", "nobody-of-that-name"), ("grant", "ledger_writer", "ledger_admin"),
        ("grant", "ledger_reader", user, "--ledger", "fourth"), ("revoke", "ledger_writer", "ledger_owner"),
    ):  # fmt: skip
        assert cli(*wrong).code == 2, wrong


def test_what_somebody_else_granted_is_not_taken_back_silently(
    ledger: Ledger, admin: psycopg.Connection, login: Logins
) -> None:
    if admin.info.server_version < 160000:
        pytest.skip("before 16 Postgres does not keep apart who granted a role")
    url = login()
    admin.execute(f"grant ledger_writer to {user_of(url)}")
    ran = Cli("--database-url", ledger.settings.database_url or "")("revoke", "ledger_writer", user_of(url))
    assert ran.code == 2 and "by the grant of somebody else" in ran.error


def test_a_view_made_by_hand_is_not_open_to_readers(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """What is not made through install has no rights for readers at all."""
    project(ledger)
    admin.execute("create table ledger_views.by_hand (ledger_id int)")
    with psycopg.connect(login("ledger_reader"), autocommit=True) as reader:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("select from ledger_views.by_hand")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("create table ledger_views.mine ()")


ENTRIES = [
    (READ["read"].replace("%s", "{}").format(1, 500, 600, 100), "one_entry_per_position"),
    (VERIFY["records"].replace("{}", "ledger.entries").replace("%s", "{}").format(1, 1, 500), "one_entry_per_position"),
    ("select from ledger.entries where ledger_id = 1 and position > 7 limit 1", "one_entry_per_position"),
    ("select from ledger.entries where ledger_id = 1 and position = any (array(select 7))", "one_entry_per_position"),
    ("select from ledger.entries where ledger_id = 1 and actor = 'user:3'", "audit_logs_by_actor"),
    (
        "select from ledger.entries where ledger_id = 1 and resource_type = 'invoice' and resource_id = 'inv_3'",
        "audit_logs_by_resource",
    ),
    ("select from ledger.entries where ledger_id = 1 and recorded_at < '2020-01-01'", "audit_logs_by_time"),
    (
        "select from ledger.entries where ledger_id = 1 and id = '01a20528-a832-7127-a62b-771910cf7d3c'",
        "one_entry_per_id",
    ),
    ("select from ledger.envelopes where ledger_id = 1 and position = 7", "one_entry_per_position"),
]


def test_a_reader_uses_the_same_indexes(two: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """Through the view and its barrier."""
    two.append_many(some_events(5000, 30))
    two.append_many(Event(f"user:{number}", "a", "invoice", f"other_{number}") for number in range(5000))
    admin.execute("vacuum analyze ledger.audit_logs")
    with psycopg.connect(login("ledger_reader", ledgers=["main"]), autocommit=True) as reader:
        for query, index in ENTRIES:
            plan = "\n".join(line for (line,) in reader.execute(f"explain {query}".encode()))
            assert index in plan and "Seq Scan on audit_logs" not in plan, plan


def test_a_hole_in_a_forged_ledger_is_read_over(two: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """By a reader as by a superuser: what is missing is for verify to say."""
    admin.execute("alter table ledger.audit_logs disable trigger user")
    admin.execute("update ledger.audit_logs set position = position + 30000 where ledger_id = 1 and position > 20")
    for trigger in TRIGGERS["audit_logs"]:
        admin.execute(f"alter table ledger.audit_logs enable always trigger {trigger}")
    expected = [*range(1, 21), *range(30021, 30031)]
    with Ledger.open(database_url=login("ledger_reader", ledgers=["main"])) as reader:
        for ledger in (two, reader):
            assert [entry.position for entry in ledger.read()] == expected
            assert [entry.position for entry in ledger.read(15, 8)] == expected[15:23]
        assert reader.verify().findings == two.verify().findings != []
