-- What entries that were erased are compared with. {} is where entries are read from.

-- name: erasures
-- The newest erasure of each of these entries.
select resource_id, max(position) from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
group by resource_id;

-- name: mismatched
-- The erasures of bodies that were not those of their envelopes: these entries', and no others.
select resource_id, position, actor, metadata ->> 'mismatched' from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
    and position > resource_id::bigint and metadata ->> 'mismatched' is not null
order by position;
