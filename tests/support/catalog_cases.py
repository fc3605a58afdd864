"""What owners and superusers do to the catalog, and the object that a finding must name.

`{user}` is a login without roles.
"""

from __future__ import annotations

_NOTHING = "create function public.nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
_EVENT = "create function public.event() returns event_trigger language plpgsql as $$ begin {} end $$;"
_ENTRIES = (
    "select entry.ledger_id, entry.position, entry.id, entry.recorded_at, entry.occurred_at, entry.actor,"
    " entry.actor_type, entry.action, entry.resource_type, entry.resource_id, entry.before, entry.after,"
    " entry.metadata, entry.salt, entry.body_hash, entry.prev_hash, entry.hash from ledger.audit_logs as entry"
)

OF_THE_SCHEMA = [
    # Triggers and rules.
    ("drop trigger move_tail on ledger.audit_logs", "trigger move_tail on ledger.audit_logs is missing"),
    ("alter table ledger.audit_logs disable trigger append_only", "trigger append_only on ledger.audit_logs"),
    ("alter table ledger.ledgers disable trigger all", "trigger append_only on ledger.ledgers"),
    ("alter table ledger.tails enable trigger moved_by_entries", "trigger moved_by_entries on ledger.tails"),
    ("alter table ledger.tails enable replica trigger append_only", "trigger append_only on ledger.tails"),
    ("alter table ledger.tiles disable trigger grow_only", "trigger grow_only on ledger.tiles"),
    (
        f"{_NOTHING} drop trigger append_only on ledger.audit_logs;"
        "create trigger append_only before update or delete or truncate on ledger.audit_logs"
        " for each statement execute function public.nothing();"
        "alter table ledger.audit_logs enable always trigger append_only",
        "definition is …CH STATEMENT EXECUTE FUNCTION public.nothing(), not",
    ),
    (
        "drop trigger moved_by_entries on ledger.tails;"
        "create trigger moved_by_entries before update of position on ledger.tails"
        " for each row when (pg_trigger_depth() = 0) execute function ledger.refuse_change();"
        "alter table ledger.tails enable always trigger moved_by_entries",
        "trigger moved_by_entries on ledger.tails is not the one of the schema: definition is …",
    ),
    (
        f"{_NOTHING} create trigger swallow before insert on ledger.audit_logs"
        " for each row execute function public.nothing()",
        "trigger swallow on ledger.audit_logs is not of the schema",
    ),
    (
        f"{_NOTHING} create trigger copy after insert on ledger.projections execute function public.nothing()",
        "trigger copy on ledger.projections is not of the schema",
    ),
    (
        f"{_NOTHING} create trigger instead instead of insert on ledger.entries"
        " for each row execute function public.nothing()",
        "trigger instead on ledger.entries is not of the schema",
    ),
    ("alter trigger append_only on ledger.tails rename to kept", "trigger append_only on ledger.tails is missing"),
    ("create rule quiet as on delete to ledger.audit_logs do instead nothing", "rule quiet on ledger.audit_logs"),
    ("create rule also as on insert to ledger.tails do also notify x", "rule also on ledger.tails"),
    # Tables and columns.
    ("alter table ledger.tails set unlogged", "persistence is UNLOGGED"),
    ("drop table ledger.tiles", "table ledger.tiles is missing"),
    ("alter table ledger.holds rename to kept", "table ledger.holds is missing"),
    ("create table ledger.more ()", "table ledger.more is not of the schema"),
    ("create sequence ledger.more", "sequence ledger.more is not of the schema"),
    ("create table public.more () inherits (ledger.audit_logs)", "table public.more depends on ledger.audit_logs"),
    (
        "create table public.parent (ledger_id int not null); alter table ledger.tails inherit public.parent",
        "table ledger.tails is not the one of the schema: parents is public.parent",
    ),
    ("alter table ledger.audit_logs replica identity nothing", "table ledger.audit_logs is not the one"),
    ("alter table ledger.tails alter fence set default 7", "column ledger.tails.fence is not the one of the schema"),
    ("alter table ledger.tails alter hash drop default", "column ledger.tails.hash is not the one of the schema"),
    ("alter table ledger.audit_logs alter actor drop not null", "column ledger.audit_logs.actor is not the one"),
    ("alter table ledger.audit_logs add more text default 'x'", "column ledger.audit_logs.more is not of the schema"),
    ("alter table ledger.verifications drop head", "column ledger.verifications.head is missing"),
    (
        'alter table ledger.migrations alter sha256 type text collate "C"',
        "column ledger.migrations.sha256 is not the one",
    ),
    (
        "alter table ledger.verifications alter findings type bigint",
        "column ledger.verifications.findings is not the one",
    ),
    ("alter table ledger.tiles alter hashes set storage extended", "column ledger.tiles.hashes is not the one"),
    ("alter table ledger.ledgers alter ledger_id set generated by default", "column ledger.ledgers.ledger_id"),
    ("alter sequence ledger.ledgers_ledger_id_seq maxvalue 3 cycle", "sequence ledger.ledgers_ledger_id_seq"),
    *(
        (
            f"update pg_class set {flag} where oid = 'ledger.audit_logs'::regclass",
            f"table ledger.audit_logs is not the one of the schema: ignored is {what}",
        )
        for flag, what in {
            "relhastriggers = false": "triggers",
            "relhasindex = false": "indexes",
            "relchecks = 0": "checks",
        }.items()
    ),
    ("update pg_trigger set tgtype = 4 where tgname = 'append_only'", "trigger append_only on ledger.tails is not the"),
    (
        "update pg_proc set prosrc = 'begin return null; end' where proname = 'move_tail'",
        "ledger.move_tail() is not the",
    ),
    # Constraints and indexes.
    (
        "alter table ledger.audit_logs drop constraint one_entry_per_id",
        "constraint one_entry_per_id on ledger.audit_logs",
    ),
    ("alter table ledger.tiles drop constraint tiles_pkey", "constraint tiles_pkey on ledger.tiles is missing"),
    (
        "alter table ledger.audit_logs drop constraint entry_format, add constraint entry_format check (position > 0)",
        "constraint entry_format on ledger.audit_logs is not the one of the schema: definition is CHECK",
    ),
    (
        "alter table ledger.skips drop constraint skip_order,"
        " add constraint skip_order check (skipped > position and retried > skipped) not valid",
        "constraint skip_order on ledger.skips is not validated",
    ),
    (
        "alter table ledger.audit_logs drop constraint one_entry_per_id,"
        " add constraint one_entry_per_id unique (ledger_id, id) deferrable initially deferred",
        "constraint one_entry_per_id on ledger.audit_logs is not the one of the schema",
    ),
    ("alter table ledger.tails add constraint more check (position < 9)", "constraint more on ledger.tails is not of"),
    (
        "update pg_index set indisvalid = false where indexrelid = 'ledger.one_entry_per_position'::regclass",
        "index ledger.one_entry_per_position is not valid",
    ),
    (
        "update pg_index set indisready = false where indexrelid = 'ledger.one_entry_per_id'::regclass",
        "index ledger.one_entry_per_id is not ready",
    ),
    (
        "update pg_index set indislive = false where indexrelid = 'ledger.audit_logs_by_time'::regclass",
        "index ledger.audit_logs_by_time is not live",
    ),
    (
        "update pg_index set indisunique = false where indexrelid = 'ledger.one_hold_per_resource'::regclass",
        "index ledger.one_hold_per_resource is not the one of the schema: definition is",
    ),
    (
        "update pg_constraint set convalidated = false where conname = 'entry_format'",
        "constraint entry_format on ledger.audit_logs is not validated",
    ),
    ("drop index ledger.audit_logs_by_actor", "index ledger.audit_logs_by_actor is missing"),
    ("create index more on ledger.audit_logs ((lower(actor)))", "index ledger.more is not of the schema"),
    # Functions.
    (
        "create or replace function ledger.refuse_change() returns trigger language plpgsql"
        " set search_path = pg_catalog, pg_temp as $$ begin return null; end $$",
        "function ledger.refuse_change() is not the one of the schema: its body differs",
    ),
    ("alter function ledger.move_tail() security invoker", "function ledger.move_tail() is not the one of the schema"),
    ("alter function ledger.swap_in security definer", "function ledger.swap_in(text,text[]) is not the one"),
    ("alter function ledger.refuse_change() reset search_path", "function ledger.refuse_change() is not the one"),
    ("alter function ledger.move_tail() set search_path = public", "function ledger.move_tail() is not the one"),
    ("alter function ledger.move_tail() reset lock_timeout", "function ledger.move_tail() is not the one"),
    ("alter function ledger.grow_tile() immutable", "function ledger.grow_tile() is not the one"),
    ("alter function ledger.changed leakproof", "function ledger.changed(integer,text,text,bigint) is not the one"),
    ("alter function ledger.changed strict", "function ledger.changed(integer,text,text,bigint) is not the one"),
    ("alter function ledger.changed parallel safe", "function ledger.changed(integer,text,text,bigint) is not the one"),
    ("alter function ledger.changed rename to altered", "function ledger.changed(integer,text,text,bigint) is missing"),
    ("drop function ledger.create_ledger", "function ledger.create_ledger(text) is missing"),
    ("drop function ledger.add_signatures cascade", "function ledger.add_signatures() is missing"),
    (
        "create function ledger.changed(int) returns int language sql return $1",
        "function ledger.changed(integer) is not of the schema",
    ),
    (
        "drop function ledger.create_ledger; create function ledger.create_ledger(ledger_name text) returns bigint"
        " language sql return 1",
        "function ledger.create_ledger(text) is not the one of the schema",
    ),
    ("create procedure ledger.more() language sql begin atomic select 1; end", "function ledger.more() is not of the"),
    ("create aggregate ledger.most(int) (sfunc = int4larger, stype = int)", "function ledger.most(integer) is not of"),
    # Views.
    ("alter view ledger.entries reset (security_barrier)", "view ledger.entries is not the one of the schema: options"),
    ("alter view ledger.entries set (security_invoker)", "view ledger.entries is not the one of the schema: options"),
    (f"create or replace view ledger.entries with (security_barrier) as {_ENTRIES}", "view ledger.entries is not"),
    (
        "create or replace view ledger.readable with (security_barrier) as select ledger_id, name from ledger.ledgers",
        "view ledger.readable is not the one of the schema",
    ),
    (
        "create or replace view ledger.readable with (security_barrier) as"
        " select ledger.ledger_id, ledger.name from ledger.ledgers as ledger where exists (select"
        " from ledger.readers as reader where (reader.ledger_id is null or ledger.ledger_id = ledger.ledger_id)"
        " and pg_has_role(reader.role::oid, 'usage'))",
        "view ledger.readable is not the one of the schema: definition is …",
    ),
    (
        "create table public.readers (like ledger.readers); create or replace view ledger.readable"
        " with (security_barrier) as select ledger.ledger_id, ledger.name from ledger.ledgers as ledger where exists"
        " (select from public.readers as reader where (reader.ledger_id is null or reader.ledger_id = ledger.ledger_id)"
        " and pg_has_role(reader.role::oid, 'usage'))",
        "view ledger.readable is not the one of the schema",
    ),
    ("create view ledger.more as select 1 as one", "view ledger.more is not of the schema"),
    ("drop view ledger.envelopes", "view ledger.envelopes is missing"),
    ("create materialized view ledger.more as select 1 as one", "materialized view ledger.more is not of the schema"),
    ("alter view ledger.readable alter name set default 'x'", "column ledger.readable.name is not the one of"),
    # Everything else that a schema can hold.
    ("create domain ledger.more as int check (value > 0)", "type ledger.more is not of the schema"),
    ("create type ledger.more as enum ('a')", "type ledger.more is not of the schema"),
    ("create type ledger.more as (a int)", "type ledger.more is not of the schema"),
    ("create operator ledger.=== (leftarg = int, rightarg = int, function = int4eq)", "operator ledger.===(integer,"),
    ("create collation ledger.more (locale = 'C')", "collation ledger.more is not of the schema"),
    ("create text search configuration ledger.more (copy = simple)", "text search configuration ledger.more is not"),
    ("create text search dictionary ledger.more (template = simple)", "text search dictionary ledger.more is not of"),
    (
        "create statistics ledger.more on actor, action from ledger.audit_logs",
        "statistics object ledger.more is not of",
    ),
    ("create conversion ledger.more for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8", "conversion ledger.more is not of"),
    ("create operator family ledger.more using btree", "operator family ledger.more USING btree is not of the schema"),
    # Owners and privileges.
    (
        "alter table ledger.tails owner to {user}",
        "table ledger.tails is not the one of the schema: owner is {user}, not",
    ),
    (
        "alter function ledger.changed owner to {user}",
        "function ledger.changed(integer,text,text,bigint) is not the one",
    ),
    ("alter schema ledger_views owner to {user}", "schema ledger_views is not the one of the schema: owner is {user}"),
    ("alter view ledger.envelopes owner to current_user", "view ledger.envelopes is not the one of the schema: owner"),
    ("grant select on ledger.audit_logs to {user}", "{user} has SELECT on table ledger.audit_logs: more than the"),
    ("grant select (before) on ledger.audit_logs to {user}", "{user} has SELECT (before) on table ledger.audit_logs"),
    ("grant trigger, references on ledger.audit_logs to {user}", "{user} has TRIGGER on table ledger.audit_logs"),
    ("grant select on ledger.entries to public", "everybody has SELECT on view ledger.entries: more than the schema"),
    (
        "grant update (position) on ledger.tails to ledger_writer",
        'ledger_writer has UPDATE ("position") on table ledger.',
    ),
    (
        "grant insert on ledger.audit_logs to ledger_writer with grant option",
        "ledger_writer has INSERT with grant option",
    ),
    ("grant usage on sequence ledger.ledgers_ledger_id_seq to {user}", "{user} has USAGE on sequence ledger.ledgers"),
    ("grant execute on function ledger.erase_entry to {user}", "{user} has EXECUTE on function ledger.erase_entry("),
    ("grant execute on function ledger.move_tail() to public", "everybody has EXECUTE on function ledger.move_tail()"),
    ("grant create on schema ledger to {user}", "{user} has CREATE on schema ledger: more than the schema grants"),
    ("grant usage on schema ledger to public", "everybody has USAGE on schema ledger: more than the schema grants"),
    (
        "revoke insert on ledger.audit_logs from ledger_writer",
        "ledger_writer does not have INSERT on table ledger.audit",
    ),
    (
        "alter default privileges for role ledger_owner grant select on tables to {user}",
        "default privileges new tables of ledger_owner is not of the schema",
    ),
    (
        "alter default privileges for role ledger_owner grant execute on functions to public",
        "default privileges new functions of ledger_owner is missing",
    ),
    (
        "alter default privileges in schema ledger grant select on tables to {user}",
        "in schema ledger is not of the schema",
    ),
    (
        "alter default privileges for role ledger_projector in schema ledger_views grant select on tables to {user}",
        "default privileges new tables of ledger_projector in schema ledger_views is not of the schema",
    ),
    # Row-level security.
    (
        "alter table ledger.tails disable row level security",
        "table ledger.tails is not the one of the schema: row-level",
    ),
    ("alter table ledger.tails force row level security", "table ledger.tails is not the one of the schema: row-level"),
    ("create policy more on ledger.tails using (true)", "policy more on ledger.tails is not of the schema"),
    ("drop policy readable on ledger.tails", "policy readable on ledger.tails is missing"),
    ("alter policy readable on ledger.tails to public", "policy readable on ledger.tails is not the one of the schema"),
    ("alter policy everything on ledger.tails with check (false)", "policy everything on ledger.tails is not the one"),
]

VIEWS = [
    ("grant insert on ledger_views.timeline to {user}", "{user} has INSERT on ledger_views.timeline: more than the"),
    ("grant update (actor) on ledger_views.timeline to {user}", "{user} has UPDATE (actor) on ledger_views.timeline"),
    ("grant select on ledger_views.timeline to {user} with grant option", "{user} has SELECT on ledger_views.timel"),
    ("alter table ledger_views.timeline owner to {user}", "table ledger_views.timeline belongs to {user}, not to"),
    ("alter table ledger_views.timeline disable row level security", "row-level security of ledger_views.timeline is"),
    ("create policy more on ledger_views.timeline using (true)", "policy more on ledger_views.timeline is not of the"),
    ("drop policy readable on ledger_views.timeline", "policy readable on ledger_views.timeline is missing"),
    ("alter policy readable on ledger_views.timeline using (true)", "policy readable on ledger_views.timeline is not"),
    ("alter table ledger_views.timeline set unlogged", "ledger_views.timeline is UNLOGGED"),
    (
        f"{_NOTHING} create trigger copy after insert on ledger_views.timeline execute function public.nothing()",
        "trigger copy on ledger_views.timeline is not of the schema",
    ),
    ("create rule copy as on insert to ledger_views.timeline do also notify x", "rule copy on ledger_views.timeline"),
    ("create view ledger_views.more as select 1 as one", "ledger_views.more is a view: a read view is made of plain"),
    (
        "alter table ledger_views.timeline rename to kept;"
        "create view ledger_views.timeline as table ledger_views.kept",
        "ledger_views.timeline is a view: a read view is made of plain tables",
    ),
    ("create materialized view ledger_views.more as select 1 as one", "ledger_views.more is a materialized view"),
    ("create table ledger_views.more () inherits (ledger_views.timeline)", "ledger_views.more is no ordinary table"),
    ("create function ledger_views.more() returns int language sql return 1", "function ledger_views.more() is not of"),
    ("create operator ledger_views.=== (leftarg = int, rightarg = int, function = int4eq)", "operator ledger_views."),
    ("create domain ledger_views.more as int", "type ledger_views.more is not of the schema"),
    ("create schema ledger_rebuild_more authorization {user}", "schema ledger_rebuild_more belongs to {user}, not to"),
    (
        "create schema ledger_rebuild_more authorization ledger_projector; create table ledger_rebuild_more.t (a int);",
        "table ledger_rebuild_more.t belongs to",
    ),
]  # fmt: skip

OUTSIDE = [
    ("create view public.more as select * from ledger.audit_logs", "view public.more depends on ledger.audit_logs"),
    ("create view public.more as select after from ledger.entries", "view public.more depends on ledger.entries"),
    ("create view public.more as select envelope from ledger.envelopes", "view public.more depends on ledger.env"),
    ("create view public.more as table ledger_views.timeline", "view public.more depends on ledger_views.timeline"),
    ("create materialized view public.more as table ledger.audit_logs", "materialized view public.more depends on"),
    ("create materialized view public.more as table ledger_views.timeline", "materialized view public.more depends on"),
    ("create table public.more (e ledger.audit_logs)", "table column public.more.e depends on ledger.audit_logs"),
    (
        "create table public.more (a int, b bigint, foreign key (a, b) references ledger.audit_logs)",
        "table constraint more_a_b_fkey on public.more depends on ledger.audit_logs",
    ),
    (
        "create table public.more (a int); create rule also as on insert to public.more"
        " do also insert into ledger.tails (ledger_id) values (9)",
        "rule also on public.more depends on ledger.tails",
    ),
    (
        "create table public.more (a int);"
        " create policy p on public.more using (exists (select from ledger.audit_logs))",
        "policy p on public.more depends on ledger.audit_logs",
    ),
    (
        "create table public.more (a int); create trigger t after insert on public.more"
        " execute function ledger.refuse_change()",
        "trigger t on public.more depends on ledger.refuse_change()",
    ),
    (
        "create function public.more() returns bigint language sql security definer"
        " begin atomic select count(*) from ledger.audit_logs; end",
        "function public.more() depends on ledger.audit_logs",
    ),
    (
        "create function public.more() returns setof json language sql security definer"
        " as 'select after from ledger.audit_logs'",
        "function public.more() is SECURITY DEFINER and speaks of the ledger",
    ),
    (
        "create function public.more(out x json) language plpgsql security definer as $$ begin"
        " execute format('select after from %I.%I', 'ledger', 'audit_logs') into x; end $$",
        "function public.more() is SECURITY DEFINER and speaks of the ledger",
    ),
    (
        "create procedure public.more() language plpgsql security definer set search_path = ledger"
        " as $$ begin delete from tails; end $$",
        "function public.more() is SECURITY DEFINER and speaks of the ledger",
    ),
    ("create cast (ledger.audit_logs as ledger.tails) with inout", "cast (ledger.audit_logs AS ledger.tails) depends"),
    ("create publication more for table ledger.audit_logs", "publication more sends the rows of ledger.audit_logs"),
    ("create publication more for all tables", "publication more sends the rows of ledger.audit_logs, "),
    ("create publication more for tables in schema ledger_views", "publication more sends the rows of ledger_views."),
    (
        _EVENT.format("alter table ledger.audit_logs disable trigger append_only;")
        + "create event trigger more on ddl_command_end execute function public.event()",
        "event trigger more (ddl_command_end) runs public.event(), which speaks of the ledger",
    ),
    (
        _EVENT.format("null;") + "alter function public.event() owner to {user};"
        "create event trigger more on sql_drop execute function public.event()",
        "event trigger more (sql_drop) runs public.event(), which belongs to {user}",
    ),
    ("alter extension plpgsql add table ledger.tails", "extension plpgsql owns ledger.tails"),
    (
        "create subscription more connection 'host=nowhere' publication p with (connect = false);"
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " select oid, 'ledger.audit_logs'::regclass, 'r' from pg_subscription",
        "subscription more writes into ledger.audit_logs",
    ),
    # Roles.
    ("grant ledger_owner to {user}", "{user} has the rights of ledger_owner"),
    ("grant ledger_reader to ledger_writer", "role ledger_writer is not the one of the schema: member of"),
    ("grant pg_monitor to ledger_admin", "role ledger_admin is not the one of the schema: member of is pg_monitor"),
    ("grant pg_write_all_data to {user}", "{user} has the rights of pg_write_all_data"),
    ("grant pg_read_server_files to {user}", "{user} has the rights of pg_read_server_files"),
    ("alter role ledger_owner login", "role ledger_owner is not the one of the schema: attributes is LOGIN"),
    ("alter role ledger_reader bypassrls", "role ledger_reader is not the one of the schema: attributes is BYPASSRLS"),
    ("alter role ledger_writer replication", "role ledger_writer is not the one of the schema: attributes is REPL"),
    ("alter role ledger_admin createrole", "role ledger_admin is not the one of the schema: attributes is CREATEROLE"),
    ("alter role ledger_owner superuser", "role ledger_owner is not the one of the schema"),
    ("grant ledger_reader to {user}; alter role {user} bypassrls", "{user} has a role of the ledger, and passes row-"),
    ("grant ledger_writer to {user}; alter role {user} replication", "{user} has a role of the ledger, and can copy"),
    ("grant set on parameter session_replication_role to {user}", "{user} may set session_replication_role"),
    ("grant alter system on parameter zero_damaged_pages to {user}", "{user} may set zero_damaged_pages"),
    ("grant set on parameter allow_system_table_mods to public", "everybody may set allow_system_table_mods"),
    ("alter role {user} set session_replication_role = replica", "session_replication_role=replica is set for"),
    ("alter role {user} set role = ledger_owner", "role=ledger_owner is set for role {user}"),
    ("alter role all set zero_damaged_pages = on", "zero_damaged_pages=on is set for all databases"),
    ("alter role {user} set search_path = public, pg_catalog", "search_path=public, pg_catalog is set for role {user}"),
]  # fmt: skip

INFORMATION = [
    ("alter role {user} superuser", "{user} is a superuser"),
    ("alter role {user} bypassrls", "{user} passes row-level security by (BYPASSRLS)"),
    ("alter role {user} replication", "{user} can copy the whole cluster (REPLICATION)"),
    ("alter role {user} createrole", "(CREATEROLE)"),
    ("grant pg_signal_backend to {user}", "{user} has the rights of pg_signal_backend"),
    (
        _EVENT.format("null;") + "create event trigger more on sql_drop execute function public.event()",
        "owns public.event(), which event trigger more runs",
    ),
]
"""No findings: what a superuser allows, and lets nobody read or write what the ledger's roles do not."""
