-- Removes the body of the entry that `erasure` names, and records `erasure`. Returns the entry that says so: `erasure`,
-- or the one of before where the body was erased already; then nothing is recorded. A body that is not the one that the
-- envelope names is evidence: it goes only where the erasure says what stood there.
create function ledger.erase_entry(erasure ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target ledger.audit_logs;
    done ledger.audit_logs;
    held bigint;
    digest text;
begin
    perform set_config('ledger.own', 'ledger.entry_erased', true);
    perform ledger.check_reason(erasure);
    if erasure.resource_type is distinct from 'ledger.entry' then
        raise exception 'an erasure names a ledger.entry, not a %', erasure.resource_type using errcode = 'LE002';
    end if;
    target := ledger.named_entry(erasure);
    if target.action ^@ 'ledger.' then
        raise exception 'entry % is the ledger''s own (%): such entries cannot be erased',
            target.position, target.action using errcode = 'LE007';
    end if;
    if target.salt is null then
        select * into done from ledger.audit_logs
        where ledger_id = target.ledger_id and resource_type = 'ledger.entry' and resource_id = target.position::text
            and action = 'ledger.entry_erased' and position > target.position
        order by position limit 1;
        if done.position is null then
            raise exception 'the body of entry % is gone, and no entry says who erased it: verify the ledger',
                target.position using errcode = 'LE007';
        end if;
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    select placed into held from ledger.holds
    where ledger_id = target.ledger_id and released is null
        and (resource_type, resource_id) in (
            ('ledger.entry', target.position::text), (target.resource_type, target.resource_id)
        )
    limit 1;
    if held is not null then
        raise exception 'entry % is under the legal hold of entry %: nothing was erased', target.position, held
            using errcode = 'LE008';
    end if;
    digest := encode(ledger.hash_of_body(target), 'hex');
    if decode(digest, 'hex') is distinct from target.body_hash
        and erasure.metadata ->> 'mismatched' is distinct from digest
    then
        raise exception 'the body of entry % is not the one that its envelope names: nothing was erased',
            target.position using errcode = 'LE011';
    elsif decode(digest, 'hex') = target.body_hash and erasure.metadata ->> 'mismatched' is not null then
        raise exception 'the body of entry % is the one that its envelope names', target.position
            using errcode = 'LE002';
    end if;
    update ledger.audit_logs set before = null, after = null, metadata = null, salt = null
    where ledger_id = target.ledger_id and position = target.position;
    perform ledger.insert_own(erasure);
    perform set_config('ledger.own', '', true);
    return erasure;
end
$$;

grant execute on function ledger.erase_entry to ledger_eraser;
