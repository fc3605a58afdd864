-- The rest of what makes an own entry: its action is the function's, its reason is said, and it says nothing else.
-- Runs with the rights of its caller: called by anybody else, its INSERT is refused like any other.
create function ledger.insert_own(entry ledger.audit_logs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if entry.action is distinct from current_setting('ledger.own', true) then
        raise exception 'this function does not record the action %', entry.action using errcode = 'LE002';
    end if;
    insert into ledger.audit_logs select entry.*;
end
$$;
