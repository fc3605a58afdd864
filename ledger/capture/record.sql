-- name: record
select ledger.record(
    %s, actor => %s, action => %s, resource_type => %s, resource_id => %s, before => %s, after => %s, metadata => %s,
    id => %s, actor_type => %s, occurred_at => %s
);

-- name: record_all
-- One statement for any number of events, in their order. The driver's own parameters take the places of the two names in
-- braces; the second is what `as_json` makes.
select ledger.record(
    {ledger}, actor => event.actor, action => event.action,
    resource_type => event.resource_type, resource_id => event.resource_id,
    before => event.before, after => event.after, metadata => event.metadata,
    id => event.id, actor_type => event.actor_type, occurred_at => event.occurred_at
)
from json_to_recordset({events}) as event (
    actor text, action text, resource_type text, resource_id text, before json, after json, metadata json,
    id uuid, actor_type text, occurred_at timestamptz
);

-- name: receipt
select "position", hash, recorded_at, reason from ledger.receipt(%s, %s);
