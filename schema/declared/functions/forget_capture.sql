-- Forgets how a table is captured, on the record. For ledger.remove_capture.
create function ledger.forget_capture(relation regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    old ledger.captures;
begin
    delete from ledger.captures as known where known.relation = relation returning * into old;
    if not found then
        raise exception '% is not captured', relation using errcode = 'LE013';
    end if;
    delete from ledger.capture_statements as known where known.relation in (select ledger.capture_tree(relation));
    perform ledger.note_capture('capture.removed', old.ledger_id, relation, old, null);
end
$$;

grant execute on function ledger.forget_capture to ledger_admin;
