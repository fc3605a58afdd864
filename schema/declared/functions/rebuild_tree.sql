-- Removes all tiles, which the next signature makes again from the entries, and the checkpoints of the sizes that
-- `entry` has in its metadata, and records `entry`. That it says what stood there is for its writer; that this is so, here.
create function ledger.rebuild_tree(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed jsonb;
begin
    perform set_config('ledger.own', 'ledger.tree_rebuilt', true);
    perform ledger.check_reason(entry);
    if entry.resource_type is distinct from 'ledger.tree' then
        raise exception 'a rebuilt tree is a ledger.tree, not a %', entry.resource_type using errcode = 'LE002';
    end if;
    perform pg_advisory_xact_lock(710183013, entry.ledger_id);
    if entry.metadata -> 'tree' is null
        or ledger.tree_stands(entry.ledger_id, entry.metadata::jsonb -> 'sizes') <> (entry.metadata -> 'tree')::jsonb
    then
        raise exception 'the tree has changed meanwhile: try again' using errcode = 'LE020';
    end if;
    delete from ledger.tiles where ledger_id = entry.ledger_id;
    delete from ledger.checkpoints where ledger_id = entry.ledger_id
        and size in (select jsonb_array_elements_text(entry.metadata::jsonb -> 'sizes')::bigint);
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

grant execute on function ledger.rebuild_tree to ledger_admin;
