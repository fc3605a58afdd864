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

-- name: export_snapshot
select pg_export_snapshot();

-- name: import_snapshot
-- The snapshot's name comes from export_snapshot; this statement takes no parameters.
set transaction snapshot '{}';

-- name: tail
select position, hash, recorded_at from ledger.tails where ledger_id = %s;

-- name: source
-- Whoever may read the table reads the table; the others, the entries of their ledgers in the view. In the statements
-- below, {} is the one or the other.
select case when has_table_privilege('ledger.audit_logs', 'select') then 'ledger.audit_logs' else 'ledger.entries' end;

-- name: records
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before, after, metadata, salt, body_hash, prev_hash, hash
from {} where ledger_id = %s and position between %s and %s order by position;

-- name: newest
-- Without its body, which may be damaged where the rest is not.
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    null::json, null::json, null::json, null::bytea, body_hash, prev_hash, hash
from {} where ledger_id = %s and position between %s and %s order by position desc limit 1;

-- name: next_position
select position from {} where ledger_id = %s and position >= %s order by position limit 1;

-- name: erasures
-- The newest erasure of each of these entries.
select resource_id, max(position) from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
group by resource_id;

-- name: first_erasures
-- The first erasure of each of these entries, after that entry.
select resource_id, min(position) filter (where position > resource_id::bigint) from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
group by resource_id;

-- name: targets
select position, action, resource_type, resource_id, salt is not null from {}
where ledger_id = %s and position = any(%s::bigint[]);

-- name: standing
-- What was held and left out at a position, as the entries that began it.
select placed, 'ledger.hold_placed', resource_type, resource_id from ledger.holds
where ledger_id = %s and %s between placed + 1 and coalesce(released, 9223372036854775807)
union all
select skipped, 'ledger.entry_skipped', 'ledger.skip', name || ':' || position from ledger.skips
where ledger_id = %s and %s between skipped + 1 and coalesce(retried, 9223372036854775807);
-- name: mismatched
-- The erasures of bodies that were not those of their envelopes: these entries', and no others.
select resource_id, position, actor, metadata ->> 'mismatched' from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
    and position > resource_id::bigint and metadata ->> 'mismatched' is not null
order by position;

-- name: false_marks
-- What stands in the tables of legal holds and of skips, and no entries say.
with kept (what, resource_type, resource_id, began, ended, begins, ends) as (
    select 'ledger.holds', resource_type, resource_id, placed, released, 'ledger.hold_placed', 'ledger.hold_released'
    from ledger.holds where ledger_id = %s
    union all
    select 'ledger.skips', 'ledger.skip', name || ':' || position, skipped, retried,
        'ledger.entry_skipped', 'ledger.entry_retried'
    from ledger.skips where ledger_id = %s
)
select kept.what, kept.began from kept
where not (
    exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.began and entry.action = kept.begins
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    )
    and (kept.ended is null or exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.ended and entry.action = kept.ends
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    ))
)
order by kept.began limit %s;

-- name: lost_marks
-- What these entries say of legal holds and of skips, and the tables do not.
select said.position, case when said.action ^@ 'ledger.hold_' then 'ledger.holds' else 'ledger.skips' end
from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) as said (position, action, resource_type, resource_id)
where not exists (
    select from ledger.holds as hold
    where hold.ledger_id = %s and hold.resource_type = said.resource_type and hold.resource_id = said.resource_id
        and said.position = case said.action
            when 'ledger.hold_placed' then hold.placed
            when 'ledger.hold_released' then hold.released
        end
) and not exists (
    select from ledger.skips as skip
    where skip.ledger_id = %s and said.resource_type = 'ledger.skip'
        and said.resource_id = skip.name || ':' || skip.position
        and said.position = case said.action
            when 'ledger.entry_skipped' then skip.skipped
            when 'ledger.entry_retried' then skip.retried
        end
);

-- name: misplaced
(select position from {} where ledger_id = %s and position < 1 order by position limit %s)
union all
(select position from {} where ledger_id = %s and position is null limit 1);

-- name: orphans
-- Goes from one ledger_id to the next by the index, however many entries each has.
with recursive present (ledger_id) as (
    select min(ledger_id) from ledger.audit_logs
    union all
    select (select min(entry.ledger_id) from ledger.audit_logs as entry where entry.ledger_id > present.ledger_id)
    from present where present.ledger_id is not null
)
select
    present.ledger_id,
    (select min(entry.position) from ledger.audit_logs as entry where entry.ledger_id = present.ledger_id)
from present
where present.ledger_id is not null
    and not exists (select from ledger.ledgers as ledger where ledger.ledger_id = present.ledger_id)
order by present.ledger_id limit 1000;

-- name: record
insert into ledger.verifications (ledger_id, first, last, head, findings) values (%s, %s, %s, %s, %s)
on conflict do nothing;
