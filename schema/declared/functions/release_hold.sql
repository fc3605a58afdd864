-- Releases the hold on the resource of `entry`, and records it. Returns the entry that says so: `entry`, or that of the
-- last release where nothing is held any more; then nothing is recorded.
create function ledger.release_hold(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done ledger.audit_logs;
begin
    perform set_config('ledger.own', 'ledger.hold_released', true);
    perform ledger.check_reason(entry);
    update ledger.holds set released = entry.position
    where ledger_id = entry.ledger_id and released is null
        and resource_type = entry.resource_type and resource_id = entry.resource_id;
    if found then
        perform ledger.insert_own(entry);
        perform set_config('ledger.own', '', true);
        return entry;
    end if;
    select said.* into done
    from ledger.holds as hold
    join ledger.audit_logs as said on said.ledger_id = hold.ledger_id and said.position = hold.released
    where hold.ledger_id = entry.ledger_id
        and hold.resource_type = entry.resource_type and hold.resource_id = entry.resource_id
    order by hold.released desc limit 1;
    if not found then
        raise exception 'there is no hold on %:%', entry.resource_type, entry.resource_id using errcode = 'LE009';
    end if;
    perform set_config('ledger.own', '', true);
    return done;
end
$$;

grant execute on function ledger.release_hold to ledger_eraser, ledger_admin;
