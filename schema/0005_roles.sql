-- Who may do what. Five groups that nobody logs in with; users are made members of them ('auditledger grant'):
--   ledger_writer     appends; reads no body
--   ledger_reader     reads the ledgers that ledger.readers names for it, and their views
--   ledger_projector  the workers: reads every ledger, publishes, makes and fills the read views
--   ledger_eraser     erases bodies, places and releases legal holds
--   ledger_admin      creates ledgers, opens epochs, rotates keys, places and releases holds, grants these roles
-- and ledger_owner, to whom everything belongs and who never logs in either. Superusers are beyond all this.
--
-- The `grant` and `restrict_readers` statements of the migrations are also the list that `verify` goes by: what a role
-- may do beyond them is a finding. Each begins a line and ends with a semicolon; ledger/privileges.py reads them.

-- Roles belong to the whole cluster: another database's migration may have made them, or be making them now.
do $$
declare
    roles constant text[] :=
        '{ledger_owner, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}';
    modern constant boolean := current_setting('server_version_num')::int >= 160000;
    name text;
    to_run text := '';
begin
    foreach name in array roles loop
        if to_regrole(name) is null then
            to_run := to_run || format('create role %I; ', name);
        end if;
    end loop;
    to_run := to_run || format(
        'grant %s to %I with admin option%s; grant create on database %I to %I with grant option',
        array_to_string(roles, ', '), current_user, case when modern then ', inherit false, set false' else '' end,
        current_database(), current_user
    );
    foreach name in array roles loop
        if to_regrole(name) is null then
            begin
                execute format('create role %I', name);
            exception when duplicate_object or unique_violation then
                null;
            end;
        end if;
    end loop;
    foreach name in array roles[2:] loop
        -- Grants the groups; and ledger_projector's tables are its own. Tried again where another database's migration
        -- grants the same at this moment.
        for attempt in 1..100 loop
            exit when exists (
                select from pg_auth_members
                where roleid = to_regrole(name) and member = to_regrole('ledger_owner') and admin_option
            );
            begin
                execute format('grant %I to ledger_owner with admin option', name);
            exception when unique_violation or internal_error then
                perform pg_sleep(0.05);
            end;
        end loop;
    end loop;
    if (select rolsuper from pg_roles where rolname = current_user) then
        perform set_config('ledger.migrator', '', true);
        return;
    end if;
    -- Whoever is no superuser hands over to ledger_owner only what it could take itself: it is lent that role until this
    -- migration is recorded.
    perform set_config('ledger.migrator', current_user, true);
    if not pg_has_role(current_user, 'ledger_owner', case when modern then 'set' else 'member' end) then
        execute format('grant ledger_owner to %I', current_user);
        perform set_config('ledger.lent', 'on', true);
    end if;
    execute format('grant create on database %I to ledger_owner, ledger_projector', current_database());
exception when insufficient_privilege then
    raise exception '%. As a superuser run: %', sqlerrm, to_run using errcode = 'insufficient_privilege';
end
$$;

-- Hands over what there is: the ledger to ledger_owner, the read views to ledger_projector.
alter schema ledger owner to ledger_owner;
alter schema ledger_views owner to ledger_owner;
grant create on schema ledger_views to ledger_projector;
do $$
declare
    each record;
begin
    for each in select nspname as name from pg_namespace where nspname ^@ 'ledger_rebuild_' loop
        execute format('alter schema %I owner to ledger_projector', each.name);
    end loop;
    for each in
        select class.oid::regclass::text as name, namespace.nspname = 'ledger' as own
        from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
        where (namespace.nspname in ('ledger', 'ledger_views') or namespace.nspname ^@ 'ledger_rebuild_')
            and class.relkind in ('r', 'p', 'v', 'm')
    loop
        execute format('alter table %s owner to %s', each.name,
            case when each.own then 'ledger_owner' else 'ledger_projector' end);
    end loop;
    for each in select oid::regprocedure::text as name from pg_proc where pronamespace = 'ledger'::regnamespace loop
        execute format('alter function %s owner to ledger_owner', each.name);
        execute format('revoke execute on function %s from public', each.name);
    end loop;
end
$$;

-- All that follows, and every later migration (ledger/migrate.py), is done as the owner.
set local role ledger_owner;
alter default privileges for role ledger_owner revoke execute on functions from public;

-- ------------------------------------------------------------------------------------------------------------ reading

create table ledger.readers (
    ledger_id int,
    role regrole not null,
    constraint one_reader_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.readers is 'Which ledgers a member of ledger_reader may read; a ledger_id of NULL is all of them.';

-- By current_user: a view does not change it, and neither does SET ROLE's effect get lost.
create view ledger.readable with (security_barrier) as
select ledger.ledger_id, ledger.name
from ledger.ledgers as ledger
where exists (
    select from ledger.readers as reader
    where (reader.ledger_id is null or reader.ledger_id = ledger.ledger_id)
        and pg_has_role(reader.role::oid, 'usage')
);
comment on view ledger.readable is 'The ledgers whose entries and views the current user may read.';

-- Row-level security for a table: members of ledger_reader see the rows of their ledgers, those of the `unrestricted`
-- roles all rows. What they may do with the rows that they see is for grants to say. Asks once a statement which
-- ledgers those are, not once a row.
create function ledger.restrict_readers(target regclass, variadic unrestricted text[] default '{}') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('alter table %s enable row level security', target);
    execute format(
        'create policy readable on %s for select to ledger_reader'
        ' using (ledger_id = any (array(select readable.ledger_id from ledger.readable)))', target
    );
    if unrestricted <> '{}' then
        execute format(
            'create policy everything on %s to %s using (true) with check (true)',
            target, array_to_string(unrestricted, ', ')
        );
    end if;
end
$$;

select ledger.restrict_readers('ledger.ledgers', 'ledger_writer', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
select ledger.restrict_readers('ledger.tails', 'ledger_writer', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
select ledger.restrict_readers('ledger.projections', 'ledger_projector');
select ledger.restrict_readers('ledger.verifications', 'ledger_projector');
select ledger.restrict_readers('ledger.subscriptions', 'ledger_projector');
select ledger.restrict_readers('ledger.holds', 'ledger_projector', 'ledger_eraser', 'ledger_admin');

-- Postgres refuses COPY FROM on a table with row-level security, and COPY is the writers' quick way: so the entries are
-- read through a view. A barrier passes no order on to what is within it: with ORDER BY in it, reading on by position
-- takes the primary key's order as it is, instead of sorting what is left of the ledger for each page.
create view ledger.entries with (security_barrier) as
select
    entry.ledger_id, entry.position, entry.id, entry.recorded_at, entry.occurred_at,
    entry.actor, entry.actor_type, entry.action, entry.resource_type, entry.resource_id,
    entry.before, entry.after, entry.metadata, entry.salt, entry.body_hash, entry.prev_hash, entry.hash
from ledger.audit_logs as entry
where entry.ledger_id = any (array(select readable.ledger_id from ledger.readable))
order by entry.ledger_id, entry.position;
comment on view ledger.entries is 'The entries of the ledgers that the current user may read.';

create or replace view ledger.envelopes with (security_barrier) as
select
    entry.ledger_id,
    entry.position,
    '{"action":' || to_json(entry.action)::text
    || ',"actor":' || to_json(entry.actor)::text
    || ',"actor_type":' || to_json(entry.actor_type)::text
    || ',"body":"' || encode(entry.body_hash, 'hex')
    || '","id":"' || entry.id::text
    || '","ledger":"' || (select ledger.name from ledger.ledgers as ledger where ledger.ledger_id = entry.ledger_id)
    || '","occurred_at":"' || to_char(entry.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","position":' || entry.position::text
    || ',"prev":"' || encode(entry.prev_hash, 'hex')
    || '","recorded_at":"' || to_char(entry.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","resource_id":' || coalesce(to_json(entry.resource_id)::text, 'null')
    || ',"resource_type":' || coalesce(to_json(entry.resource_type)::text, 'null')
    || ',"v":1}' as envelope,
    entry.hash
from ledger.entries as entry;

-- Full text search cannot use its index below row-level security: Postgres takes the operator @@ for one that could
-- leak. So the words are looked up here, with the owner's rights, for a caller who may read the ledger. A filter that is
-- NULL was not asked for; `action_from` is included, `action_to`, `until` and `before` are not.
create function ledger.timeline_matches(
    ledger_id int, words text, actor text, action text, action_from text, action_to text, action_like text,
    resource_type text, resource_id text, since timestamptz, until timestamptz, before bigint, most int
) returns setof bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Within this function current_user is its owner.
    caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
    if not exists (
        select from ledger.readers as reader
        where (reader.ledger_id is null or reader.ledger_id = $1) and pg_has_role(caller, reader.role::oid, 'usage')
    ) then
        return;
    end if;
    return query execute concat_ws(
        ' and ',
        $sql$select position from ledger_views.timeline where ledger_id = $1$sql$,
        $sql$lexemes @@ websearch_to_tsquery('simple', $2)$sql$,
        case when actor is not null then 'actor = $3' end,
        case when action is not null then 'action = $4' end,
        case when action_from is not null then 'action >= $5' end,
        case when action_to is not null then 'action < $6' end,
        case when action_like is not null then 'action like $7' end,
        case when resource_type is not null then 'resource_type = $8' end,
        case when resource_id is not null then 'resource_id = $9' end,
        case when since is not null then 'occurred_at >= $10' end,
        case when until is not null then 'occurred_at < $11' end,
        case when before is not null then 'position < $12' end
    ) || ' order by position desc limit $13'
    using
        ledger_id, words, actor, action, action_from, action_to, action_like,
        resource_type, resource_id, since, until, before, most;
end
$$;

-- ------------------------------------------------------------------------------------------------------------ writing
-- What the appending plans need to know of entries that a writer may not read.

create function ledger.recorded(ledger_id int, ids uuid[]) returns table (
    "position" bigint, id uuid, recorded_at timestamptz, occurred_at timestamptz, actor text, actor_type text,
    action text, resource_type text, resource_id text, hash bytea, erased boolean
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select
        entry.position, entry.id, entry.recorded_at, entry.occurred_at, entry.actor, entry.actor_type,
        entry.action, entry.resource_type, entry.resource_id, entry.hash, entry.salt is null
    from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.id = any ($2);
end
$$;
comment on function ledger.recorded is 'The entries of these ids, without their bodies.';

create function ledger.differences(ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[])
returns table (number bigint, field text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select said.number, case
        when entry.before::text is distinct from said.before then 'before'
        when entry.after::text is distinct from said.after then 'after'
        when entry.metadata::text is distinct from said.metadata then 'metadata'
    end
    from unnest($2, $3, $4, $5) with ordinality as said (id, before, after, metadata, number)
    join ledger.audit_logs as entry on entry.ledger_id = $1 and entry.id = said.id
    where entry.salt is not null;
end
$$;
comment on function ledger.differences is
    'Where the body of each recorded entry first differs from the texts given; NULL where it is the same.';

create function ledger.changed(ledger_id int, resource_type text, resource_id text, since bigint) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select max(entry.position) from ledger.audit_logs as entry
        where entry.ledger_id = $1 and entry.resource_type = $2 and entry.resource_id = $3 and entry.position > $4
    );
end
$$;
comment on function ledger.changed is 'The newest position after `since` at which something was recorded of a resource.';

-- ----------------------------------------------------------------------------------------------------- administration

-- As in 0001, but with the owner's rights: an admin has none on the tables.
create or replace function ledger.create_ledger(ledger_name text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id int;
begin
    insert into ledger.ledgers (name) values (ledger_name)
    on conflict on constraint one_ledger_per_name do nothing
    returning ledger_id into new_id;
    if new_id is not null then
        insert into ledger.tails (ledger_id) values (new_id);
    end if;
    return new_id;
end
$$;

create function ledger.check_grant(granted text, grantee text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    groups constant text[] := '{ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}';
begin
    if granted is null or granted <> all (groups) then
        raise exception '% is none of %', granted, array_to_string(groups, ', ') using errcode = '0LP01';
    elsif not exists (select from pg_roles where rolname = grantee) then
        raise exception 'there is no role % in this cluster', grantee using errcode = '0LP01',
            hint = 'CREATE ROLE makes it.';
    elsif grantee = any (groups || 'ledger_owner'::text) then
        raise exception '% is itself one of the ledger''s roles', grantee using errcode = '0LP01';
    end if;
end
$$;

-- Makes a user a member of one of the groups. ledger_ids: what a reader may read, besides what it may already; NULL for
-- all ledgers, those to come among them.
create function ledger.grant_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_grant(granted, grantee);
    execute format('grant %I to %I', granted, grantee);
    if granted = 'ledger_reader' then
        insert into ledger.readers (ledger_id, role)
        select id, quote_ident(grantee)::regrole from unnest(coalesce(ledger_ids, array[null::int])) as id
        on conflict do nothing;
    end if;
end
$$;

-- The reverse. ledger_ids: what a reader may read no longer; the role goes with the last of them. NULL: the role at once.
create function ledger.revoke_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    reads_all boolean;
begin
    perform ledger.check_grant(granted, grantee);
    if granted = 'ledger_reader' then
        select bool_or(ledger_id is null) into reads_all from ledger.readers where role = quote_ident(grantee)::regrole;
        if ledger_ids is not null and reads_all then
            raise exception '% reads all ledgers: revoke the role without naming one, then grant it those that are left',
                grantee using errcode = '0LP01';
        end if;
        delete from ledger.readers
        where role = quote_ident(grantee)::regrole and (ledger_ids is null or ledger_id = any (ledger_ids));
        if exists (select from ledger.readers where role = quote_ident(grantee)::regrole) then
            return;
        end if;
    end if;
    execute format('revoke %I from %I', granted, grantee);
    -- ADMIN OPTION alone, which whoever created the role has, gives nothing of it.
    if exists (
        select from pg_roles
        where rolname = grantee and not rolsuper and (
            pg_has_role(oid, to_regrole(granted), 'usage') or pg_has_role(oid, to_regrole(granted), case
                when current_setting('server_version_num')::int >= 160000 then 'set' else 'member'
            end)
        )
    ) then
        raise exception '% has % through another role, or by the grant of somebody else, who has to revoke it: nothing was'
            ' changed', grantee, granted using errcode = '0LP01';
    end if;
end
$$;

-- Row-level security for the tables of a read view, which its owner calls for them. A table without a ledger_id is left
-- to its owner alone.
create function ledger.protect_view(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
begin
    for target in
        select attrelid::regclass from pg_attribute
        where attrelid = any (select to_regclass(format('%I.%I', schema_name, name)) from unnest(tables) as name)
            and attname = 'ledger_id' and not attisdropped
    loop
        perform ledger.restrict_readers(target);
        execute format('grant select on %s to ledger_reader', target);
    end loop;
end
$$;

-- ------------------------------------------------------------------------------------------------------------- rights

grant usage on schema ledger to ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
grant usage on schema ledger_views to ledger_reader, ledger_projector;
grant select on ledger.migrations, ledger.ledgers, ledger.tails
    to ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;

grant insert on ledger.audit_logs to ledger_writer;
grant update (fence) on ledger.tails to ledger_writer, ledger_projector, ledger_eraser, ledger_admin;
grant execute on function ledger.recorded, ledger.differences, ledger.changed to ledger_writer;

grant select on ledger.readable, ledger.entries, ledger.envelopes to ledger_reader, ledger_projector;
grant select on ledger.projections, ledger.verifications, ledger.subscriptions to ledger_reader;
grant execute on function ledger.timeline_matches to ledger_reader, ledger_projector;

grant select on ledger.audit_logs to ledger_projector;
grant select, insert, update, delete on ledger.projections to ledger_projector;
grant select, insert, update on ledger.subscriptions to ledger_projector;
grant select, insert on ledger.verifications to ledger_projector;
grant execute on function ledger.swap_in, ledger.protect_view, ledger.restrict_readers to ledger_projector;

grant execute on function ledger.erase_entry to ledger_eraser;
grant execute on function ledger.place_hold, ledger.release_hold to ledger_eraser, ledger_admin;
grant execute on function ledger.record_key to ledger_projector, ledger_admin;
grant select on ledger.holds to ledger_reader, ledger_projector, ledger_eraser, ledger_admin;

grant update (epoch) on ledger.tails to ledger_admin;
grant select on ledger.readers to ledger_admin;
grant execute on function ledger.create_ledger, ledger.grant_role, ledger.revoke_role to ledger_admin;

-- Who reads everything. pg_has_role says yes for a superuser, whichever role is asked for.
insert into ledger.readers (ledger_id, role)
values (null, 'ledger_projector'), (null, 'ledger_owner');
-- What one user did alone goes on as it was, superuser or not; 'auditledger revoke' takes it from it.
select ledger.grant_role(granted, migrator, null)
from current_setting('ledger.migrator') as migrator,
    unnest('{ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}'::text[]) as granted
where migrator <> '';

-- The read views that are there already; those to come are protected as they are made (ledger/projection.py).
select ledger.protect_view(namespace.nspname, array_agg(class.relname::text))
from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
where (namespace.nspname = 'ledger_views' or namespace.nspname ^@ 'ledger_rebuild_') and class.relkind in ('r', 'p')
group by namespace.nspname;

reset role;
