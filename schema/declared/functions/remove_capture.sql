-- Ends the capture of a table, which may be gone. Runs with the rights of its caller, who owns the table.
create function ledger.remove_capture(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found record;
begin
    for found in
        select tgname, tgrelid::regclass as source from pg_trigger
        where tgfoid = 'ledger.capture_rows'::regproc and tgrelid in (select ledger.capture_tree(relation))
    loop
        execute format('drop trigger %I on %s', found.tgname, found.source);
    end loop;
    perform ledger.forget_capture(relation);
end
$$;

grant execute on function ledger.remove_capture to ledger_admin;
