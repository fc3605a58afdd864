-- A barrier passes no order on to what is within it: with ORDER BY in it, reading on by position takes the primary key's
-- order as it is, instead of sorting what is left of the ledger for each page.
create view ledger.entries with (security_barrier) as
select
    entry.ledger_id, entry.position, entry.id, entry.recorded_at, entry.occurred_at,
    entry.actor, entry.actor_type, entry.action, entry.resource_type, entry.resource_id,
    entry.before, entry.after, entry.metadata, entry.salt, entry.body_hash, entry.prev_hash, entry.hash
from ledger.audit_logs as entry
where entry.ledger_id = any (array(select readable.ledger_id from ledger.readable))
order by entry.ledger_id, entry.position;
comment on view ledger.entries is 'The entries of the ledgers that the current user may read.';

grant select on ledger.entries to ledger_reader, ledger_projector;
