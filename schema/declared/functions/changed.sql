create function ledger.changed(ledger_id int, resource_type text, resource_id text, since bigint) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_write($1, ledger.caller());
    return (
        select max(entry.position) from ledger.audit_logs as entry
        where entry.ledger_id = $1 and entry.resource_type = $2 and entry.resource_id = $3 and entry.position > $4
    );
end
$$;

comment on function ledger.changed is 'The newest position after `since` at which something was recorded of a resource.';
grant execute on function ledger.changed to ledger_writer;
