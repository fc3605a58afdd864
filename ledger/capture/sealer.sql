-- name: waiting
-- One look for all ledgers.
select ledger_id, name from ledger.ledgers as known
where exists (
    select from ledger.outbox as waiting
    where waiting.ledger_id = known.ledger_id
        and waiting.seq > coalesce(nullif(current_setting('ledger.gone_' || known.ledger_id, true), ''), '0')::bigint
)
order by ledger_id;

-- name: pass_over
select ledger.pass_over_sealed(%s);

-- name: next
-- In the order of insertion, and no more than comes to so many bytes, but for the first. Each row says how many there are
-- of those that were looked at.
select
    seq, id, named, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before::text, after::text, metadata::text, there
from (
    select *, count(*) over () as there, sum(size) over (order by seq) as bytes
    from (
        select *, octet_length(concat(before, after, metadata)) as size
        from ledger.outbox
        where ledger_id = %s and seq > coalesce(nullif(current_setting(%s, true), ''), '0')::bigint
        order by seq limit %s
    ) as first
) as counted
where bytes - size < %s
order by seq;

-- name: take
-- With the tail locked: what another sealer has taken meanwhile is not returned.
delete from ledger.outbox where ledger_id = %s and seq = any(%s) returning seq;

-- name: set_aside
insert into ledger.rejected (
    seq, id, named, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before, after, metadata, ledger_id, reason
) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);

-- name: doze
-- NULL where transactions may be prepared: one that has notified could not be.
select case when current_setting('max_prepared_transactions')::int = 0 then pg_try_advisory_lock(710183015, 0) end;

-- name: wake
select pg_advisory_unlock(710183015, 0);
