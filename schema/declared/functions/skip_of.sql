-- The resource of an entry about a skip is a ledger.skip with the id `<projection>:<position>`.
create function ledger.skip_of(entry ledger.audit_logs) returns ledger.skips
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    named constant text[] := regexp_match(entry.resource_id, '^([a-z][a-z0-9_]*):([1-9][0-9]{0,17})$');
begin
    if entry.resource_type is distinct from 'ledger.skip' or named is null then
        raise exception 'an entry % names a ledger.skip, as <projection>:<position>, not %:%',
            entry.action, entry.resource_type, entry.resource_id using errcode = 'LE002';
    end if;
    return row(entry.ledger_id, named[1], named[2]::bigint, entry.position, null)::ledger.skips;
end
$$;
