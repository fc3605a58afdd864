-- Of a projection further: its hash is the entry's; what it stands still at comes next.
create function ledger.check_checkpoint() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    entry record;
begin
    if new.position = 0 then
        entry := row(decode(repeat('00', 32), 'hex'), '0001-01-01 00:00:00+00'::timestamptz);
    else
        select hash, recorded_at into entry from ledger.audit_logs
        where ledger_id = new.ledger_id and position = new.position;
    end if;
    if (new.hash, new.recorded_at) is distinct from entry
        or new.epoch not between 1 and (select epoch from ledger.tails where ledger_id = new.ledger_id)
        or new.version < 0
    then
        raise exception 'projection % is not at an entry of ledger %: position %', new.name, new.ledger_id, new.position
            using errcode = 'LE020';
    end if;
    if new.failed_position is not null and (
        new.failed_position < 1 or new.failed_tries < 0 or new.failing_since < '0001-01-01'
        or new.failed_position > (select position from ledger.tails where ledger_id = new.ledger_id)
    ) then
        raise exception 'projection % cannot stand still at entry %', new.name, new.failed_position
            using errcode = 'LE020';
    end if;
    if new.failing_since > clock_timestamp() then
        new.failing_since := clock_timestamp();
    end if;
    return new;
end
$$;
