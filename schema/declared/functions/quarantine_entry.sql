-- Records that the entry at a position does not hold, what was found, and the digests of what stands there: workers go
-- on past it as long as just that stands there and does not hold. Returns the entry that says so: `entry`, or the one of
-- before that says the same; then nothing is recorded. Hashes are the caller's to compute, and the workers' to check.
create function ledger.quarantine_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done ledger.audit_logs;
    chained bytea;
begin
    perform set_config('ledger.own', 'ledger.entry_quarantined', true);
    perform ledger.check_reason(entry);
    if entry.resource_type is distinct from 'ledger.entry' or entry.resource_id !~ '^[1-9][0-9]{0,17}$'
        or (entry.metadata ->> 'hash') !~ '^[0-9a-f]{64}$' is not false
        or coalesce(entry.metadata ->> 'row', '') !~ '^([0-9a-f]{64})?$'
        or coalesce(entry.metadata ->> 'body', '') !~ '^([0-9a-f]{64})?$'
        or coalesce(entry.metadata ->> 'found', '') = ''
    then
        raise exception 'a quarantine names a ledger.entry, what was found, and the digests of what stands there'
            using errcode = 'LE002';
    elsif entry.resource_id::bigint >= entry.position then
        raise exception 'there is no entry % yet: the ledger ends at %', entry.resource_id, entry.position - 1
            using errcode = 'LE006';
    end if;
    -- By which hash the chain goes on is no opinion: a false one would make the entry after it one that does not hold.
    chained := coalesce((
        select after.prev_hash from ledger.audit_logs as after
        where after.ledger_id = entry.ledger_id and after.position = entry.resource_id::bigint + 1
        limit 1
    ), case entry.position - 1 when entry.resource_id::bigint then entry.prev_hash else decode(repeat('00', 32), 'hex') end);
    if decode(entry.metadata ->> 'hash', 'hex') <> chained then
        raise exception 'the chain goes on from entry % by another hash: nothing was recorded', entry.resource_id
            using errcode = 'LE002';
    end if;
    select * into done from ledger.audit_logs as said
    where said.ledger_id = entry.ledger_id and said.resource_type = 'ledger.entry'
        and said.resource_id = entry.resource_id and said.action = 'ledger.entry_quarantined'
    order by said.position desc limit 1;
    if not found or (done.metadata::jsonb - 'reason') is distinct from (entry.metadata::jsonb - 'reason') then
        perform ledger.insert_own(entry);
        done := entry;
    end if;
    perform set_config('ledger.own', '', true);
    return done;
end
$$;
grant execute on function ledger.quarantine_entry to ledger_admin;
