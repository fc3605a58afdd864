-- For auditors with nothing but SQL: the bytes whose BLAKE3 is the hash.
create view ledger.envelopes with (security_barrier) as
select
    entry.ledger_id,
    entry.position,
    '{"action":' || to_json(entry.action)::text
    || ',"actor":' || to_json(entry.actor)::text
    || ',"actor_type":' || to_json(entry.actor_type)::text
    || ',"body":"' || encode(entry.body_hash, 'hex')
    || '","id":"' || entry.id::text
    || '","ledger":"' || (select ledger.name from ledger.ledgers as ledger where ledger.ledger_id = entry.ledger_id)
    || '","occurred_at":"' || to_char(entry.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","position":' || entry.position::text
    || ',"prev":"' || encode(entry.prev_hash, 'hex')
    || '","recorded_at":"' || to_char(entry.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","resource_id":' || coalesce(to_json(entry.resource_id)::text, 'null')
    || ',"resource_type":' || coalesce(to_json(entry.resource_type)::text, 'null')
    || ',"v":1}' as envelope,
    entry.hash
from ledger.entries as entry;

grant select on ledger.envelopes to ledger_reader, ledger_projector;
