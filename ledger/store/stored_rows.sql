-- name: begin
-- Whoever set this database's search_path must not decide which functions and operators are called here.
-- What Postgres prints of definitions depends on the rest. SET takes no snapshot, which a worker is still to be given.
begin isolation level repeatable read read only;
set local search_path = pg_catalog, pg_temp;
set local row_security = on;
set local standard_conforming_strings = on;
set local transform_null_equals = off;
set local quote_all_identifiers = off;
set local array_nulls = on;
set local datestyle = 'ISO, MDY';
set local intervalstyle = postgres;
set local timezone = 'UTC';
set local bytea_output = hex;
set local extra_float_digits = 1;
set local lock_timeout = '60s';
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0

-- name: tail
select position, hash, recorded_at from ledger.tails where ledger_id = %s;

-- name: source
-- Whoever may read the table reads the table; the others, the entries of their ledgers in the view. In the statements
-- below, {} is the one or the other.
select case when has_table_privilege('ledger.audit_logs', 'select') then 'ledger.audit_logs' else 'ledger.entries' end;

-- name: records
select {columns}
from {} where ledger_id = %s and position between %s and %s order by position;

-- name: copy_records
copy (
    select {columns} from {} where ledger_id = {ledger_id} and position between {first} and {last} order by position
) to stdout (format binary);

-- name: newest
select {without_body}
from {} where ledger_id = %s and position between %s and %s order by position desc limit 1;

-- name: next_position
select position from {} where ledger_id = %s and position >= %s order by position limit 1;

-- name: savepoint
savepoint reading

-- name: release
release savepoint reading

-- name: go_back
rollback to savepoint reading;
release savepoint reading

-- name: in_the_table
set local enable_indexscan = off;
set local enable_indexonlyscan = off;
set local enable_bitmapscan = off

-- name: in_the_index
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_sort = off;
set local enable_incremental_sort = off;
set local max_parallel_workers_per_gather = 0

-- name: indexes
-- The usable ones that have every row of a table that this database user may read, and their columns.
select indrelid::regclass::text, indexrelid::regclass::text, columns
from pg_index
join pg_class as class on class.oid = indexrelid join pg_am on pg_am.oid = class.relam and amname = 'btree'
cross join lateral (
    select string_agg(quote_ident(attname), ', ' order by place) as columns
    from unnest(indkey[:indnkeyatts - 1]) with ordinality as key (number, place)
    join pg_attribute on attrelid = indrelid and attnum = number
) as named
where class.relnamespace = 'ledger'::regnamespace and has_table_privilege(indrelid, 'select')
    and indisvalid and indisready and indpred is null and indexprs is null
order by 1, 2;

-- name: count_of
-- In the order of an index, which is then the one that is read. Columns, table and order come from `indexes`.
select count(*) from (select {} from {} {}) as entries;
