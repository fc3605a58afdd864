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
-- whoever has ADMIN OPTION on it and lends itself the role for as long as the transaction lasts.
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

-- name: leave_owner
do $$
begin
    reset role;
    if current_setting('ledger.lent', true) = 'on' then
        execute format('revoke ledger_owner from %I', current_user);
        perform set_config('ledger.lent', '', true);
    end if;
end
$$;

-- name: let_rebuild
-- A rebuild makes a schema of its own. Copies of a database lack its privileges, so this is seen to at each migration,
-- by whoever may.
do $$
begin
    if not has_database_privilege('ledger_projector', current_database(), 'create') then
        execute format('grant create on database %I to ledger_projector', current_database());
    end if;
exception when insufficient_privilege then
    null;
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
