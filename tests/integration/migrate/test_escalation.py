"""A role that may create objects cannot make the owner, superusers or readers run its code.

Each attack is a login with ledger_projector and no more; its code notes as whom it ran, and tries to make the login a
superuser and a member of ledger_owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from ledger_projections import Timeline, activity, history, search, state

from ledger import Ledger, LedgerError
from ledger.migrate import migrate
from ledger.projection.rebuild import rebuild
from tests.support.logins import Logins, user_of
from tests.support.views import BUILT_IN, projector, some_events

VIEWS = tuple(view.name for view in BUILT_IN)
READS: dict[str, Callable[[Ledger], object]] = {
    "timeline": lambda ledger: ledger.run(search(ledger.ref)),
    "words": lambda ledger: ledger.run(search(ledger.ref, text="curl")),
    "resource_state": lambda ledger: ledger.run(state(ledger.ref, "invoice", "inv_1")),
    "resource_history": lambda ledger: ledger.run(history(ledger.ref, "invoice", "inv_1")),
    "actor_activity": lambda ledger: ledger.run(activity(ledger.ref)),
}
MARK = 471147
"""The attack takes this lock for its session, which it can in a transaction that is read only too."""
MATCHES = "select ledger.timeline_matches(1, 'curl', null, null, null, null, null, null, null, null, null, null, 9)"


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    ledger.append_many(some_events(20))
    migrate.migrate(ledger.settings)
    with projector(ledger) as running:
        running.install()
        running.catch_up()
    return ledger


@pytest.fixture
def attacker(full: Ledger, login: Logins, admin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """Works as the group, so that what it makes belongs to that, and outlives the login's own rights."""
    url = login("ledger_projector")
    admin.execute("create schema attack")
    admin.execute("grant all on schema attack to ledger_projector")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set role ledger_projector")
        connection.execute("create table attack.ran (who text, login text, at timestamptz default now())")
        connection.execute("grant all on attack.ran to public")
        connection.execute("grant usage on schema attack to public")
        for suffix, kind in (("", "volatile"), ("_said", "immutable")):
            connection.execute(
                f"""
                create function attack.run{suffix}() returns boolean language plpgsql {kind} as $$
                begin
                    if current_user not in ('{user_of(url)}', 'ledger_projector') then
                        perform pg_advisory_lock({MARK});
                    end if;
                    insert into attack.ran values (current_user, session_user);
                    begin
                        perform set_config('role', 'none', false);
                        execute 'alter role {user_of(url)} superuser';
                        execute 'grant ledger_owner to {user_of(url)}';
                    exception when others then null;
                    end;
                    return true;
                exception when others then return true;
                end
                $$
                """
            )
        connection.execute(
            "create function attack.trigger() returns trigger language plpgsql as"
            " $$ begin perform attack.run(); return new; end $$"
        )
        yield connection
    admin.execute("drop schema attack cascade")


def unharmed(admin: psycopg.Connection, attacker: psycopg.Connection) -> None:
    """Whoever ran the attacker's code was the attacker itself, or its group where it was called for a reader."""
    name = attacker.info.user
    [(is_superuser,)] = admin.execute("select rolsuper from pg_roles where rolname = %s", (name,)).fetchall()
    assert not is_superuser
    [(is_owner,)] = admin.execute("select pg_has_role(%s, 'ledger_owner', 'member')", (name,)).fetchall()
    assert not is_owner
    assert admin.execute(f"select from pg_locks where locktype = 'advisory' and objid = {MARK}").rowcount == 0
    ran = admin.execute("select who from attack.ran").fetchall()
    assert {who for (who,) in ran} <= {name, "ledger_projector"}, ran


VIEW = """
alter table ledger_views.{0} rename to {0}_kept;
create view ledger_views.{0} as select * from ledger_views.{0}_kept where attack.run();
grant select on ledger_views.{0} to public;
"""
TRAPS = {
    "a view": VIEW,
    "a view of a column": VIEW.replace("where attack.run()", "")
    .replace("select *", "select *, attack.run() as more"),
    "a materialized view": VIEW.replace("create view", "create materialized view"),
    "a policy": "drop policy readable on ledger_views.{0};"
    "create policy readable on ledger_views.{0} for select using (attack.run());",
    "a second policy": "create policy more on ledger_views.{0} using (attack.run());",
    "a policy of a view": "create view attack.ledgers as select 1 as ledger_id where attack.run();"
    "grant select on attack.ledgers to public;"
    "create policy more on ledger_views.{0} using (ledger_id in (select ledger_id from attack.ledgers));",
    "an index": "create index evil on ledger_views.{0} (ledger_id) where attack.run_said();",
    "a rule": "create rule evil as on insert to ledger_views.{0} do also select attack.run();",
    "a trigger": "create trigger evil before insert or update on ledger_views.{0} for each row"
    " execute function attack.trigger();",
    "a statement trigger": "create trigger evil after insert or update on ledger_views.{0}"
    " execute function attack.trigger();",
    "a default": "alter table ledger_views.{0} add column evil boolean default attack.run();",
    "a default of Postgres' own": "alter table ledger_views.{0} add column evil tsquery default"
    " ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery where attack.run()');",
    "a constraint": "alter table ledger_views.{0} add constraint evil check (attack.run()) not valid;",
    "a generated column": "alter table ledger_views.{0} add column evil boolean"
    " generated always as (attack.run_said()) stored;",
    "a domain": "create domain attack.number as int check (attack.run());"
    "alter table ledger_views.{0} add column evil attack.number default 1;",
    "a type with a cast": "create type attack.words as (word text);"
    "create function attack.cast(attack.words) returns text language plpgsql as"
    " $$ begin perform attack.run(); return ''; end $$;"
    "create cast (attack.words as text) with function attack.cast(attack.words) as implicit;"
    "alter table ledger_views.{0} add column evil attack.words default row('a');",
    "a child": "create table attack.{0}_child () inherits (ledger_views.{0});"
    "create index evil on attack.{0}_child (ledger_id) where attack.run_said();",
    "statistics": "create statistics ledger_views.evil on (attack.run_said()), ledger_id from ledger_views.{0};",
    "an operator": "create function ledger_views.same(int, smallint) returns boolean language plpgsql as"
    " $$ begin return attack.run(); end $$;"
    "create operator ledger_views.= (leftarg = int, rightarg = smallint, function = ledger_views.same);",
    "a function": "create function ledger_views.json_to_recordset(json) returns setof record language plpgsql as"
    " $$ begin perform attack.run(); end $$;",
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
def test_who_reads_views_runs_nothing_of_their_owners(
    full: Ledger, attacker: psycopg.Connection, admin: psycopg.Connection, login: Logins, trap: str
) -> None:
    for view in VIEWS:
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateFunction):
            attacker.execute(TRAPS[trap].format(view))
    attacker.execute("delete from attack.ran")
    with Ledger.open(database_url=login("ledger_reader")) as reader:
        for ledger in (full, reader):
            for read in READS.values():
                with suppress(LedgerError):
                    read(ledger)
                unharmed(admin, attacker)
    for url in (full.settings.database_url or "", login("ledger_reader")):
        with psycopg.connect(url, autocommit=True) as connection:
            with suppress(psycopg.Error):
                connection.execute(MATCHES)
            unharmed(admin, attacker)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_worker_that_is_a_superuser_runs_nothing_of_the_groups(
    full: Ledger, attacker: psycopg.Connection, admin: psycopg.Connection, trap: str
) -> None:
    attacker.execute(TRAPS[trap].format("timeline"))
    attacker.execute("delete from attack.ran")
    full.append_many(some_events(5))
    with suppress(LedgerError), projector(full) as running:
        running.install()
        running.catch_up()
    with suppress(LedgerError):
        rebuild(full.settings, Timeline())
    migrate.migrate(full.settings)
    unharmed(admin, attacker)


def test_what_a_projector_may_change_of_timeline_matches_opens_nothing(
    full: Ledger, attacker: psycopg.Connection, admin: psycopg.Connection, login: Logins
) -> None:
    """It belongs to the group, in a schema in which that may make nothing."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        attacker.execute("create or replace function ledger.timeline_matches(ledger_id int, words text, actor text,"
                         " action text, action_from text, action_to text, action_like text, resource_type text,"
                         " resource_id text, since timestamptz, until timestamptz, before bigint, most int)"
                         " returns setof bigint language sql as 'select 1::bigint'")  # fmt: skip
    attacker.execute(
        """
        create function ledger_views.same(int, int) returns boolean language plpgsql as
            $$ begin return attack.run(); end $$;
        create operator ledger_views.= (leftarg = int, rightarg = int, function = ledger_views.same);
        create function ledger_views.found(tsvector, tsquery) returns boolean language plpgsql as
            $$ begin return attack.run(); end $$;
        create operator ledger_views.@@ (leftarg = tsvector, rightarg = tsquery, function = ledger_views.found);
        alter function ledger.timeline_matches security invoker;
        alter function ledger.timeline_matches set search_path = ledger_views, pg_catalog;
        """
    )
    for trap in ("select 1", TRAPS["a view"].format("timeline")):
        attacker.execute(trap)
        for url in (full.settings.database_url or "", login("ledger_reader")):
            with Ledger.open(database_url=url) as ledger, suppress(LedgerError):
                ledger.run(search(ledger.ref, text="curl"))
            with psycopg.connect(url, autocommit=True) as connection, suppress(psycopg.Error):
                connection.execute(MATCHES)
    assert admin.execute("select from attack.ran").rowcount == 0
    unharmed(admin, attacker)


def test_no_schema_of_a_users_name(full: Ledger, attacker: psycopg.Connection, admin: psycopg.Connection) -> None:
    """It would come first in that user's search_path."""
    [(superuser,)] = admin.execute("select current_user").fetchall()
    for name in (str(superuser), "anything", "ledger_rebuild_mine"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            attacker.execute(f'create schema "{name}"')
    for name in ("x; drop schema ledger", 'x" authorization ledger_owner; --', "X", "", "x-y"):
        with pytest.raises(psycopg.Error):
            attacker.execute("select ledger.begin_rebuild(%s)", (name,))
    attacker.execute("select ledger.begin_rebuild('mine')")
    attacker.execute("create table ledger_rebuild_mine.t ()")
    attacker.execute("select ledger.drop_rebuild('mine')")


# ---------------------------------------------------------------------------------------- what the definers refer to


def test_definers_are_closed_and_touch_only_their_owners(admin: psycopg.Connection) -> None:
    """All of schema ledger: path fixed, not for everybody, and owner's relations only, by the names in their source."""
    functions = admin.execute(
        """
        select proname, pg_get_userbyid(proowner), prosecdef, prosrc, coalesce(proconfig, '{}'),
            has_function_privilege('public', oid, 'execute')
        from pg_proc where pronamespace = 'ledger'::regnamespace
        """
    ).fetchall()
    definers = [each for each in functions if each[2]]
    assert len(definers) >= 20
    owners: dict[str, str] = dict(
        admin.execute(
            "select relname, pg_get_userbyid(relowner) from pg_class where relnamespace = 'ledger'::regnamespace"
            " union all select proname, pg_get_userbyid(proowner) from pg_proc"
            " where pronamespace = 'ledger'::regnamespace"
        ).fetchall()
    )
    for name, owner, definer, source, config, public in functions:
        assert "search_path=pg_catalog, pg_temp" in config, name
        assert not public, name
        assert owner == ("ledger_projector" if name == "timeline_matches" else "ledger_owner"), name
        if not definer or owner != "ledger_owner":
            continue
        code = re.sub(r"--[^\n]*", "", source)
        assert "ledger_views" not in code, name
        for used in re.findall(r"\bledger\.(\w+)", re.sub(r"'[^']*'", "''", code)):
            assert owners.get(used, "ledger_owner") == "ledger_owner", (name, used)
        if "ledger_rebuild_" in code:  # they make and drop the schema itself, and look at nothing in it
            assert name in ("left_rebuilds", "drop_rebuild", "begin_rebuild", "clear_rebuilds")
    views = admin.execute(
        """
        select distinct rewrite.ev_class::regclass::text, pg_get_userbyid(used.relowner)
        from pg_depend as depend
        join pg_rewrite as rewrite on depend.classid = 'pg_rewrite'::regclass and depend.objid = rewrite.oid
        join pg_class as class on class.oid = rewrite.ev_class and class.relnamespace = 'ledger'::regnamespace
        join pg_class as used on depend.refclassid = 'pg_class'::regclass and depend.refobjid = used.oid
        """
    ).fetchall()
    assert views and {owner for _, owner in views} == {"ledger_owner"}
    triggers = admin.execute(
        "select tgrelid::regclass::text, proname, pg_get_userbyid(proowner) from pg_trigger join pg_proc as p"
        " on p.oid = tgfoid join pg_class as c on c.oid = tgrelid"
        " where relnamespace = 'ledger'::regnamespace and not tgisinternal"
    ).fetchall()
    assert triggers and {owner for *_, owner in triggers} == {"ledger_owner"}
