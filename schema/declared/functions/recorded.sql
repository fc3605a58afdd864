-- What an appender is told of what it may not read: in its ledgers only.
create function ledger.recorded(ledger_id int, ids uuid[]) returns table (
    "position" bigint, id uuid, recorded_at timestamptz, occurred_at timestamptz, actor text, actor_type text,
    action text, resource_type text, resource_id text, hash bytea, erased boolean
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_write($1, ledger.caller());
    return query
    select
        entry.position, entry.id, entry.recorded_at, entry.occurred_at, entry.actor, entry.actor_type,
        entry.action, entry.resource_type, entry.resource_id, entry.hash, entry.salt is null
    from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.id = any ($2);
end
$$;

comment on function ledger.recorded is 'The entries of these ids, without their bodies.';
grant execute on function ledger.recorded to ledger_writer;
