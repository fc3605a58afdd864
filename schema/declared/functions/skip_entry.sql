-- Leaves an entry out of the projection that stands still at it, and records that. Returns the entry that says so:
-- `entry`, or the one of before where it is skipped already; then nothing is recorded.
create function ledger.skip_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    skip ledger.skips;
    target_action text;
    done ledger.audit_logs;
begin
    perform set_config('ledger.own', 'ledger.entry_skipped', true);
    perform ledger.check_reason(entry);
    skip := ledger.skip_of(entry);
    perform ledger.lock_projection(skip.ledger_id, skip.name);
    select said.* into done
    from ledger.skips as before
    join ledger.audit_logs as said on said.ledger_id = before.ledger_id and said.position = before.skipped
    where before.ledger_id = skip.ledger_id and before.name = skip.name and before.position = skip.position
        and before.retried is null;
    if found then
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    select action into target_action from ledger.audit_logs
    where ledger_id = skip.ledger_id and position = skip.position;
    if not found then
        raise exception 'there is no entry %', skip.position using errcode = 'LE006';
    elsif target_action = 'ledger.entry_erased' then
        -- The view would keep what it made of the erased body.
        raise exception 'entry % is an erasure, which no view may leave out', skip.position using errcode = 'LE010';
    elsif not exists (
        select from ledger.projections
        where ledger_id = skip.ledger_id and name = skip.name and not building and failed_position = skip.position
    ) then
        raise exception 'projection % does not stand still at entry %', skip.name, skip.position using errcode = 'LE010';
    elsif exists (
        select from ledger.projections
        where ledger_id = skip.ledger_id and name = skip.name and building and position >= skip.position
    ) then
        raise exception 'a rebuild of projection % has applied entry %: let it end, or replay it anew',
            skip.name, skip.position using errcode = 'LE010';
    end if;
    insert into ledger.skips select skip.*;
    update ledger.projections
    set failed_position = null, failed_error = null, failing_since = null, failed_tries = null
    where ledger_id = skip.ledger_id and name = skip.name and not building;
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

grant execute on function ledger.skip_entry to ledger_projector, ledger_admin;
