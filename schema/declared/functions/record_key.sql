-- Records that a signing key takes another's place. Returns the entry that says so, which is there already when it is
-- said again with the same id.
create function ledger.record_key(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done ledger.audit_logs;
begin
    perform set_config('ledger.own', 'ledger.key_rotated', true);
    select * into done from ledger.audit_logs
    where ledger_id = entry.ledger_id and id = entry.id and action = 'ledger.key_rotated';
    if found then
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    if entry.resource_type is distinct from 'ledger.key' then
        raise exception 'a rotation names a ledger.key, not a %', entry.resource_type using errcode = 'LE002';
    end if;
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

grant execute on function ledger.record_key to ledger_projector, ledger_admin;
