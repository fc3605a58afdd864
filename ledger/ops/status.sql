-- name: ledgers
select ledger.ledger_id, ledger.name, tail.epoch, tail.position, tail.hash, tail.recorded_at
from ledger.ledgers as ledger left join ledger.tails as tail using (ledger_id) order by ledger.name;

-- name: projections
select
    ledger_id, name, position, version, building,
    building and name in (select ledger.left_rebuilds()), failed_position, failed_error,
    -- Somebody may have written a time by hand that no datetime can hold.
    case when failing_since between '1970-01-01' and clock_timestamp() then failing_since
        when failing_since is not null then clock_timestamp() end,
    case when isfinite(failing_since) then extract(epoch from clock_timestamp() - failing_since) else 0 end::float8,
    failed_tries,
    (
        select count(*) from ledger.skips as skip
        where skip.ledger_id = view.ledger_id and skip.name = view.name and skip.retried is null
    )::int
from ledger.projections as view order by ledger_id, name, building;

-- name: subscriptions
select ledger_id, name, position from ledger.subscriptions order by ledger_id, name;

-- name: outbox
-- Counted up to a hundred thousand, which is all that there is to say of more.
select
    known.ledger_id,
    (select count(*) from (select from ledger.outbox where ledger_id = known.ledger_id limit 100000) as waiting)::int,
    (
        select extract(epoch from clock_timestamp() - recorded_at)::float8
        from ledger.outbox where ledger_id = known.ledger_id order by seq limit 1
    ),
    (select count(*) from ledger.rejected where ledger_id = known.ledger_id)::int
from ledger.ledgers as known;

-- name: verifications
select distinct on (ledger_id) ledger_id, verified_at, first, last, head, findings
from ledger.verifications where verified_at between '1970-01-01' and clock_timestamp() + interval '1 minute'
order by ledger_id, verified_at desc;

-- name: holders
-- Who holds a tail: the xmax of a locked row is the transaction that locked it, and that transaction holds a lock on
-- its own number. Takes no lock and needs no right but to read the tails; what a session ran is shown to superusers,
-- pg_read_all_stats and its own user only. Who waits stands in line for the tail (advisory; store/ledgers.sql, `queue`),
-- for the row (tuple) or for the transaction.
with locks as materialized (
    select locktype, database, relation, page, tuple, transactionid, classid, objid, pid, granted
    from pg_locks where locktype in ('transactionid', 'tuple', 'advisory')
)
select
    tail.ledger_id, tail.xmax::text, held.pid,
    coalesce(prepared.owner, activity.usename)::text,
    activity.application_name, host(activity.client_addr),
    coalesce(prepared.prepared, activity.xact_start),
    extract(epoch from clock_timestamp() - coalesce(prepared.prepared, activity.xact_start))::float8,
    activity.state || case when activity.wait_event = 'SyncRep' then ', waits for a synchronous standby' else '' end,
    activity.query, prepared.gid,
    (
        select count(distinct line.pid) from locks as line
        where not line.granted and (
            line.transactionid = tail.xmax
            or (
                line.database = (select oid from pg_database where datname = current_database())
                and (
                    line.locktype = 'advisory' and line.classid = 710183014 and line.objid = tail.ledger_id::oid
                    or line.relation = 'ledger.tails'::regclass
                    and format('(%%s,%%s)', line.page, line.tuple) = tail.ctid::text
                )
            )
        )
    )::int
from ledger.tails as tail
join locks as held on held.granted and held.transactionid = tail.xmax
left join pg_stat_activity as activity on activity.pid = held.pid
left join pg_prepared_xacts as prepared on prepared.transaction = tail.xmax
order by tail.ledger_id;

-- name: waiting
-- How long the entry at this position has been there, in seconds.
select extract(epoch from clock_timestamp() - recorded_at)::float8
from ledger.entries where ledger_id = %s and position = %s;
