-- Ends the capture of a table, which may be gone; partitions that were detached since still have its triggers. Runs with
-- the rights of its caller, who owns the table.
create function ledger.remove_capture(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
    id constant int := (select capture_id from ledger.begin_backfill(relation));
    found record;
begin
    for found in
        select tgname, tgrelid::regclass as source from pg_trigger
        where tgfoid = 'ledger.capture_rows'::regproc and tgargs = convert_to(id::text, 'UTF8') || '\x00'
    loop
        execute format('drop trigger %I on %s', found.tgname, found.source);
    end loop;
    perform ledger.forget_capture(relation);
end
$$;

grant execute on function ledger.remove_capture to ledger_admin;
