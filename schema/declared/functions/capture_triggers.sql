-- The triggers that capture a table has to have, on it and its partitions, and what is wrong with each; NULL if nothing.
-- definition: for format() with the name, the table and the capture's id. ORIGIN, not ALWAYS: the worker of a logical
-- replication that applies changes captured at their origin would record them again.
create function ledger.capture_triggers(root regclass) returns table (source regclass, name text, definition text, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
begin
    return query
    select tree.source, wanted.name, wanted.definition, case
        when found.oid is null then 'is missing'
        when found.tgenabled not in ('O', 'A') then 'is disabled'
        when (found.tgfoid, found.tgtype, found.tgargs, found.tgnargs, found.tgattr::text)
                <> ('ledger.capture_rows'::regproc, wanted.type, convert_to(capture.capture_id::text, 'UTF8') || '\x00', 1, '')
            or found.tgqual is not null or (found.tgoldtable, found.tgnewtable) is distinct from (wanted.old, wanted.new)
            then 'is not the one of the capture'
    end
    from ledger.captures as capture
    cross join ledger.capture_tree(root) as tree (source)
    cross join (values
        ('ledger_capture_insert', 4::int2, null::name, 'new_rows'::name,
            'create trigger %I after insert on %s referencing new table as new_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_update', 16, 'old_rows', 'new_rows',
            'create trigger %I after update on %s referencing old table as old_rows new table as new_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_delete', 8, 'old_rows', null,
            'create trigger %I after delete on %s referencing old table as old_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_truncate', 34, null, null,
            'create trigger %I before truncate on %s for each statement execute function ledger.capture_rows(%L)')
    ) as wanted (name, type, old, new, definition)
    left join pg_trigger as found on found.tgrelid = tree.source and found.tgname = wanted.name
    where capture.relation = root;
end
$$;

grant execute on function ledger.capture_triggers to ledger_admin;
