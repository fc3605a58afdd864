-- name: server
select
    current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
    current_setting('synchronous_standby_names') <> '';

-- name: commits_that_wait
-- For a synchronous standby: how many, and the longest in seconds. Whose they are is shown to superusers,
-- pg_read_all_stats and their own user only.
select count(*)::int, coalesce(max(extract(epoch from clock_timestamp() - query_start)), 0)::float8
from pg_stat_activity where datname = current_database() and wait_event = 'SyncRep';

-- name: settings
select name, setting from pg_settings where name = any(%s::text[]);

-- name: settings_of_others
-- What `alter role` and `alter database` set, where it counts in this database.
select
    quote_ident(role.rolname), quote_ident(database.datname), unnest(made.setconfig)
from pg_db_role_setting as made
left join pg_roles as role on role.oid = made.setrole
left join pg_database as database on database.oid = made.setdatabase
where made.setdatabase in (0, (select oid from pg_database where datname = current_database()));

-- name: replication
-- Logical replication of the ledger's tables: its name, whether it comes in, and whether triggers will refuse its rows.
select subname, true, coalesce(bool_or(tgenabled in ('A', 'R')), false)
from pg_subscription
join pg_subscription_rel on srsubid = pg_subscription.oid
join pg_class as class on class.oid = srrelid
left join pg_trigger on tgrelid = srrelid and not tgisinternal
where relnamespace = to_regnamespace('ledger')
group by subname
union all
select distinct pubname, false, false from pg_publication_tables where schemaname = 'ledger'
order by 2, 1;

-- name: clock
select extract(epoch from clock_timestamp())::float8;

-- name: captures
select relation, problem from ledger.capture_drift() where broken;
