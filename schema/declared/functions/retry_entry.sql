-- Takes a skip back, and records that. For the transaction that puts a view in place which has the entry: the order of
-- entries matters, so one that was left out is never applied later.
create function ledger.retry_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    skip ledger.skips;
begin
    perform set_config('ledger.own', 'ledger.entry_retried', true);
    perform ledger.check_reason(entry);
    skip := ledger.skip_of(entry);
    update ledger.skips set retried = entry.position
    where ledger_id = skip.ledger_id and name = skip.name and position = skip.position and retried is null;
    if not found then
        raise exception 'entry % is not skipped by projection %', skip.position, skip.name using errcode = 'LE010';
    end if;
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

grant execute on function ledger.retry_entry to ledger_projector;
