-- name: server
select current_setting('server_version_num')::int, current_setting('server_encoding');

-- name: lock
-- One migrator at a time in this database; the number is arbitrary and ours.
select pg_advisory_xact_lock(7101830125);

-- name: lock_one
-- And one migration at a time, should a migrator that stood still have lost its lock to another.
select pg_advisory_xact_lock(7101830126);

-- name: lock_holder
-- Who has it, and since when: clients before 0.2 held it for as long as their session lasted, which behind a pooler may
-- be for ever.
select activity.pid, activity.application_name, coalesce(activity.xact_start, activity.state_change)
from pg_locks as held join pg_stat_activity as activity using (pid)
where held.locktype = 'advisory' and held.granted and held.objsubid = 1
    and (held.classid::bigint << 32 | held.objid::bigint) = 7101830125
    and held.database = (select oid from pg_database where datname = current_database())
limit 3;

-- name: short_lock_timeout
-- Appends stand in line behind a migration that waits for a table: it gives up soon, and tries again. But it waits for
-- longer than deadlock_timeout (1s), after which Postgres cancels an autovacuum that is in the way.
set local lock_timeout = '1500ms';

-- name: in_the_way
-- Whose transactions have used the ledger's tables, the oldest first.
select activity.pid, activity.application_name, activity.xact_start
from pg_stat_activity as activity
where activity.pid <> pg_backend_pid() and exists (
    select from pg_locks as held join pg_class as class on class.oid = held.relation
    where held.pid = activity.pid and held.granted and class.relnamespace = to_regnamespace('ledger')
        and held.database = (select oid from pg_database where datname = current_database())
)
order by activity.xact_start limit 3;

-- name: present
select to_regclass('ledger.migrations') is not null;

-- name: applied
select file, sha256 from ledger.migrations order by file;

-- name: record
insert into ledger.migrations (file, sha256) values (%s, %s);

-- name: become_owner
-- Once the ledger belongs to ledger_owner, migrations are done in its name, by whoever may take it: a superuser, or
-- whoever has ADMIN OPTION on it and lends itself the role for as long as the transaction lasts. Functions and operators
-- are Postgres' own, whatever stands in the schemas of this user's search_path.
set local search_path = pg_catalog, pg_temp;
do $$
begin
    if not exists (
        select from pg_namespace where nspname = 'ledger' and pg_get_userbyid(nspowner) = 'ledger_owner'
    ) then
        return;
    end if;
    if not pg_has_role(
        current_user, 'ledger_owner',
        case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
    ) then
        begin
            execute format('grant ledger_owner to %I', current_user);
        exception when insufficient_privilege then
            raise exception 'only a superuser, or a user with ADMIN OPTION on ledger_owner, migrates this database (%)',
                sqlerrm using errcode = 'insufficient_privilege';
        end;
        perform set_config('ledger.lent', 'on', true);
    end if;
    set local role ledger_owner;
end
$$;

-- name: set_defaults_aside
-- Default privileges are for what users make. What a migration makes has what the migration grants, and nothing else: they
-- are taken back for as long as it lasts. 'ledger.defaults' keeps the statements that give them again.
do $$
declare
    became constant text := current_setting('role');
    given record;
    where_ text;
    what text;
    again text := '';
begin
    reset role;
    for given in
        select
            role.rolname, namespace.nspname, defaults.defaclobjtype as kind, grantee.rolname as grantee,
            acl.privilege_type as privilege, acl.is_grantable
        from pg_default_acl as defaults
        join pg_roles as role on role.oid = defaults.defaclrole
        left join pg_namespace as namespace on namespace.oid = defaults.defaclnamespace
        cross join lateral aclexplode(defaults.defaclacl) as acl
        left join pg_roles as grantee on grantee.oid = acl.grantee
        where acl.grantee <> defaults.defaclrole
            and role.rolname in (current_user, 'ledger_owner', 'ledger_projector')
            and (
                namespace.nspname is null or namespace.nspname in ('ledger', 'ledger_views')
                or namespace.nspname ^@ 'ledger_rebuild_'
            )
    loop
        if not pg_has_role(current_user, given.rolname, 'usage') then
            if given.rolname = 'ledger_owner' then
                raise exception 'default privileges of ledger_owner would be granted on what this migration makes: migrate'
                    ' as a superuser, or revoke them' using errcode = 'insufficient_privilege';
            end if;
            continue;
        end if;
        where_ := format(
            'alter default privileges for role %I%s', given.rolname,
            case when given.nspname is null then '' else format(' in schema %I', given.nspname) end
        );
        what := case given.kind
            when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
            when 'n' then 'schemas' else 'large objects'
        end;
        execute format('%s revoke all on %s from %s', where_, what, coalesce(quote_ident(given.grantee), 'public'));
        -- What everybody may execute of ledger_owner's is for the migrations to say, not for what was there before.
        continue when given.rolname = 'ledger_owner' and given.nspname is null and given.kind = 'f'
            and given.grantee is null;
        again := again || format(
            '%s grant %s on %s to %s%s;', where_, given.privilege, what, coalesce(quote_ident(given.grantee), 'public'),
            case when given.is_grantable then ' with grant option' else '' end
        );
    end loop;
    perform set_config('ledger.defaults', again, true);
    -- That everybody may execute what nobody said of is Postgres' own default; 0005 took it from what the owner makes.
    if to_regrole('ledger_owner') is not null and pg_has_role(current_user, 'ledger_owner', 'usage') then
        alter default privileges for role ledger_owner revoke execute on functions from public;
    end if;
    if became <> 'none' then
        perform set_config('role', became, true);
    end if;
end
$$;

-- name: leave_owner
do $$
begin
    reset role;
    execute coalesce(current_setting('ledger.defaults', true), '');
    if current_setting('ledger.lent', true) = 'on' then
        execute format('revoke ledger_owner from %I', current_user);
        perform set_config('ledger.lent', '', true);
    end if;
end
$$;

-- name: clear_rebuilds
do $$
begin
    if to_regprocedure('ledger.clear_rebuilds()') is not null then
        perform ledger.clear_rebuilds();
    end if;
end
$$;

-- name: not_validated
select conname from pg_constraint
where conrelid = 'ledger.audit_logs'::regclass and contype = 'c' and not convalidated order by conname;

-- name: validate
-- Reads all entries once, while appends go on: this lock keeps out only VACUUM and other changes of the table. Where an
-- entry breaks a rule, each constraint is tried by itself, and those that do not hold stay as they are.
set local statement_timeout = 0;
do $$
declare
    names text[];
    name text;
begin
    select array_agg(conname order by conname) into names from pg_constraint
    where conrelid = 'ledger.audit_logs'::regclass and contype = 'c' and not convalidated;
    begin
        execute 'alter table ledger.audit_logs ' || (
            select string_agg(format('validate constraint %I', each), ', ') from unnest(names) as each
        );
        return;
    exception when integrity_constraint_violation or data_exception then
        null;
    end;
    foreach name in array names loop
        begin
            execute format('alter table ledger.audit_logs validate constraint %I', name);
        exception when integrity_constraint_violation or data_exception then
            null;
        end;
    end loop;
end
$$;
