-- No role does more than it is for. Writers are granted ledgers, as readers are, and learn of one false guess at a body
-- in the time of an append; nothing of ledger_owner's runs what ledger_projector made; rebuilds leave nothing behind.
-- SQLSTATE, after those of 0007:
--   LE030  a read view that is no plain table, so that reading it could run somebody else's code

-- ------------------------------------------------------------------------------------------------ ledgers of writers

create table ledger.writers (
    ledger_id int,
    role regrole not null,
    constraint one_writer_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.writers is 'To which ledgers a member of ledger_writer may append; a ledger_id of NULL is all of them.';

-- Who calls a SECURITY DEFINER function: in it, current_user is its owner.
create function ledger.caller() returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case current_setting('role') when 'none' then session_user else current_setting('role') end;
end
$$;

create function ledger.may_read(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.readers as reader
        where (reader.ledger_id is null or reader.ledger_id = $1) and pg_has_role(who, reader.role::oid, 'usage')
    );
end
$$;

-- Whoever took the group itself (SET ROLE ledger_writer) may do what its login may.
create function ledger.may_write(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.writers as writer
        where (writer.ledger_id is null or writer.ledger_id = $1)
            and pg_has_role(case who when 'ledger_writer' then session_user else who end, writer.role::oid, 'usage')
    );
end
$$;

create function ledger.check_write(ledger_id int, who name) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not ledger.may_write(ledger_id, who) then
        raise exception '% may not append to the ledger with the id %', who, ledger_id
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_writer USER --ledger NAME lets it.';
    end if;
end
$$;

-- As in 0005, but may be said again of the same table.
create or replace function ledger.restrict_readers(target regclass, variadic unrestricted text[] default '{}') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    stale name;
begin
    for stale in select polname from pg_policy where polrelid = target and polname in ('readable', 'everything') loop
        execute format('drop policy %I on %s', stale, target);
    end loop;
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

-- A writer sees its ledgers, and locks the tails of no others; what it appends is for 0013 to check. Tails first, as
-- those who read both do.
select ledger.restrict_readers('ledger.tails', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
select ledger.restrict_readers('ledger.ledgers', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
create policy writable on ledger.tails to ledger_writer using (ledger.may_write(ledger_id, current_user));
create policy writable on ledger.ledgers to ledger_writer using (ledger.may_write(ledger_id, current_user));

-- What an appender is told of what it may not read: in its ledgers only.
create or replace function ledger.recorded(ledger_id int, ids uuid[]) returns table (
    "position" bigint, id uuid, recorded_at timestamptz, occurred_at timestamptz, actor text, actor_type text,
    action text, resource_type text, resource_id text, hash bytea, erased boolean
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_write($1, ledger.caller());
    return query
    select
        entry.position, entry.id, entry.recorded_at, entry.occurred_at, entry.actor, entry.actor_type,
        entry.action, entry.resource_type, entry.resource_id, entry.hash, entry.salt is null
    from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.id = any ($2);
end
$$;

create or replace function ledger.changed(ledger_id int, resource_type text, resource_id text, since bigint) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_write($1, ledger.caller());
    return (
        select max(entry.position) from ledger.audit_logs as entry
        where entry.ledger_id = $1 and entry.resource_type = $2 and entry.resource_id = $3 and entry.position > $4
    );
end
$$;

-- Bodies can be guessed, so an answer costs what an append does: it holds the ledger's tail, so that there is one at a
-- time and appends wait for it; it tells of one body that differs, and not in which field; and that takes 5 ms.
create function ledger.first_difference(ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[])
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    first bigint;
begin
    perform ledger.check_write($1, ledger.caller());
    perform from ledger.tails as tail where tail.ledger_id = $1 for update;
    if (select count(*) <> count(distinct id) from unnest($2) as id) and (
        select count(distinct said) <> count(distinct said.id)
        from unnest($2, $3, $4, $5) as said (id, before, after, metadata)
    ) then
        raise exception 'an id stands for more than one body: each is compared once' using errcode = 'LE002';
    end if;
    select min(said.number) into first
    from unnest($2, $3, $4, $5) with ordinality as said (id, before, after, metadata, number)
    join ledger.audit_logs as entry on entry.ledger_id = $1 and entry.id = said.id
    where entry.salt is not null
        and (entry.before::text, entry.after::text, entry.metadata::text)
            is distinct from (said.before, said.after, said.metadata);
    if first is not null then
        perform pg_sleep(0.005);
    end if;
    return first;
end
$$;
comment on function ledger.first_difference is
    'The first of these ids, by its number, whose recorded body is not the one given; NULL where all are.';

-- For clients that came before first_difference: it goes on after each answer, at the same price.
create or replace function ledger.differences(
    ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[]
)
returns table (number bigint, field text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done bigint := 0;
    next bigint;
begin
    loop
        next := ledger.first_difference($1, $2[done + 1:], $3[done + 1:], $4[done + 1:], $5[done + 1:]);
        exit when next is null;
        done := done + next;
        number := done;
        field := 'body';
        return next;
    end loop;
end
$$;
comment on function ledger.differences is 'The recorded entries whose body is not the one given.';

-- As in 0005, but a writer is given ledgers too.
create or replace function ledger.grant_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' end;
begin
    perform ledger.check_grant(granted, grantee);
    execute format('grant %I to %I', granted, grantee);
    if grants is not null then
        execute format(
            'insert into ledger.%I (ledger_id, role)'
            ' select id, $1 from unnest(coalesce($2, array[null::int])) as id on conflict do nothing', grants
        ) using quote_ident(grantee)::regrole, ledger_ids;
    end if;
end
$$;

create or replace function ledger.revoke_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' end;
    has_all boolean;
    has_more boolean;
begin
    perform ledger.check_grant(granted, grantee);
    if grants is not null then
        execute format('select bool_or(ledger_id is null) from ledger.%I where role = $1', grants)
            into has_all using quote_ident(grantee)::regrole;
        if ledger_ids is not null and has_all then
            raise exception '% % all ledgers: revoke the role without naming one, then grant it those that are left',
                grantee, case granted when 'ledger_reader' then 'reads' else 'appends to' end using errcode = '0LP01';
        end if;
        execute format('delete from ledger.%I where role = $1 and ($2 is null or ledger_id = any ($2))', grants)
            using quote_ident(grantee)::regrole, ledger_ids;
        execute format('select exists (select from ledger.%I where role = $1)', grants)
            into has_more using quote_ident(grantee)::regrole;
        if has_more then
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

grant select on ledger.writers to ledger_admin;
grant execute on function ledger.may_write to ledger_writer;
grant execute on function ledger.check_write, ledger.first_difference to ledger_writer;

-- Who appends today goes on, to all ledgers.
insert into ledger.writers (ledger_id, role)
select null::int, member::regrole from pg_auth_members where roleid = 'ledger_writer'::regrole
union
select null::int, 'ledger_owner'::regrole;

-- ------------------------------------------------------------------------------------------------------- plain views

-- Postgres runs a view's and a policy's functions, and those of casts, indexes and constraints, with the rights of
-- whoever reads; and SET ROLE does not help against them, as they can RESET ROLE. So read views are read and filled only
-- where they run nothing but what superusers or ledger_owner own, which is all that Postgres brings. Returns what else
-- stands there; NULL for a plain table.
create function ledger.not_plain(variadic targets regclass[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        with parts (target, class, object) as (
            select oid, 'pg_class'::regclass, oid from pg_class where oid = any (targets)
            union all
            select indrelid, 'pg_class'::regclass, indexrelid from pg_index where indrelid = any (targets)
            union all
            select conrelid, 'pg_constraint'::regclass, oid from pg_constraint where conrelid = any (targets)
            union all
            select adrelid, 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = any (targets)
            union all
            select tgrelid, 'pg_trigger'::regclass, oid from pg_trigger where tgrelid = any (targets)
            union all
            select stxrelid, 'pg_statistic_ext'::regclass, oid from pg_statistic_ext where stxrelid = any (targets)
        ),
        -- What is Postgres' own from the beginning is not among the dependencies.
        used (target, object, what, owner) as (
            select parts.target, refobjid,
                case refclassid
                    when 'pg_proc'::regclass then 'function ' || refobjid::regprocedure
                    when 'pg_type'::regclass then 'type ' || refobjid::regtype
                    else 'operator ' || refobjid::regoperator
                end,
                case refclassid
                    when 'pg_proc'::regclass then (select proowner from pg_proc where oid = refobjid)
                    when 'pg_type'::regclass then (select typowner from pg_type where oid = refobjid)
                    else (select oprowner from pg_operator where oid = refobjid)
                end
            from parts cross join lateral (
                -- OFFSET: by the index, whatever the planner knows of these catalogs.
                select refclassid, refobjid from pg_depend where classid = parts.class and objid = parts.object offset 0
            ) as depend
            where refclassid in ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass)
        ),
        expressions (target, tree) as (
            select adrelid, adbin::text from pg_attrdef where adrelid = any (targets)
            union all
            select conrelid, conbin::text from pg_constraint where conrelid = any (targets)
            union all
            select tgrelid, tgqual::text from pg_trigger where tgrelid = any (targets)
        ),
        problems (target, problem) as (
            select oid, case
                when relkind <> 'r' then 'it is no table'
                when relhasrules then 'it has rules'
                when relispartition or exists (select from pg_inherits where inhparent = class.oid or inhrelid = class.oid)
                    then 'it shares rows with another table'
                when exists (select from pg_constraint where confrelid = class.oid and conrelid <> class.oid)
                    then 'another table refers to it'
            end
            from pg_class as class where oid = any (targets)
            union all
            select polrelid, format('its policy %s is not the ledger''s', polname)
            from pg_policy
            where polrelid = any (targets) and (
                polname <> 'readable' or polcmd <> 'r' or polwithcheck is not null
                or regexp_replace(pg_get_expr(polqual, polrelid), '[[:space:]]+', ' ', 'g')
                    <> '(ledger_id = ANY (ARRAY( SELECT readable.ledger_id FROM ledger.readable)))'
            )
            union all
            select target, 'it uses ' || what
            from used where not exists (select from pg_roles where oid = owner and (rolsuper or rolname = 'ledger_owner'))
            union all
            -- Some of Postgres' own functions run SQL that they are given as a text; they are all volatile.
            select target, format('it uses function %s', proc.oid::regprocedure)
            from expressions
            cross join regexp_matches(tree, ':funcid ([0-9]+)', 'g') as named (ids)
            join pg_proc as proc on proc.oid = named.ids[1]::oid
            where proc.provolatile = 'v'
                and proc.proname not in ('nextval', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'clock_timestamp', 'random')
        )
        select format('%s: %s', target::regclass, problem) from problems where problem is not null limit 1
    );
end
$$;

-- Locks tables of read views for the transaction, and raises LE030 unless they are plain. For whoever reads them.
create function ledger.lock_plain(variadic tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    names constant text[] := array(select format('ledger_views.%I', name) from unnest(tables) as name);
    problem text;
begin
    -- The weaker lock, all that a reader may take, lets indexes come. Of a view this locks what it reads, and runs nothing.
    execute format('lock table %s in %s mode', array_to_string(names, ', '),
        case when pg_has_role(current_user, 'ledger_projector', 'usage') then 'row exclusive' else 'access share' end);
    problem := ledger.not_plain(variadic names::regclass[]);
    if problem is not null then
        raise exception 'a read view cannot be trusted: %', problem using errcode = 'LE030',
            hint = 'Find out who made it so; replay the projection.';
    end if;
end
$$;

-- As lock_plain, for a worker that has more rights than the group whose tables these are, in the schema that will be the
-- search_path; a worker that has no more needs no protection from its own.
create function ledger.lock_work(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    place constant regnamespace := to_regnamespace(quote_ident(schema_name));
    there regclass[];
    problem text;
begin
    if not pg_has_role(session_user, 'ledger_owner', 'member') then
        return;
    end if;
    there := array(select oid::regclass from pg_class where relnamespace = place and relname = any (tables));
    if there <> '{}' then
        execute format('lock table %s in row exclusive mode', array_to_string(there, ', '));
        problem := ledger.not_plain(variadic there);
    end if;
    if problem is null then
        -- A better match for what a statement names than Postgres' own.
        select format('%s stands beside it', what) into problem from (
            select 'function ' || oid::regprocedure, proowner from pg_proc where pronamespace = place
            union all
            select 'operator ' || oid::regoperator, oprowner from pg_operator where oprnamespace = place
        ) as beside (what, owner)
        where not exists (select from pg_roles where oid = owner and (rolsuper or rolname = 'ledger_owner'))
        limit 1;
    end if;
    if problem is not null then
        raise exception 'read views in % cannot be trusted by %: %', place, session_user, problem using errcode = 'LE030',
            hint = 'Work as a user that has ledger_projector and no more, or find out who made it so.';
    end if;
end
$$;

-- The tables of a view that was just made: rows of readers' ledgers for readers, and nothing that default privileges gave.
create or replace function ledger.protect_view(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
    given record;
begin
    for given in
        with made (oid) as (
            select to_regclass(format('%I.%I', schema_name, name))::oid from unnest(tables) as name
        )
        select class.oid::regclass as name, class.relkind, acl.grantee
        from pg_class as class cross join lateral aclexplode(class.relacl) as acl
        where acl.grantee <> class.relowner and (
            class.oid in (select oid from made)
            or class.relkind = 'S' and exists (
                select from pg_depend
                where classid = 'pg_class'::regclass and objid = class.oid
                    and refclassid = 'pg_class'::regclass and refobjid in (select oid from made)
            )
        )
        group by 1, 2, 3
    loop
        execute format('revoke all on %s %s from %s', case given.relkind when 'S' then 'sequence' else 'table' end,
            given.name, case given.grantee when 0 then 'public' else given.grantee::regrole::text end);
    end loop;
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

-- As in 0005; but it reads what ledger_projector owns, so it runs as that. The group cannot replace it, having no rights
-- in the schema; it can change how it is called, so that it names each function and operator by its schema, and looks at
-- the table first.
create or replace function ledger.timeline_matches(
    ledger_id int, words text, actor text, action text, action_from text, action_to text, action_like text,
    resource_type text, resource_id text, since timestamptz, until timestamptz, before bigint, most int
) returns setof bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not ledger.may_read($1, ledger.caller()) then
        return;
    end if;
    perform ledger.lock_plain('timeline');
    return query execute pg_catalog.concat_ws(
        ' and ',
        $sql$select position from ledger_views.timeline where ledger_id operator(pg_catalog.=) $1$sql$,
        $sql$lexemes operator(pg_catalog.@@) pg_catalog.websearch_to_tsquery('pg_catalog.simple', $2)$sql$,
        case when actor is not null then 'actor operator(pg_catalog.=) $3' end,
        case when action is not null then 'action operator(pg_catalog.=) $4' end,
        case when action_from is not null then 'action operator(pg_catalog.>=) $5' end,
        case when action_to is not null then 'action operator(pg_catalog.<) $6' end,
        case when action_like is not null then 'action operator(pg_catalog.~~) $7' end,
        case when resource_type is not null then 'resource_type operator(pg_catalog.=) $8' end,
        case when resource_id is not null then 'resource_id operator(pg_catalog.=) $9' end,
        case when since is not null then 'occurred_at operator(pg_catalog.>=) $10' end,
        case when until is not null then 'occurred_at operator(pg_catalog.<) $11' end,
        case when before is not null then 'position operator(pg_catalog.<) $12' end
    ) operator(pg_catalog.||) ' order by position desc limit $13'
    using
        ledger_id, words, actor, action, action_from, action_to, action_like,
        resource_type, resource_id, since, until, before, most;
end
$$;
revoke execute on function ledger.timeline_matches from ledger_projector;
grant create on schema ledger to ledger_projector;
alter function ledger.timeline_matches owner to ledger_projector;
revoke create on schema ledger from ledger_projector;
grant execute on function ledger.caller, ledger.may_read to ledger_projector;
grant execute on function ledger.lock_plain, ledger.not_plain to ledger_reader, ledger_projector;
grant execute on function ledger.lock_work to ledger_projector;

-- ---------------------------------------------------------------------------------------------------------- rebuilds
-- With CREATE on the database its workers could make a schema that is named after a user, and so comes first in that
-- user's search_path. So these make the schemas of rebuilds for them.

-- The number of the lock that a rebuild's own transaction holds for as long as the rebuild takes.
create function ledger.rebuild_lock(name text) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return hashtextextended('auditledger rebuild ' || name, 0);
end
$$;

-- The projections of which a rebuild was given up or killed, and left its tables behind, with bodies that no erasure
-- reaches any more.
create function ledger.left_rebuilds() returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select rebuild.name
    from (
        select substr(nspname::text, 16) from pg_namespace where nspname ^@ 'ledger_rebuild_'
        union
        select projection.name from ledger.projections as projection where projection.building
    ) as rebuild (name)
    where not exists (
        select from pg_locks
        where locktype = 'advisory' and granted and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())
            and classid::bigint << 32 | objid::bigint = ledger.rebuild_lock(rebuild.name)
    )
    order by rebuild.name;
end
$$;

create function ledger.drop_rebuild(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if name !~ '^[a-z][a-z0-9_]*$' then
        raise exception 'not the name of a projection: %', name using errcode = 'LE002';
    end if;
    execute format('drop schema if exists %I cascade', 'ledger_rebuild_' || name);
    delete from ledger.projections as projection where projection.name = $1 and projection.building;
end
$$;

-- An empty schema for a rebuild, which belongs to ledger_projector.
create function ledger.begin_rebuild(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    given oid;
begin
    perform ledger.drop_rebuild(name);
    execute format('create schema %I authorization ledger_projector', 'ledger_rebuild_' || name);
    for given in
        select distinct acl.grantee from pg_namespace, aclexplode(nspacl) as acl
        where nspname = 'ledger_rebuild_' || $1 and acl.grantee <> nspowner
    loop
        execute format('revoke all on schema %I from %s', 'ledger_rebuild_' || name,
            case given when 0 then 'public' else given::regrole::text end);
    end loop;
end
$$;

-- Drops what left_rebuilds names, and returns it. Waits for nobody.
create function ledger.clear_rebuilds() returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
    name text;
begin
    for name in select left_name from ledger.left_rebuilds() as left_name loop
        if name ~ '^[a-z][a-z0-9_]*$' and pg_try_advisory_xact_lock(ledger.rebuild_lock(name)) then
            begin
                perform ledger.drop_rebuild(name);
                return next name;
            exception when lock_not_available then
                null;
            end;
        end if;
    end loop;
end
$$;

grant execute on function ledger.rebuild_lock to ledger_projector;
grant execute on function ledger.left_rebuilds to ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
grant execute on function ledger.drop_rebuild, ledger.begin_rebuild to ledger_projector;
grant execute on function ledger.clear_rebuilds to ledger_projector, ledger_eraser, ledger_admin;
