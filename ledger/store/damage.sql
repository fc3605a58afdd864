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
