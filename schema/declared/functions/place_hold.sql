-- Places a hold on the resource of `entry`, and records it. Returns the entry that says so: `entry`, or the one of
-- before where the resource is held already; then nothing is recorded.
create function ledger.place_hold(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done ledger.audit_logs;
begin
    perform set_config('ledger.own', 'ledger.hold_placed', true);
    perform ledger.check_reason(entry);
    if entry.resource_type = 'ledger.entry' then
        perform ledger.named_entry(entry);
    end if;
    select said.* into done
    from ledger.holds as hold
    join ledger.audit_logs as said on said.ledger_id = hold.ledger_id and said.position = hold.placed
    where hold.ledger_id = entry.ledger_id and hold.released is null
        and hold.resource_type = entry.resource_type and hold.resource_id = entry.resource_id;
    if found then
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    insert into ledger.holds (ledger_id, resource_type, resource_id, placed)
    values (entry.ledger_id, entry.resource_type, entry.resource_id, entry.position);
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

grant execute on function ledger.place_hold to ledger_eraser, ledger_admin;
