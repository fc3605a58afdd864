-- An entry that the resource_id of another names, as {"resource_type": "ledger.entry"} does.
create function ledger.named_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    named ledger.audit_logs;
begin
    if entry.resource_id ~ '^[1-9][0-9]{0,17}$' then
        select * into named from ledger.audit_logs
        where ledger_id = entry.ledger_id and position = entry.resource_id::bigint;
    end if;
    if named.position is null then
        raise exception 'there is no entry %', entry.resource_id using errcode = 'LE006';
    end if;
    return named;
end
$$;
