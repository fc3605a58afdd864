-- name: record
select ledger.record(
    %s, actor => %s, action => %s, resource_type => %s, resource_id => %s, before => %s, after => %s, metadata => %s,
    id => %s, actor_type => %s, occurred_at => %s
);

-- name: receipt
select "position", hash, recorded_at, reason from ledger.receipt(%s, %s);
