-- Drops what left_rebuilds names, and returns it. Waits for nobody.
create function ledger.clear_rebuilds() returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
    name text;
begin
    for name in select left_name from ledger.left_rebuilds() as left_name loop
        if name ~ '^[a-z][a-z0-9_]*$' and pg_try_advisory_xact_lock(ledger.rebuild_lock(name)) then
            begin
                perform ledger.drop_rebuild(name);
                return next name;
            exception when lock_not_available then
                null;
            end;
        end if;
    end loop;
end
$$;

grant execute on function ledger.clear_rebuilds to ledger_projector, ledger_eraser, ledger_admin;
